"""A stage on a worker of this node, as the node sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from ainet.api.node import StageFigures
from ainet.placement.footprint import Footprint
from ainet.resources.memory import Memory

if TYPE_CHECKING:
    from ainet.engine.engine import Worker
    from ainet.engine.worker_pool import WorkerLease
    from ainet.models.manifest import Manifest
    from ainet.resources.allocator import Reservation
    from ainet.stages.protocol.address import StageAddress
    from ainet.stages.protocol.spec import StageSpec
    from ainet.stages.protocol.state import StageState


def footprint_of(manifest: Manifest, spec: StageSpec) -> Footprint:
    """Return the footprint of the stages of a pipeline."""
    return Footprint(
        manifest,
        n_ctx=spec.n_ctx,
        n_ubatch=spec.n_ubatch,
        sessions=spec.sessions,
        exact=spec.exact,
        rollback=spec.rollback,
    )


def needed_memory(manifest: Manifest, spec: StageSpec) -> Memory:
    """Return the memory that a stage takes."""
    footprint, layers = footprint_of(manifest, spec), (spec.first_layer, spec.last_layer)
    if spec.gpu:
        return footprint.on_gpu(*layers, experts_on_host=spec.experts_on_host)
    return Memory(footprint.memory(*layers))


def figures_of(stage: HostedStage, state: StageState) -> StageFigures:
    """Return what a stage measured, for whoever asked to load it."""
    spec = stage.spec
    pid = stage.address.pid if stage.address is not None else 0
    sent = state.bytes_sent, state.frames_sent
    return StageFigures(
        pid, spec.first_layer, spec.last_layer, *sent, state.token_seconds, state.buffers, state.decodes
    )


class HostedStage:
    """A stage on a worker of this node."""

    def __init__(self, spec: StageSpec, manifest: Manifest, reservation: Reservation) -> None:
        self.spec = spec
        self.manifest = manifest
        self.reservation = reservation
        #: The worker, and the right to use it.
        self.worker: Worker | None = None
        self.lease: WorkerLease | None = None
        self.actor: Any = None
        self.address: StageAddress | None = None
        #: Set when the worker is gone: nothing will be answered any more.
        self.lost = asyncio.Event()
        #: Node ids of the stages before and after, once linked.
        self.neighbours: set[str] = set()
        #: The address of the next stage.
        self.following: StageAddress | None = None
        self.is_local = True
        #: What it had computed (rows, seconds) when that was last looked at.
        self.measured = (0, 0.0)

    def is_like(self, spec: StageSpec, *, local: bool) -> bool:
        """Whether a stage of this kind can use the model that was loaded for this one."""
        return (
            self.is_local == local
            and msgspec.structs.replace(
                self.spec,
                pipeline=spec.pipeline,
                epoch=spec.epoch,
                owner=spec.owner,
                n_stages=spec.n_stages,
                n_devices=spec.n_devices,
            )
            == spec
        )

    @property
    def ports(self) -> list[int]:
        """The ports on which it waits for its neighbour and for requesters."""
        address = self.address
        return [port for port in (address.data_port, address.session_port) if port] if address else []

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def layers(self) -> str:
        """The range of layers in words."""
        return f"{self.spec.first_layer}–{self.spec.last_layer}"
