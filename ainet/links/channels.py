"""The channels of this node: opened here, or by other members; and what they lead to."""

from __future__ import annotations

import asyncio
import functools
import secrets
from typing import TYPE_CHECKING

from ainet.errors import AinetError, Busy, NotFound, PeerUnreachable, ProtocolError, Refused
from ainet.links.channel import Channel
from ainet.links.frames import ChannelReset, OpenChannel, ToLink, ToNode, ToPort
from ainet.signals import Signal
from ainet.tasks import Tasks
from ainet.timing import TIMING, Timing
from ainet.wire.carrier import dial

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    from ainet.links.frames import ChannelFrame, Target
    from ainet.links.link import PeerLink
    from ainet.wire.carrier import Carrier

MAX_CHANNELS = 256  # with one peer


class Channels:
    """Every channel of this node, by peer.

    Parameters
    ----------
    linked
        Returns an open link to a member.
    accept
        Greets whoever wants a link over a carrier, relayed by the member at the other end of a link.
    log
        For channels that are refused.
    """

    def __init__(
        self,
        linked: Callable[[str], PeerLink | None],
        accept: Callable[[Carrier, PeerLink, str], None],
        log: logging.Logger,
        *,
        timing: Timing = TIMING,
    ) -> None:
        self._timing = timing
        self._linked = linked
        self._accept = accept
        self._log = log
        self._channels: dict[str, dict[int, Channel]] = {}
        self._exposed: dict[int, str] = {}
        #: Tells how many bytes were handed on for a peer (node id), to or from another one.
        self.relayed: Signal[[str, int]] = Signal("bytes were handed on", log)
        self._tasks = Tasks("A channel led nowhere", log)

    def expose(self, host: str, port: int) -> None:
        """Let members reach the TCP port `port` of `host` through channels."""
        self._exposed[port] = host

    def conceal(self, port: int) -> None:
        """Take `expose` back; channels that are open go on."""
        self._exposed.pop(port, None)

    def open(self, peer_id: str, target: Target) -> Channel:
        """Return a new channel to the member; it may be written to at once.

        Raises
        ------
        PeerUnreachable
            There is no link to it.
        """
        link = self._linked(peer_id)
        if link is None:
            raise PeerUnreachable("There is no link to that member at the moment.")
        channel = Channel(secrets.randbits(52), peer_id, self._forget, target, resume=self._timing.resume)
        self._channels.setdefault(peer_id, {})[channel.number] = channel
        channel.attach(link)
        return channel

    def count(self, peer_id: str) -> int:
        """Return how many channels there are with the member."""
        return len(self._channels.get(peer_id, {}))

    def link_added(self, link: PeerLink) -> None:
        """Carry on with everything that waited for a link to this peer, and move what has an older one."""
        for channel in list(self._channels.get(link.peer_id, {}).values()):
            channel.attach(link)

    def link_lost(self, link: PeerLink) -> None:
        """Let the channels on this link wait for another one."""
        other = self._linked(link.peer_id)
        for channel in list(self._channels.get(link.peer_id, {}).values()):
            channel.detach(link)
            if other is not None and channel.waiting:
                channel.attach(other)

    def receive(self, link: PeerLink, frame: ChannelFrame) -> None:
        """Act on a frame that came over `link`."""
        channel = self._channels.get(link.peer_id, {}).get(frame.id)
        if channel is None and isinstance(frame, OpenChannel):
            self._opened(link, frame)
        elif channel is not None:
            try:
                channel.receive(link, frame)
            except ProtocolError as exc:
                self._log.warning("A channel of %s is closed: %s", link.peer_name, exc.message)
                channel.reset(exc, tell=True)
        elif not isinstance(frame, ChannelReset):
            error = PeerUnreachable("The other end knows nothing of this channel (any more).")
            link.send_channel_frame(ChannelReset.from_error(frame.id, error))

    def cut(self, peer_id: str, error: AinetError) -> None:
        """End every channel with this peer: it may not work with this node any more."""
        for channel in list(self._channels.get(peer_id, {}).values()):
            channel.reset(error, tell=True)

    async def stop(self) -> None:
        ended = [channel for channels in self._channels.values() for channel in channels.values()]
        for channel in ended:
            channel.reset(PeerUnreachable("The node was stopped."), tell=True)
        await self._tasks.stop()
        await asyncio.gather(*(channel.wait_closed() for channel in ended), return_exceptions=True)

    def _forget(self, channel: Channel) -> None:
        channels = self._channels.get(channel.peer_id, {})
        channels.pop(channel.number, None)
        if not channels:
            self._channels.pop(channel.peer_id, None)

    def _opened(self, link: PeerLink, frame: OpenChannel) -> None:
        channels = self._channels.setdefault(link.peer_id, {})
        if len(channels) >= MAX_CHANNELS:
            error = Busy(f"This device has {MAX_CHANNELS} channels already.", retry_after=1.0)
            link.send_channel_frame(ChannelReset.from_error(frame.id, error))
            return
        channels[frame.id] = channel = Channel(frame.id, link.peer_id, self._forget, resume=self._timing.resume)
        channel.attach(link)
        try:
            self._lead(channel, link, frame.target)
        except AinetError as exc:
            self._log.warning("A channel of %s was refused: %s", link.peer_name, exc.message)
            channel.reset(exc, tell=True)

    def _lead(self, channel: Channel, link: PeerLink, target: Target) -> None:
        match target:
            case ToPort(port):
                if port not in self._exposed:
                    raise Refused(f"Port {port} of this device is not open to members.")
                self._tasks.spawn(self._to_port(channel, self._exposed[port], port))
            case ToNode(node):
                onward = self._linked(node)
                if onward is None or onward.relay is not None or node == link.peer_id:
                    raise NotFound("This device has no link of its own to that member.")
                passed = functools.partial(self.relayed.emit, link.peer_id)
                self._tasks.spawn(splice(channel, self.open(node, ToLink(link.peer_id)), passed))
            case ToLink(origin):
                self._accept(channel, link, origin)

    async def _to_port(self, channel: Channel, host: str, port: int) -> None:
        try:
            service = await dial(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except AinetError as exc:
            channel.reset(exc, tell=True)
            return
        await splice(channel, service)


async def splice(one: Carrier, other: Carrier, passed: Callable[[int], object] = bool) -> None:
    """Pass everything on between two carriers until both directions have ended, or one of the carriers broke.

    `passed` is told how many bytes were passed on, again and again.
    """
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(one, other, passed))
            group.create_task(_pass_on(other, one, passed))
        await asyncio.gather(one.close(), other.close())
    except* OSError:
        pass  # by cutting both, either end learns it
    finally:
        one.cut()
        other.cut()


async def _pass_on(source: Carrier, target: Carrier, passed: Callable[[int], object]) -> None:
    while data := await source.read():
        target.write(data)
        passed(len(data))
        await target.drain()
    target.write_eof()
