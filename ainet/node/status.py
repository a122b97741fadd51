"""``ainet status``: this node, its members, their workers and the pipelines at a glance."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.errors import AinetError
from ainet.hosting.requests import DescribeWorkers
from ainet.links.standing import Standing
from ainet.resources import monitor
from ainet.version import __version__

if TYPE_CHECKING:
    import logging

    from ainet.engine.engine import Engine
    from ainet.executor.pipeline import Pipeline
    from ainet.executor.pool import PipelinePool
    from ainet.hosting.stages import HostedStages
    from ainet.links.links import Links
    from ainet.links.members import MemberState
    from ainet.models.tensors import TensorStore
    from ainet.resources.allocator import Allocator

STATUS_SECONDS = 3.0  # a member that does not describe its workers in this time is shown without them


class Status:
    """Describes a node and what it knows of its members.

    Parameters
    ----------
    links, engine, allocator, store, stages, pipelines
        What is described.
    log
        For members and stages that do not describe themselves.
    """

    def __init__(
        self,
        *,
        links: Links,
        engine: Engine,
        allocator: Allocator,
        store: TensorStore,
        stages: HostedStages,
        pipelines: PipelinePool,
        log: logging.Logger,
    ) -> None:
        self._links, self._identity = links, links.identity
        self._engine = engine
        self._allocator, self._store = allocator, store
        self._stages, self._pipelines = stages, pipelines
        self._log = log
        self._began = time.time()

    async def describe(self, data_dir: str) -> dict[str, Any]:
        """Return what there is to know at a glance: the node, its members, their workers, the pipelines."""
        members = await asyncio.gather(*(self._member(state) for state in self._links.members()))
        caps = self._allocator.caps
        used = await asyncio.to_thread(self._store.used)
        reserved = msgspec.structs.replace(self._allocator.reserved, disk=used)
        memory = await asyncio.to_thread(self._memory)
        return {
            "node": {
                "name": self._identity.name,
                "id": self._identity.id,
                "version": __version__,
                "data_dir": data_dir,
                "address": self._links.address,
                "pid": os.getpid(),
                "started": self._began,
                "pss_bytes": memory,
                "caps": msgspec.to_builtins(caps),
                "reserved": msgspec.to_builtins(reserved),
                "received_bytes": self._store.bytes_received,
                "certificate": {
                    "days_left": round(self._identity.days_left, 1),
                    "holds_ca": self._identity.holds_ca,
                    "problem": self._identity.problem,
                },
            },
            "members": members,
            "pipelines": await asyncio.gather(*(self._pipeline(one) for one in self._pipelines.usable())),
        }

    def _memory(self) -> int:
        """Return the bytes (PSS) of this server and its engine; kernels are the user's own."""
        engine = self._engine.scheduler_pid
        children = monitor.process_tree(engine) if engine is not None else []
        return monitor.pss(os.getpid()) + sum(one.memory for one in children)

    async def _pipeline(self, pipeline: Pipeline) -> dict[str, Any]:
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                stages = msgspec.to_builtins(await pipeline.figures())
        except (AinetError, TimeoutError) as exc:
            self._log.info("The stages of %s do not describe themselves: %s", pipeline.plan.name, exc)
            stages = []
        return {
            "model": pipeline.plan.name,
            "placement": pipeline.placement,
            "received_bytes": pipeline.received,
            "idle": pipeline.idle,
            "stages": stages,
        }

    async def _member(self, state: MemberState) -> dict[str, Any]:
        found: dict[str, Any] = {**msgspec.to_builtins(state), "workers": []}
        link = self._links.open_link(state.id, Standing.MEMBER)
        try:
            if state.is_self:
                workers = await self._stages.workers()
            elif link is not None:
                workers = (await link.request(DescribeWorkers(), timeout=STATUS_SECONDS)).workers
            else:
                workers = []
            found["workers"] = msgspec.to_builtins(workers)
        except AinetError as exc:
            self._log.info("%s does not describe its workers: %s", state.name, exc)
        return found
