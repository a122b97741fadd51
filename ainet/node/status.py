"""``ainet status``: this node, its members, their workers and the pipelines at a glance."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from typing import TYPE_CHECKING

from ainet.api import node
from ainet.api.node import CertificateState, MemberWorkers, NodeState, NodeStatus, PipelineStatus
from ainet.errors import AinetError
from ainet.hosting.requests import DescribeWorkers
from ainet.links.standing import Standing
from ainet.resources import monitor
from ainet.stages.llama.native import native_library
from ainet.version import __version__

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from ainet.api.answers import Answers
    from ainet.api.node import WorkerState
    from ainet.api.swarm import MemberState
    from ainet.engine.engine import Engine
    from ainet.executor.pipeline import Pipeline
    from ainet.executor.pool import PipelinePool
    from ainet.hosting.stages import HostedStages
    from ainet.links.links import Links
    from ainet.models.tensors import TensorStore
    from ainet.resources.allocator import Allocator

WITHOUT_COMPILER = (
    "Stages take hidden states out of llama.cpp by Python, which costs small models up to 8 % of a token. With a C "
    "compiler (Debian, Ubuntu: apt install gcc), install ainet again."
)
STATUS_SECONDS = 3.0  # a member that does not describe its workers in this time is shown without them


class Status:
    """Describes a node and what it knows of its members.

    Parameters
    ----------
    links, engine, allocator, store, stages, pipelines
        The parts of the node that are described.
    data_dir, url
        The data directory; the node's address for this device's own processes.
    gpu
        The GPU that stages may use.
    answers
        The registry of answers to the owner's verbs.
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
        data_dir: Path,
        url: str,
        gpu: str | None,
        answers: Answers,
        log: logging.Logger,
    ) -> None:
        self._links, self._identity = links, links.identity
        self._engine = engine
        self._allocator, self._store = allocator, store
        self._stages, self._pipelines = stages, pipelines
        self._data_dir, self._url, self._gpu = data_dir, url, gpu
        self._log = log
        self._began = time.time()
        answers.add(node.status, self.all)

    async def all(self) -> NodeStatus:
        """Return what there is to know at a glance: the node, its members, their workers, the pipelines."""
        return NodeStatus(
            node=await self._node(),
            members=await asyncio.gather(*(self._member(state) for state in self._links.members())),
            pipelines=await asyncio.gather(*(self._pipeline(one) for one in self._pipelines.usable())),
        )

    async def _node(self) -> NodeState:
        identity, used = self._identity, await asyncio.to_thread(self._store.used)
        return NodeState(
            name=identity.name,
            id=identity.id,
            version=__version__,
            data_dir=str(self._data_dir),
            address=self._links.address,
            pid=os.getpid(),
            started=self._began,
            pss_bytes=await asyncio.to_thread(self._memory),
            caps=self._allocator.caps,
            reserved=dataclasses.replace(self._allocator.reserved, disk=used),
            received_bytes=self._store.bytes_received,
            certificate=CertificateState(round(identity.days_left, 1), identity.holds_ca, identity.problem),
            url=self._url,
            warnings=[
                *identity.warnings,
                *self._links.table.twins.warnings,
                *([] if native_library() else [WITHOUT_COMPILER]),
            ],
            native_callback=native_library() is not None,
            gpu=self._gpu,
        )

    def _memory(self) -> int:
        """Return the bytes (PSS) of this server and its engine; kernels are the user's own."""
        engine = self._engine.scheduler_pid
        children = monitor.process_tree(engine) if engine is not None else []
        return monitor.pss(os.getpid()) + sum(one.memory for one in children)

    async def _pipeline(self, pipeline: Pipeline) -> PipelineStatus:
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                stages = await pipeline.figures()
        except (AinetError, TimeoutError) as exc:
            self._log.info("The stages of %s do not describe themselves: %s", pipeline.plan.name, exc)
            stages = []
        return PipelineStatus(pipeline.plan.name, pipeline.placement, pipeline.received, pipeline.idle, stages)

    async def _member(self, state: MemberState) -> MemberWorkers:
        link = self._links.open_link(state.id, Standing.MEMBER)
        workers: list[WorkerState] = []
        try:
            if state.is_self:
                workers = await self._stages.workers()
            elif link is not None:
                workers = (await link.request(DescribeWorkers(), timeout=STATUS_SECONDS)).workers
        except AinetError as exc:
            self._log.info("%s does not describe its workers: %s", state.name, exc)
        return MemberWorkers(**vars(state), workers=workers)
