"""The requester's end of a pipeline: a connection to the last stage, with any number of sessions on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import AinetError, PeerUnreachable, Refused, StageLost
from ainet.identity.certificates import certificate_id
from ainet.identity.credentials import client_context
from ainet.stages.protocol.generation import (
    Allow,
    Cancel,
    Command,
    Done,
    Event,
    Failed,
    Guess,
    Guessed,
    Open,
    Suggest,
)
from ainet.stages.protocol.sockets import tune
from ainet.stages.session_server import LENGTH_BYTES, pack_message, read_message
from ainet.timing import TIMING
from ainet.wire.carrier import TcpCarrier
from ainet.wire.stream import SecureStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ainet.identity.credentials import Credentials
    from ainet.stages.protocol.flow import Flow

MAX_UNREAD = 100_000  # events of one session


class SessionClient:
    """Asks one pipeline. Use `connect`, then `ask`, then `close`."""

    def __init__(self, stream: SecureStream, where: str, patience: float) -> None:
        self._stream, self._where, self._patience = stream, where, patience
        self._decoder = msgspec.msgpack.Decoder(Event)
        self._queues: dict[int, asyncio.Queue[Event | None]] = {}
        self._task = asyncio.create_task(self._receive(), name=f"sessions at {where}")
        self._watching = asyncio.create_task(self._watch(), name=f"signs of life of {where}")

    @classmethod
    async def connect(
        cls,
        credentials: Credentials,
        address: tuple[str, int],
        expected_id: str,
        epoch: bytes,
        where: str,
        *,
        patience: float = TIMING.silence,
    ) -> SessionClient:
        """Connect to the last stage of a pipeline.

        Parameters
        ----------
        credentials
            This device's certificate.
        address
            Host and port that the stage listens on.
        expected_id
            Node that must answer there.
        epoch
            The placement's secret.
        where
            The stage in words, for errors.
        patience
            Seconds of silence after which the stage counts as lost.

        Raises
        ------
        PeerUnreachable
            If nobody answers.
        Refused
            If another node answers.
        """
        try:
            async with asyncio.timeout(TIMING.session_dial):
                reader, writer = await asyncio.open_connection(*address)
        except (OSError, TimeoutError) as exc:
            raise PeerUnreachable(f"{where} cannot be reached: {exc or 'no answer'}") from exc
        tune(writer.get_extra_info("socket"))
        stream = SecureStream(TcpCarrier(reader, writer), client_context(credentials), server_side=False, peer=where)
        try:
            async with asyncio.timeout(TIMING.session_dial):
                await stream.handshake()
            if certificate_id(stream.certificate) != expected_id:
                raise Refused(f"Another device answers in place of {where}.")
            stream.write(len(epoch).to_bytes(LENGTH_BYTES, "big") + epoch)
        except TimeoutError as exc:
            stream.cut()
            raise PeerUnreachable(f"{where} does not answer.") from exc
        except BaseException:
            stream.cut()
            raise
        return cls(stream, where, patience)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._task.done()

    async def ask(self, request: Open, flow: Flow | None = None) -> AsyncGenerator[Event, None]:
        """Open a session and yield what the last stage says until it ends; closing the generator cancels it.

        Parameters
        ----------
        flow
            How far it may go; None: to its end.

        Raises
        ------
        StageLost
            If the connection ends before the answer does.
        AinetError
            The pipeline's reports.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues[request.session] = queue
        ended = False
        try:
            if flow is not None:
                flow.connect(lambda most: self._allow(request.session, most))
                request = msgspec.structs.replace(request, allowed=flow.now)
            self._send(request)
            while not ended:
                event = None if self.closed and queue.empty() else await queue.get()
                if event is None:
                    raise StageLost(f"{self._where} does not answer any more")
                ended = isinstance(event, Done | Failed)
                if isinstance(event, Failed):
                    raise AinetError.from_dict(event.error)
                yield event
        finally:
            del self._queues[request.session]
            if flow is not None:
                flow.connect(None)
            if not ended and not self.closed:
                self._send(Cancel(request.session))

    def suggest(self, session: int, begin: int, tokens: list[int]) -> None:
        """Tell what may follow the first `begin` tokens of a session's prompt and answer."""
        if not self.closed:
            self._send(Suggest(session, begin, tokens))

    async def guess(self, session: int, begin: int, tokens: list[int], most: int) -> list[int]:
        """Return what the pipeline guesses to follow a text; see `Guess`.

        Raises
        ------
        StageLost
            If the connection ends before.
        AinetError
            The pipeline's reports.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues[session] = queue
        try:
            if not self.closed:
                self._send(Guess(session, begin, tokens, most))
            event = None if self.closed else await queue.get()
            if isinstance(event, Failed):
                raise AinetError.from_dict(event.error)
            if isinstance(event, Guessed):
                return event.tokens
            raise StageLost(f"{self._where} does not answer any more")
        finally:
            del self._queues[session]

    def cut(self) -> None:
        """End the connection at once: whoever waits for an answer hears `StageLost`."""
        self._task.cancel()
        self._watching.cancel()
        self._stream.cut()

    async def close(self) -> None:
        for task in (self._task, self._watching):
            task.cancel()
        await asyncio.gather(self._task, self._watching, return_exceptions=True)
        await self._stream.abort()

    def _allow(self, session: int, most: int) -> None:
        if not self.closed:
            self._send(Allow(session, most))

    def _send(self, message: Command) -> None:
        self._stream.write(pack_message(message))

    async def _receive(self) -> None:
        try:
            while True:
                event = self._decoder.decode(await read_message(self._stream))
                if (queue := self._queues.get(event.session)) is not None:
                    if queue.qsize() > MAX_UNREAD:
                        break  # it sends more than anybody could have asked for
                    queue.put_nowait(event)
                elif event.session == 0 and isinstance(event, Failed):
                    for queue in self._queues.values():
                        queue.put_nowait(event)
        except (AinetError, msgspec.MsgspecError):
            pass  # whoever still waits hears it below
        finally:
            for queue in self._queues.values():
                queue.put_nowait(None)
            self._watching.cancel()
            self._stream.cut()

    async def _watch(self) -> None:
        """End the connection when the stage gives no sign of life any more."""
        loop = asyncio.get_running_loop()
        silent, heard, before = 0.0, self._stream.received, loop.time()
        while silent < self._patience:
            await asyncio.sleep(TIMING.alive)
            now = loop.time()
            # While this process itself did not run, silence means nothing.
            silent = silent + min(now - before, TIMING.alive) if self._stream.received == heard else 0.0
            heard, before = self._stream.received, now
        self._task.cancel()
