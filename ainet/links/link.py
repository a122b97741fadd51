"""PeerLink: requests and answers between two members, both ways over one connection."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ainet.errors import AinetError, Busy, PeerUnreachable, ProtocolError
from ainet.links.calls import Incoming, Outgoing, check, decode, encode, limits
from ainet.links.frames import (
    MAX_MESSAGE,
    WINDOW,
    Call,
    Cancel,
    ChannelAck,
    ChannelData,
    ChannelEnd,
    ChannelReset,
    ChannelResume,
    Credit,
    Failure,
    Frame,
    Goodbye,
    Item,
    OpenChannel,
    Ping,
    Pong,
    Reply,
    RosterUpdate,
    encode_frame,
    read_frame,
)
from ainet.links.round_trips import RoundTrips
from ainet.links.standing import Standing
from ainet.signals import Signal
from ainet.timing import TIMING

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    import msgspec

    from ainet.links.frames import ChannelFrame
    from ainet.links.request import Request
    from ainet.wire.stream import SecureStream

    Answer = Awaitable[msgspec.Struct | None] | AsyncIterator[msgspec.Struct]
    #: Answers a request of one type: a coroutine, or an async generator of progress that ends with the reply.
    Handler = Callable[["PeerLink", Any], Answer]

MAX_BACKLOG = 16 * 1024 * 1024  # bytes that a peer who does not read may leave unsent
OWN_PINGS = 10  # keep-alive intervals between two pings of the end that the other one pings


class PeerLink:
    """An authenticated connection to another member. `Links` makes them.

    Parameters
    ----------
    path, relay
        The address at which the peer was dialled, or from which it came; the id of the member that relays, if any does.
    machine, instance, started
        As the peer's `Hello` names them.
    standing
        The standing of the peer.
    handlers
        By the name of the request's class.
    receive_channel_frame, receive_roster
        Called with this link and a frame of a channel, or a roster; the latter raises when it is not the CA's.
    follows
        Whether it is the peer that pings; this end then answers, and pings only now and then, for the round trip.
    keepalive, timeout
        Seconds between pings; seconds of silence after which the peer counts as gone.
    """

    def __init__(
        self,
        stream: SecureStream,
        peer_id: str,
        peer_name: str,
        *,
        path: str,
        relay: str | None,
        machine: str,
        instance: str,
        started: float,
        standing: Standing,
        handlers: Mapping[str, tuple[type[Request], Handler]],
        receive_channel_frame: Callable[[PeerLink, ChannelFrame], None],
        receive_roster: Callable[[PeerLink, RosterUpdate], None],
        follows: bool,
        keepalive: float,
        timeout: float,
        log: logging.Logger,
    ) -> None:
        self.peer_id = peer_id
        self.peer_name = peer_name
        #: The standing of the peer; the requests that it may make follow from it.
        self.standing = standing
        #: The address at which the peer was dialled, or from which it came.
        self.path = path
        #: Differs between devices that do not share their loopback addresses.
        self.machine = machine
        #: Differs between two runs of the peer.
        self.instance = instance
        #: Since when that run has been going on (unix seconds).
        self.started = started
        #: Id of the member that passes everything on, encrypted as it is; None when the peer is reached directly.
        self.relay = relay
        self._trips = RoundTrips(timeout)
        self.closed = asyncio.Event()
        self.error: AinetError | None = None  # why it is closed
        self.transport = stream
        self._most_calls, self._most_bytes, stream.quota = limits(standing)
        self._handlers = handlers
        self._receive_channel_frame = receive_channel_frame
        self._receive_roster = receive_roster
        self._follows, self._pinged = follows, False
        self._keepalive, self._timeout = keepalive, timeout
        self._log = log
        self._ids = itertools.count()
        #: When a request of either end began or ended last (monotonic, s).
        self._used_at = time.monotonic()
        self._calls: dict[int, Outgoing] = {}
        self._serving: dict[int, Incoming] = {}
        self._closing: Signal[[PeerLink]] = Signal(f"the link to {peer_name} closed", log)
        self._sending = asyncio.Lock()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]
        self._finish: asyncio.Task[None] | None = None

    async def request(self, request: Request, *, timeout: float | None = TIMING.answer) -> Any:  # noqa: ASYNC109
        """Ask the peer, and return its reply; progress on the way is passed over.

        Parameters
        ----------
        timeout
            Seconds until the reply must be there; None waits as long as the link lives.

        Raises
        ------
        PeerUnreachable
            The link is lost, or the time is up.
        AinetError
            The error of the peer's handler.
        """
        reply = None
        try:
            async with asyncio.timeout(timeout), contextlib.aclosing(self.stream(request)) as items:
                async for item in items:
                    reply = item
        except TimeoutError:
            raise PeerUnreachable(
                f"{self.peer_name} did not answer {type(request).__name__} within {timeout:g} seconds."
            ) from None
        return reply

    async def stream(self, request: Request) -> AsyncGenerator[Any, None]:
        """Ask the peer, and yield its progress, then its reply. Leaving the loop cancels the request there.

        Use it as ``async with contextlib.aclosing(link.stream(request)) as items`` where leaving early is possible.
        """
        kind, call = type(request), Outgoing()
        self.transport.quota = None
        self._used_at = time.monotonic()
        number = next(self._ids)
        self._calls[number] = call
        try:
            await self._send(Call(number, kind.__name__, encode(request)))
            while True:
                frame = await call.queue.get()
                if isinstance(frame, Item):
                    yield self._decode(frame.body, kind.progress, kind)
                    call.taken += 1
                    if call.taken >= WINDOW // 2:
                        await self._send(Credit(number, call.taken))
                        call.taken = 0
                    continue
                call.ended = True
                if isinstance(frame, Reply):
                    reply = self._decode(frame.body, kind.reply, kind)
                    if kind.reply is not None:
                        yield reply
                    return
                raise AinetError.from_dict(frame.error)
        finally:
            del self._calls[number]
            self._used_at = time.monotonic()
            if not call.ended and not self.closed.is_set():
                self._post(Cancel(number))

    def on_close(self, callback: Callable[[PeerLink], object]) -> None:
        """Call `callback` with this link when it closes, or at once when it is closed."""
        if self.closed.is_set():
            callback(self)
        else:
            self._closing.connect(callback)

    def send_roster(self, update: RosterUpdate) -> None:
        """Show the peer a roster."""
        if not self.closed.is_set():
            self._post(update)

    def send_channel_frame(self, frame: ChannelFrame) -> None:
        """Send a short frame of a channel, soon; a link that is closed drops it."""
        if not self.closed.is_set():
            self._post(frame)

    async def send(self, frame: ChannelFrame) -> None:
        """Send a frame of a channel when there is room for it.

        Raises
        ------
        AinetError
            The link is closed.
        """
        await self._send(frame)

    def close(self, reason: AinetError, *, tell: bool = True) -> None:
        """Close the link at once: what is pending on either side ends. `wait_closed` waits for the rest."""
        if self.closed.is_set():
            return
        self.error = reason
        self.closed.set()
        for number, call in self._calls.items():
            call.ended = True
            call.queue.put_nowait(Failure(number, reason.to_dict()))
        if tell:
            with contextlib.suppress(AinetError):
                self.transport.write(encode_frame(Goodbye.from_error(reason)))
        self._finish = asyncio.create_task(self._end(tell=tell))
        self._closing.emit(self)

    async def wait_closed(self) -> None:
        """Wait until the link is closed and nothing of it is left."""
        await self.closed.wait()
        if self._finish is not None:
            await asyncio.shield(self._finish)

    async def _end(self, *, tell: bool) -> None:
        tasks = [*self._tasks, *(incoming.task for incoming in self._serving.values())]
        for task in tasks:
            task.cancel()
        if not tell:
            await self.transport.abort()
        await asyncio.wait(tasks)
        if tell:
            await self.transport.close()

    async def _read(self) -> None:
        try:
            while not self.closed.is_set():
                self._receive(await read_frame(self.transport, self._most_bytes))
        except AinetError as exc:
            if isinstance(exc, PeerUnreachable):
                self.close(PeerUnreachable(f"The link to {self.peer_name} was lost: {exc.message}"), tell=False)
            else:
                self._log.warning("The link to %s is closed: %s", self.peer_name, exc.message)
                self.close(exc)
        except Exception:
            self._log.exception("The link to %s is closed because of an error here.", self.peer_name)
            self.close(PeerUnreachable("The device had to close the link; its log says why."))

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        silent, heard, before = 0.0, self.transport.received, loop.time()
        for tick in itertools.count():
            if not (self._follows and self._pinged and self.latency is not None and tick % OWN_PINGS):
                self._post(Ping(self._trips.stamp()))
            self._pinged = False
            await asyncio.sleep(min(self._keepalive, self._timeout - silent))
            now = loop.time()
            # While this process itself did not run, the peer's silence means nothing.
            if self.transport.received != heard:
                silent, heard = min(now - self.transport.heard_at, 2 * self._keepalive), self.transport.received
            else:
                silent += min(now - before, 2 * self._keepalive)
            before = now
            if silent >= self._timeout:
                msg = f"{self.peer_name} did not answer for {silent:.0f} seconds."
                self._log.warning("The link is closed: %s", msg)
                self.close(PeerUnreachable(msg), tell=False)
                return

    def _receive(self, frame: Frame) -> None:
        match frame:
            case Ping():
                self._pinged = True
                # A peer that does not read gets no more of these, so they cannot pile up.
                if not self.transport.backlog:
                    self._post(Pong(frame.stamp))
            case Pong():
                self._trips.note(frame.stamp)
            case Call():
                self._serve(frame)
            case Item() | Reply() | Failure():
                self._hand_over(frame)
            case Cancel():
                if frame.id in self._serving:
                    self._serving[frame.id].task.cancel()
            case Credit():
                if frame.id in self._serving:
                    self._serving[frame.id].grant(frame.count)
            case OpenChannel() | ChannelData() | ChannelAck() | ChannelEnd() | ChannelResume() | ChannelReset():
                self._check_member(frame)
                self._receive_channel_frame(self, frame)
            case RosterUpdate():
                self._check_member(frame)
                self._receive_roster(self, frame)
            case Goodbye():
                self.close(frame.to_error(), tell=False)
            case _:
                raise ProtocolError(f"The other device sent {type(frame).__name__} in the middle of a link.")

    def _check_member(self, frame: Frame) -> None:
        if not self.standing.permits(Standing.MEMBER):
            raise ProtocolError(f"A contact sent {type(frame).__name__}, which only members may.")

    @property
    def unused_for(self) -> float:
        """Seconds since neither end waits for an answer."""
        return 0.0 if self._calls or self._serving else time.monotonic() - self._used_at

    @property
    def latency(self) -> float | None:
        """Smoothed round trip (s); None until the first ping was answered."""
        return self._trips.smoothed

    @property
    def distance(self) -> float | None:
        """Seconds one way; None until the first ping was answered."""
        return self._trips.distance

    def _hand_over(self, frame: Item | Reply | Failure) -> None:
        call = self._calls.get(frame.id)
        if call is None:
            return  # cancelled, while this was on its way
        if call.queue.qsize() > WINDOW:
            raise ProtocolError("The other device sent more progress than it was allowed to.")
        call.queue.put_nowait(frame)

    def _serve(self, call: Call) -> None:
        if call.id in self._serving:
            raise ProtocolError("The other device used the number of a request twice.")
        kind, handler = self._handlers.get(call.kind, (None, None))
        if kind is None or handler is None or not self.standing.permits(kind.audience):
            msg = f"The device does not know the request {call.kind!r}. Is its ainet older? Update it."
            self._post(Failure(call.id, ProtocolError(msg).to_dict()))
        elif len(self._serving) >= self._most_calls:
            msg = f"The device answers {self._most_calls} requests of this one already. Ask again in a second."
            self._post(Failure(call.id, Busy(msg, retry_after=1.0).to_dict()))
        else:
            try:
                request = decode(call.body, kind)
            except ProtocolError as exc:
                self._post(Failure(call.id, exc.to_dict()))
                return
            self._used_at = time.monotonic()
            self._serving[call.id] = incoming = Incoming()
            incoming.task = asyncio.create_task(self._answer(call.id, incoming, request, handler))

    async def _answer(self, number: int, incoming: Incoming, request: Request, handler: Handler) -> None:
        kind = type(request)
        try:
            try:
                result = handler(self, request)
                if isinstance(result, AsyncIterator):
                    reply = await self._send_items(number, incoming, result, kind)
                else:
                    reply = await result
                check(reply, kind.reply, kind)
                self.transport.quota = None
                await self._send(Reply(number, encode(reply)))
            except AinetError as exc:
                await self._fail(number, exc)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # the asker cancelled, or the link is closed: nobody waits for words
                await self._fail(number, AinetError(f"The device stopped working on {kind.__name__}."))
            except Exception:
                self._log.exception("Answering %s of %s failed.", kind.__name__, self.peer_name)
                msg = f"The device failed to do {kind.__name__}; its log says why."
                await self._fail(number, AinetError(msg))
        except AinetError:
            pass  # the link closed meanwhile: nobody is there to be told
        finally:
            del self._serving[number]
            self._used_at = time.monotonic()

    async def _send_items(
        self, number: int, incoming: Incoming, items: AsyncIterator[msgspec.Struct], kind: type[Request]
    ) -> msgspec.Struct | None:
        reply = None
        try:
            async for item in items:
                if reply is not None:
                    raise TypeError(f"{type(item).__name__} came after the reply to {kind.__name__}.")
                if kind.reply is not None and isinstance(item, kind.reply):
                    reply = item
                    continue
                check(item, kind.progress, kind)
                await incoming.spend()
                await self._send(Item(number, encode(item)))
        finally:
            if inspect.isasyncgen(items):
                await items.aclose()
        return reply

    async def _fail(self, number: int, error: AinetError) -> None:
        shown = error.to_dict() | {"message": error.message[:MAX_MESSAGE]}
        try:
            await self._send(Failure(number, shown))
        except (TypeError, ValueError, OverflowError, ProtocolError):
            # Its details cannot travel.
            await self._send(Failure(number, shown | {"details": {}}))

    async def _send(self, frame: Frame) -> None:
        data = encode_frame(frame)
        async with self._sending:
            if self.closed.is_set():
                raise self._lost()
            self.transport.write(data)
            await self.transport.drain()

    def _post(self, frame: Frame) -> None:
        # A short frame that cannot wait; a peer that lets them pile up is not reading.
        try:
            self.transport.write(encode_frame(frame))
        except AinetError as exc:
            self.close(exc, tell=False)
        if self.transport.backlog > MAX_BACKLOG:
            self.close(ProtocolError(f"{self.peer_name} does not read what it asked for."), tell=False)

    def _lost(self) -> AinetError:
        return AinetError.from_dict(self.error.to_dict()) if self.error else PeerUnreachable("The link is closed.")

    def _decode(self, body: msgspec.Raw, kind: type[msgspec.Struct] | None, request: type[Request]) -> Any:
        try:
            return decode(body, kind)
        except ProtocolError as exc:
            raise ProtocolError(
                f"{self.peer_name} answered {request.__name__} with something else: {exc.message}"
            ) from exc
