"""The Dask actor that holds a stage in a worker process."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from ainet.errors import UsageError
from ainet.stages.protocol.address import StageAddress
from ainet.timing import TIMING

if TYPE_CHECKING:
    from ainet.identity.credentials import Credentials
    from ainet.models.shards import Shard
    from ainet.stages.protocol.recovery import Recovery
    from ainet.stages.protocol.spec import StageSpec
    from ainet.stages.protocol.state import StageState
    from ainet.stages.ring.frames import RingConnection, RingListener
    from ainet.stages.session_server import SessionServer
    from ainet.stages.stage import Remains, Stage


class StageActor:
    """Loads a stage, links it to its neighbours, and ends it. Control only: data never comes this way.

    Parameters
    ----------
    credentials
        This device's certificate, key and CA.
    node_id
        This device's node id.
    host
        Address that neighbours and requesters connect to.
    """

    def __init__(self, credentials: Credentials, node_id: str, host: str) -> None:
        self._credentials = credentials
        self._node_id = node_id
        self._host = host
        self._log = logging.getLogger("ainet.stage")
        self._stage: Stage | None = None
        self._listener: RingListener | None = None
        self._sessions: SessionServer | None = None
        self._links: list[RingConnection] = []
        #: Held while loading, so that `close` finds either nothing or everything.
        self._loading = asyncio.Lock()
        self._closed = False
        self._part = 0.0
        #: The rest of the stage before, for one of the same kind.
        self._parked: Remains | None = None

    async def loaded_part(self) -> float:
        """Return the part of the shard that is loaded, 0 to 1."""
        return self._part

    def _is_aborted(self, part: float) -> bool:
        self._part = part
        return self._closed

    async def load(self, spec: StageSpec, shard: Shard, gpu_memory: int = 0) -> StageAddress:
        """Load the shard and listen; returns where.

        Parameters
        ----------
        gpu_memory
            Bytes of the GPU's memory that it will take.

        Raises
        ------
        AinetError
            If the stage cannot be loaded, or was closed meanwhile.
        """
        from ainet.stages.llama.devices import check_gpu
        from ainet.stages.ring.frames import RingListener
        from ainet.stages.session_server import SessionServer
        from ainet.stages.stage import Stage

        async with self._loading:
            if self._stage is not None or self._closed:
                raise UsageError("This worker holds a stage already, or was told to unload it.")
            parked, self._parked = self._parked, None
            if gpu_memory and parked is None:
                await asyncio.to_thread(check_gpu, f"Layers {spec.first_layer}–{spec.last_layer}", gpu_memory)
            self._stage = await asyncio.to_thread(
                Stage, spec, shard, self._log, self._is_aborted, remains=parked, folder=_folder()
            )
            data_port = session_port = 0
            try:
                if spec.n_stages > 1:
                    self._listener = RingListener(self._credentials, self._host, self._log.warning)
                    data_port = self._listener.port
                if shard.is_last:
                    self._sessions = SessionServer(self._stage, self._credentials, self._log)
                    session_port = await self._sessions.start(self._host)
            except OSError as exc:
                raise UsageError(
                    f"The stage cannot listen on {self._host} ({exc}). Name an address of this device with --listen."
                ) from exc
            return StageAddress(self._node_id, self._host, data_port, session_port, os.getpid())

    async def link(
        self,
        previous_id: str,
        following: StageAddress | None,
        kept_tokens: int,
        recovery: Recovery | None,
        *,
        is_near: bool,
    ) -> None:
        """Connect to the stage after this one while the stage before connects, and begin to work.

        Parameters
        ----------
        previous_id, following
            Node of the stage before; the stage after, None when there is no other one.
        kept_tokens
            Tokens of earlier prompts that every stage can keep.
        recovery
            Sessions of a lost pipeline that go on.
        is_near
            Whether the stage before is on this machine.

        Raises
        ------
        AinetError
            If a neighbour is missing or is another device; the stage then stays unlinked.
        """
        from ainet.wire.address import is_loopback

        stage = self._loaded()
        loop = asyncio.get_running_loop()

        def end_sessions() -> None:  # called by the decode thread
            asyncio.run_coroutine_threadsafe(self._end_sessions(), loop)

        stage.on_end = end_sessions
        if following is None or self._listener is None:
            stage.start(None, None, kept_tokens, recovery=recovery)
            return
        accepting = asyncio.to_thread(self._listener.accept, previous_id, stage.spec.epoch, stage.max_payload)
        found = await asyncio.gather(accepting, self._connect(following), return_exceptions=True)
        self._links = [link for link in found if not isinstance(link, BaseException)]
        errors = [error for error in found if isinstance(error, BaseException)]
        if errors:
            for link in self._links:
                link.close()
            raise errors[-1]
        previous, after = self._links
        is_forwarded = not is_near and is_loopback(previous.socket.getpeername()[0])
        patience = TIMING.forwarded_silence if is_forwarded else TIMING.silence
        stage.start(previous, after, kept_tokens, recovery=recovery, patience=patience)

    async def _connect(self, following: StageAddress) -> RingConnection:
        from ainet.stages.ring.frames import connect

        stage = self._loaded()
        address = (following.host, following.data_port)
        try:
            return await asyncio.to_thread(
                connect, self._credentials, address, following.node, stage.spec.epoch, stage.max_payload
            )
        except BaseException:
            if self._listener is not None:
                self._listener.close()
            raise

    async def state(self) -> StageState:
        """Return the stage's figures."""
        return self._loaded().state()

    async def close(self) -> None:
        """End the stage and free its memory; one that is still being loaded is given up."""
        self._closed = True
        async with self._loading:
            await self._stop_listening()
            if self._stage is not None:
                stage, self._stage = self._stage, None
                await asyncio.to_thread(stage.stop)
            if self._parked is not None:
                self._parked.cache.llama.close()

    async def park(self) -> bool:
        """End the stage, but keep its model and what it knows for the next one; whether that is possible."""
        async with self._loading:
            if self._stage is not None:
                stage, self._stage = self._stage, None
                self._parked = await asyncio.to_thread(stage.detach)
            await self._stop_listening()  # only now: whoever is cut off would end its sessions
            return self._parked is not None

    async def _stop_listening(self) -> None:
        await self._end_sessions()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _end_sessions(self) -> None:
        if self._sessions is not None:
            sessions, self._sessions = self._sessions, None
            await sessions.stop()

    def _loaded(self) -> Stage:
        if self._stage is None:
            raise UsageError("This worker holds no stage; the pipeline was unloaded.")
        return self._stage


def _folder() -> str | None:
    """Return the worker's folder for temporary files, if it has one of its own."""
    import dask

    folder: str | None = dask.config.get("temporary-directory", None)
    return folder
