"""The models that the node can use, and where their layers go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from ainet.api.limits import Count, Text
from ainet.api.verb import LONG, Nothing, Option, Verb

Model = Annotated[Text | None, Option("the model (default: the node's)", metavar="MODEL")]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What whoever made a model wants it to be asked with.

    Attributes
    ----------
    system
        Instructions, where the request has none.
    template
        Chat template in Go's language, in place of the file's own.
    parameters
        Fields of `GenerateRequest`, where the request leaves them open.
    notes
        Parts of it that are not used, in words.
    """

    system: str = ""
    template: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model on one device.

    Attributes
    ----------
    name
        The name of the model on this device.
    where
        Which program keeps it, in words.
    path
        Its file; None if only tensors, or nothing yet, is here.
    digest
        Its identity, as far as its file was read already.
    size
        Bytes of the file, or of all tensors.
    cuts
        ``any``, ``multiples of N`` or ``no: REASON``.
    error
        The fault of the file, in words.
    settings
        What it is asked with, where its maker says so.
    """

    name: str
    where: str
    path: str | None = None
    digest: str | None = None
    size: int | None = None
    architecture: str | None = None
    quantisation: str | None = None
    licence: str | None = None
    layers: int | None = None
    cuts: str | None = None
    error: str | None = None
    settings: ModelSettings | None = None


@dataclass(frozen=True, kw_only=True)
class ListedModel(ModelEntry):
    """A model that can be used here, and the names of the members that have it when this device has not."""

    members: list[str]


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """Layers `first_layer` to `last_layer` (0-based, inclusive) on one node, with the memory (bytes) they take.

    With `gpu` they are on the node's GPU, of whose memory they take `gpu_memory`; with `experts_on_host` but for their
    experts. `seconds` is the predicted time of a token in this stage.
    """

    node: str
    name: str
    first_layer: int
    last_layer: int
    memory: int
    threads: int
    gpu: bool
    reason: str
    seconds: float = 0.0
    gpu_memory: int = 0
    experts_on_host: bool = False

    @property
    def device(self) -> str:
        return self.name


@dataclass(frozen=True)
class LeftOut:
    """A node that gets no layers, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The ordered stages of a model, its context window (tokens), and the reason in one sentence.

    `seconds` is the predicted time of a token: of reading all weights once, each stage's after the other's, and of the
    way between them.
    """

    model: str
    name: str
    n_ctx: int
    n_ubatch: int
    stages: list[PlannedStage]
    why: str
    seconds: float
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class ModelsRequest:
    """The model to describe; None: all of them."""

    model: Model = None


@dataclass(frozen=True)
class PlanRequest:
    """The model to plan for, a number of stages to force, and whether the first and last layers stay here."""

    model: Model = None
    stages: Count | None = None
    private: bool = False


@dataclass(frozen=True)
class WhatIfRequest:
    """The model to plan for, and the devices, as a file describes them; they are read where they are used."""

    devices: Any
    model: Model = None
    stages: Count | None = None
    private: bool = False


@dataclass(frozen=True)
class UnloadRequest:
    """The model to unload; None: all of them."""

    model: Model


@dataclass(frozen=True)
class Unloaded:
    """The names of the models that were unloaded."""

    unloaded: list[str]


models = Verb("models", "list the models", "GET", "models", ModelsRequest, list[ListedModel], LONG)
plan = Verb("plan", "explain which layers would run where", "GET", "plan", PlanRequest, Plan, LONG)
plan_for = Verb("plan_for", "plan for described devices", "POST", "plan", WhatIfRequest, Plan, LONG)
unload = Verb("unload", "unload a model", "DELETE", "pipelines/{model}", UnloadRequest, Unloaded, LONG)
unload_all = Verb("unload_all", "unload all models", "DELETE", "pipelines", Nothing, Unloaded, LONG)
