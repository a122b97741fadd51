"""Models in other formats: which one is best for a device, making them, and what they lose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ainet.api.generate import Unit
from ainet.api.limits import Count, Limits, Text
from ainet.api.verb import LONG, Nothing, Verb

#: Characters of the text on which models are compared.
LongText = Annotated[str, Limits(1, 1_000_000)]


@dataclass(frozen=True, kw_only=True)
class FormatEstimate:
    """A model in one format on one device.

    Attributes
    ----------
    format
        Such as ``Q4_K_M``.
    size
        Bytes of the tensors.
    bits
        Bits of a weight, on average.
    memory
        Bytes that the whole model takes when it runs, with the node's context window.
    seconds
        Predicted time of a token, from the measured speed of each type of weights; None where one was not measured.
    fits
        Whether the whole model fits into what is free.
    is_source
        Whether it is the format that is there.
    """

    format: str
    size: int
    bits: float
    memory: int
    seconds: float | None
    fits: bool
    is_source: bool = False


@dataclass(frozen=True, kw_only=True)
class FormatAdvice:
    """The formats that a model could have on a device, the one that is recommended (None: none), and why.

    `memory` is what is free on the device, in bytes.
    """

    model: str
    device: str
    memory: int
    threads: int
    formats: list[FormatEstimate]
    recommended: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class MadeModel:
    """A model that was made.

    Attributes
    ----------
    name
        The name of the model on this device.
    size, shared
        Bytes of its tensors, and of those that it has in common with its source.
    bits
        Bits of a weight, on average.
    was_there
        Whether it had been made before.
    importance
        Whether an importance matrix was used.
    """

    name: str
    format: str
    path: str
    digest: str
    size: int
    shared: int
    bits: float
    was_there: bool = False
    importance: bool = False


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a model lost.

    Attributes
    ----------
    divergence, error, worst
        Mean Kullback-Leibler divergence of the probabilities of the next token from the source's, in nats, its standard
        error, and the 99 % quantile.
    same_top
        Part of the rows in which the most probable token is the same.
    rows
        Tokens on which it was measured.
    """

    name: str
    divergence: float
    error: float
    worst: float
    same_top: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class QuantiseState:
    """Where the work is, or how it ended.

    Attributes
    ----------
    step
        What is done now, in words; `done` of `total` (0: not known) of it, in `unit`.
    running
        Whether the work goes on.
    failed
        The error that ended it, as it travels.
    notes
        What the owner should know, in sentences.
    """

    model: str
    step: str = ""
    done: int = 0
    total: int = 0
    unit: Unit = "bytes"
    running: bool = True
    cancelled: bool = False
    failed: dict[str, object] | None = None
    made: list[MadeModel] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FormatsRequest:
    """The model, the device (None: this one), and the formats (None: the usual ones)."""

    model: Text
    device: Text | None = None
    formats: list[Text] | None = None


@dataclass(frozen=True, kw_only=True)
class QuantiseRequest:
    """What shall be made.

    Attributes
    ----------
    text
        A text on which the models are compared with their source.
    chunks
        How much of it is read: chunks of 512 tokens.
    importance
        Whether an importance matrix is measured on the text, too: on its first half; the other one then compares.
    name
        The name of the model that is made, where it is only one.
    """

    model: Text
    formats: list[Text]
    text: LongText | None = None
    chunks: Count = 8
    importance: bool = False
    name: Text | None = None


formats = Verb(
    "formats", "recommend a format of a model for a device", "POST", "formats", FormatsRequest, FormatAdvice, LONG
)
quantise = Verb(
    "quantise", "write a model in other formats", "POST", "quantisation", QuantiseRequest, QuantiseState, LONG
)
quantisation = Verb("quantisation", "tell how far that is", "GET", "quantisation", Nothing, QuantiseState)
cancel_quantisation = Verb("cancel_quantisation", "end that", "DELETE", "quantisation", Nothing, QuantiseState)
