"""One answer, as it grows from the events of a generation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ainet.api.context import FoundPassage
from ainet.api.generate import Bought, Citation, Done, Grounds, PlacedStage, Start, Text, Timings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ainet.api.generate import Event


#: How an answer ended that did not end by itself.
_ENDINGS = {
    "length": "stopped at the token limit",
    "context": "stopped: the context window is full",
    "cancelled": "stopped",
}


def layer_range(first: int, last: int) -> str:
    """Return the layers from `first` to `last` (0-based, inclusive) in words."""
    return str(first) if first == last else f"{first}–{last}"


class Layers(Protocol):
    """Layers (0-based, inclusive) on a device: of a plan, or where they are loaded."""

    @property
    def device(self) -> str:
        """The device's name."""

    @property
    def first_layer(self) -> int:
        """The first one."""

    @property
    def last_layer(self) -> int:
        """The last one."""


def placement_words(placement: Iterable[Layers]) -> str:
    """Return which device has which layers; stages that follow each other on one device are one entry."""
    words = []
    for device, group in groupby(placement, key=attrgetter("device")):
        parts = list(group)
        stages = f" in {len(parts)} stages" if len(parts) > 1 else ""
        words.append(f"{device} {layer_range(parts[0].first_layer, parts[-1].last_layer)}{stages}")
    return ", ".join(words)


def bought_words(one: Bought) -> str:
    """Return what an answer cost: seller, tokens, and minutes of what may be had in a day."""
    words = f"{one.seller} · {'the check' if one.is_check else f'{one.tokens} tokens'}"
    if one.daily_s or one.seconds:
        words += f" · {_minutes(one.seconds)} of {_minutes(one.daily_s)} minutes"
    if one.checked is not None:
        words += f" · checked: {one.checked:.3f}, limit {one.check_limit:.3f}"
    return f"{words} · {one.wrong}" if one.wrong else words


def _minutes(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.2g}"


@dataclass
class Answer:
    """The result of a generation so far; complete once `finish` is set.

    An answer that was cut off (Ctrl-C) keeps its text; its timings are then those that this side measured.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    model: str = ""
    placement: list[PlacedStage] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    #: What the reader must know of how the answer came about.
    notes: list[str] = field(default_factory=list)
    #: ``stop``, ``length``, ``context`` or ``cancelled``; empty while it grows.
    finish: str = ""
    seed: int | None = None
    #: The passages that went along with the question, and the question as the model was asked it.
    passages: list[FoundPassage] = field(default_factory=list)
    prompt: str = ""
    #: The sentences of the answer, where passages went along.
    citations: list[Citation] = field(default_factory=list)
    #: What was bought of other owners' devices.
    bought: list[Bought] = field(default_factory=list)
    _asked: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _last: float = 0.0

    def add(self, event: Event) -> None:
        """Take in one event of `NodeClient.generate`."""
        match event:
            case Grounds():
                self.passages, self.prompt = event.passages, event.prompt
            case Start():
                self.model, self.placement, self.notes = event.model, event.placement, event.notes
                self.timings = Timings(prompt_tokens=event.prompt_tokens)
            case Text():
                self._last = time.monotonic()
                if self._first is None:
                    self._first = self._last
                self.text += event.text
                self.tokens += event.tokens
            case Done():
                self.text, self.tokens, self.finish = event.text, event.tokens, event.finish
                self.model, self.placement, self.seed = event.model, event.placement, event.seed
                self.timings, self.notes, self.citations = event.timings, event.notes, event.citations
                self.bought = event.bought

    def cut_off(self) -> None:
        """Note that the generation was stopped before it was done."""
        self.finish = "cancelled"
        first = self._first or self._asked
        seconds = self._last - first
        self.timings = Timings(
            prompt_tokens=self.timings.prompt_tokens,
            generated_tokens=len(self.tokens),
            first_token_s=first - self._asked,
            tokens_per_s=(len(self.tokens) - 1) / seconds if seconds > 0 else 0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the form that ``ainet ask --json`` prints: the public fields."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if not name.startswith("_")}

    def footer(self) -> str:
        """Return the quiet line below an answer: model, devices and layers, speed, time to the first token."""
        if not self.model:
            return f"{_ENDINGS['cancelled']} before the model was ready: nothing was computed"
        if not self.text and self.finish == "cancelled":
            return f"{self.model} · {_ENDINGS['cancelled']} before the first word"
        speed = [f"{self.timings.tokens_per_s:.1f} tokens/s"] if self.timings.tokens_per_s else []
        first = f"first token {self.timings.first_token_s:.2f} s"
        ending = [_ENDINGS[self.finish]] if self.finish in _ENDINGS else []
        where = [bought_words(one) for one in self.bought] or [f"layers {placement_words(self.placement)}"]
        return " · ".join([self.model, *where, *speed, first, *ending, *self.notes])
