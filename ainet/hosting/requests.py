"""The requests of nodes that run a model together."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ainet.api.models import ModelEntry
from ainet.api.node import StageFigures, WorkerState
from ainet.identity.roster import Count
from ainet.links.request import Request
from ainet.stages.protocol.address import StageAddress
from ainet.stages.protocol.recovery import MAX_SLOTS, Held, Recovery
from ainet.stages.protocol.spec import StageSpec

#: Bytes of one piece of a tensor: small enough that other messages of the link pass between two of them.
PIECE = 1 << 20


class LoadProgress(msgspec.Struct, frozen=True):
    """Progress of loading: words, and how much of it is done, of how much in all (0: not known)."""

    text: str
    done: int = 0
    total: int = 0
    unit: Literal["bytes", "layers"] = "bytes"


class ModelFound(msgspec.Struct, frozen=True):
    """The manifest of a model, encoded; empty when the node does not have it."""

    manifest: bytes


class FindModel(Request, frozen=True):
    """Ask which model a node knows by this name or digest; it may have to read a large file first."""

    reply = ModelFound
    progress = LoadProgress

    name: str


class Piece(msgspec.Struct, frozen=True):
    """Bytes of a tensor."""

    data: bytes


class ReadTensor(Request, frozen=True):
    """Ask for `length` bytes of the tensor with this hash, from `offset` on."""

    reply = Piece

    hash: str
    offset: int
    length: int


class StageLoaded(msgspec.Struct, frozen=True):
    """The stage listens at `address`; it fetched `received` bytes, takes `memory` bytes, can keep `kept_tokens`.

    `held` is what it knows of sessions of an earlier pipeline; None: it is new. It takes `gpu_memory` bytes of a GPU's.
    """

    address: StageAddress
    received: int
    memory: int
    kept_tokens: Count = 0
    held: Annotated[list[Held], msgspec.Meta(max_length=MAX_SLOTS)] | None = None
    gpu_memory: Count = 0


class LoadStage(Request, frozen=True):
    """Ask a node to become a stage of a model, and to fetch missing tensors from `sources` (node ids)."""

    reply = StageLoaded
    progress = LoadProgress

    spec: StageSpec
    manifest: bytes
    sources: list[str]
    #: Number of the lease in whose name the model is loaded; None for stages that the owner wants to have of its own.
    lease: Count | None = None


class LinkStage(Request, frozen=True):
    """Ask for a connection to the stage at `following` (none: it is alone); the one on `previous` connects, too.

    All stages of the pipeline can keep `kept_tokens` of earlier prompts, and go on with the sessions of `recovery`.
    """

    pipeline: str
    first_layer: int
    previous: str
    following: StageAddress | None
    kept_tokens: Count = 0
    recovery: Recovery | None = None


class CloseStages(Request, frozen=True):
    """Ask a node to unload what the pipeline has there.

    With `park`, the models stay for a while: the pipeline is about to be placed again.
    """

    pipeline: str
    park: bool = False


class WorkerStates(msgspec.Struct, frozen=True):
    """The workers of one node."""

    workers: list[WorkerState]


class DescribeWorkers(Request, frozen=True):
    """Ask which workers a node runs, and what they hold."""

    reply = WorkerStates


class StageStates(msgspec.Struct, frozen=True):
    """The stages of a pipeline on one node."""

    stages: list[StageFigures]


class DescribeStages(Request, frozen=True):
    """Ask what a pipeline's stages on a node measured."""

    reply = StageStates

    pipeline: str


class ModelsListed(msgspec.Struct, frozen=True):
    """The models on a node."""

    models: list[ModelEntry]


class ListModels(Request, frozen=True):
    """Ask which models a node has."""

    reply = ModelsListed


def load_lease(model: str) -> str:
    """Return the name of the lease for placing the model with this digest over several devices."""
    return f"load {model}"
