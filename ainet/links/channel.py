"""Channels: byte streams between two nodes that outlive the links that carry them.

Each end counts the bytes of each direction from the beginning. A sender keeps what the other end has not taken yet;
when a new link replaces a lost one, both ends say how far they got, and the senders go on from there. Delivery is
therefore exact, whatever happened to the link; only a pause of more than `Timing.resume` ends a channel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from ainet.errors import AinetError, PeerUnreachable, ProtocolError
from ainet.links.frames import ChannelAck, ChannelData, ChannelEnd, ChannelReset, ChannelResume, OpenChannel
from ainet.timing import TIMING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ainet.links.frames import ChannelFrame, Target
    from ainet.links.link import PeerLink

#: Bytes that may be on their way: the sender keeps as many for a replay, the receiver as many to be read.
WINDOW = 1024 * 1024
#: Bytes of one frame; between two of them other channels and requests have their turn.
PIECE = 32 * 1024


class Channel:
    """One end of a byte stream to another node; a `Carrier`.

    Parameters
    ----------
    number
        Chosen at random by the end that opened it.
    peer_id
        The other node.
    on_end
        Called with the channel when nothing of it is left.
    target
        The target of the channel, at the end that opened it; None at the other one.
    resume
        Seconds that it waits for a new link.
    """

    local_host = ""

    def __init__(
        self,
        number: int,
        peer_id: str,
        on_end: Callable[[Channel], None],
        target: Target | None = None,
        *,
        resume: float = TIMING.resume,
    ) -> None:
        self._resume = resume
        self.number = number
        self.peer_id = peer_id
        #: Why the channel ended before its time.
        self.error: AinetError | None = None
        self.bytes_sent = self.bytes_received = 0
        self._on_end = on_end
        self._target = target
        self._confirmed = target is None
        self._link: PeerLink | None = None
        self._offered: PeerLink | None = None  # the link on which the other end was told how far we got
        self._expiry: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        # Sending: `_kept` are the bytes from `_taken` on, which the other end has not taken; `_sent` is how far we are.
        self._kept = bytearray()
        self._taken = self._sent = 0
        self._finished = self._end_sent = self._end_taken = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        # Receiving: `_arrived` are the bytes before `_received` that nobody has read, from `_read` on.
        self._arrived: deque[bytes] = deque()
        self._received = self._read = self._acknowledged = 0
        self._end_received = False
        self._readable = asyncio.Event()
        self._sender = asyncio.create_task(self._send_all(), name=f"channel to {peer_id[:8]}")

    # The carrier

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self._taken + len(self._kept) - self._sent

    @property
    def waiting(self) -> bool:
        """Whether no link carries it at the moment."""
        return self._link is None

    @property
    def closed(self) -> bool:
        """Whether nothing is left of the channel."""
        return self._gone.is_set()

    async def read(self) -> bytes:
        """Return the next bytes; none at the end.

        Raises
        ------
        ConnectionResetError
            The channel was cut, or was without a link for too long.
        """
        while not self._arrived:
            if self.error is not None:
                raise ConnectionResetError(self.error.message)
            if self._end_received or self.closed:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = self._arrived.popleft()
        self._read += len(data)
        if self._read - self._acknowledged >= WINDOW // 4:
            self._acknowledge()
        return data

    def write(self, data: bytes) -> None:
        """Send `data`, soon."""
        if self._finished or self.closed:
            return  # as a socket would, it leaves the news to whoever reads
        self._kept += data
        if len(self._kept) >= WINDOW:
            self._room.clear()
        self._wake.set()

    async def drain(self) -> None:
        """Wait until less than `WINDOW` bytes wait to be taken; raises `ConnectionResetError`."""
        await self._room.wait()
        if self.error is not None:
            raise ConnectionResetError(self.error.message)

    def write_eof(self) -> None:
        """Say that nothing more will be written."""
        self._finished = True
        self._wake.set()

    async def close(self) -> None:
        """Return when the other end has taken everything, and has said everything."""
        self.write_eof()
        await self.wait_closed()

    def cut(self) -> None:
        """Close at once, here and at the other end."""
        if not self.closed:
            self.reset(PeerUnreachable("The other end closed the channel."), tell=True)

    async def wait_closed(self) -> None:
        """Wait until nothing is left of the channel."""
        await self._gone.wait()
        await asyncio.gather(self._sender, return_exceptions=True)

    # Links

    def attach(self, link: PeerLink) -> None:
        """Go on over `link`, once the other end has said how far it got."""
        opening = None if self._confirmed else self._target
        if opening is not None:
            link.send_channel_frame(OpenChannel(self.number, opening))
        self._offered = link
        link.send_channel_frame(ChannelResume(self.number, self._received + self._end_received))
        if opening is not None:
            self._carry_on(link, 0)

    def detach(self, link: PeerLink) -> None:
        """Note that `link` is lost: the channel waits for another one."""
        if self._link is link or self._link is None:
            self._link = None
            if self._expiry is None and not self.closed:
                loop = asyncio.get_running_loop()
                words = f"There was no connection for {self._resume:g} seconds."
                self._expiry = loop.call_later(self._resume, lambda: self.reset(PeerUnreachable(words), tell=True))

    def receive(self, link: PeerLink, frame: ChannelFrame) -> None:
        """Act on what the other end says; raises `ProtocolError` when it makes no sense."""
        self._confirmed = True
        match frame:
            case ChannelData():
                self._take_data(frame)
            case ChannelAck():
                self._take_ack(frame.offset)
            case ChannelEnd():
                self._take_end(frame.offset)
            case ChannelResume():
                self._take_resume(link, frame.offset)
            case ChannelReset():
                self.reset(frame.to_error(), tell=False)
            case OpenChannel():
                pass  # said again, as the answer was lost; the resume that follows says the rest

    def reset(self, error: AinetError, *, tell: bool) -> None:
        """End the channel because of `error`; whoever reads or writes learns it."""
        if self.closed:
            return
        if self._finished and self._end_received:
            self._end()  # all was said; only the word that it arrived was lost
            return
        self.error = error
        if tell and (link := self._link or self._offered) is not None:
            link.send_channel_frame(ChannelReset.from_error(self.number, error))
        self._arrived.clear()
        self._end()

    def _end(self) -> None:
        self._gone.set()
        self._sender.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        self._kept.clear()
        self._room.set()
        self._readable.set()
        self._on_end(self)

    def _carry_on(self, link: PeerLink, offset: int) -> None:
        self._link = link
        self._sent, self._end_sent = offset, False
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._wake.set()

    def _take_data(self, frame: ChannelData) -> None:
        end = frame.offset + len(frame.data)
        if frame.offset > self._received or (self._end_received and end > self._received):
            raise ProtocolError(f"Bytes of a channel are missing: {self._received} came before, then {frame.offset}.")
        fresh = frame.data[self._received - frame.offset :] if end > self._received else b""
        if not fresh:
            return  # they came over the link before, too
        if end - self._read > WINDOW:
            raise ProtocolError("More bytes of a channel came than may be on their way.")
        self._arrived.append(fresh)
        self._received = end
        self.bytes_received = end
        self._readable.set()

    def _take_ack(self, offset: int) -> None:
        total = self._taken + len(self._kept)
        if offset > total + self._finished:
            raise ProtocolError("Bytes of a channel were acknowledged that were never sent.")
        taken = min(offset, total)
        if taken > self._taken:
            del self._kept[: taken - self._taken]
            self._taken = taken
            self._sent = max(self._sent, taken)
        if len(self._kept) < WINDOW:
            self._room.set()
        self._end_taken = offset > total
        self._wake.set()
        self._settle()

    def _take_end(self, offset: int) -> None:
        if offset != self._received:
            raise ProtocolError(f"A channel ended after {offset} bytes, of which {self._received} came.")
        self._end_received = True
        self._readable.set()
        self._acknowledge()
        self._settle()

    def _settle(self) -> None:
        if self._end_received and self._end_taken:
            self._end()

    def _take_resume(self, link: PeerLink, offset: int) -> None:
        total = self._taken + len(self._kept)
        if offset > total + self._finished:
            self.reset(PeerUnreachable("The other end lost what was on its way."), tell=True)
            return
        if self._offered is not link:
            self.attach(link)
        # What the other end said before a later acknowledgement overtook it on the older link is out of date.
        self._carry_on(link, min(max(offset, self._taken), total))
        self._acknowledge()

    def _acknowledge(self) -> None:
        self._acknowledged = self._read
        if self._link is not None:
            # The end counts as one byte more; it is taken as soon as everything before it has come.
            offset = self._received + 1 if self._end_received else self._read
            self._link.send_channel_frame(ChannelAck(self.number, offset))

    async def _send_all(self) -> None:
        while True:
            self._wake.clear()
            link, ready = self._link, min(self._taken + len(self._kept), self._taken + WINDOW) - self._sent
            try:
                if link is None or link.closed.is_set():
                    await self._wake.wait()
                elif ready > 0:
                    begin = self._sent - self._taken
                    data = bytes(self._kept[begin : begin + min(ready, PIECE)])
                    offset, self._sent = self._sent, self._sent + len(data)
                    self.bytes_sent = max(self.bytes_sent, self._sent)
                    await link.send(ChannelData(self.number, offset, data))
                elif self._finished and not self._end_sent and self._sent == self._taken + len(self._kept):
                    self._end_sent = True
                    await link.send(ChannelEnd(self.number, self._sent))
                else:
                    await self._wake.wait()
            except AinetError:
                if self._link is link:
                    self._link = None  # it is closed; the next one says from where to go on
