"""One answer, as it grows from the events of a generation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def layer_range(first: int, last: int) -> str:
    """Return the layers from `first` to `last` (0-based, inclusive) in words."""
    return str(first) if first == last else f"{first}–{last}"


def placement_words(placement: Iterable[dict[str, Any]]) -> str:
    """Return which device has which layers; stages that follow each other on one device are one entry.

    Parameters
    ----------
    placement
        Dictionaries with ``node``, ``first_layer`` and ``last_layer``, in the order of the layers.
    """
    words = []
    for node, group in groupby(placement, key=itemgetter("node")):
        parts = list(group)
        stages = f" in {len(parts)} stages" if len(parts) > 1 else ""
        words.append(f"{node} {layer_range(parts[0]['first_layer'], parts[-1]['last_layer'])}{stages}")
    return ", ".join(words)


@dataclass
class Answer:
    """What a generation has given so far; complete once `finish` is set.

    An answer that was cut off (Ctrl-C) keeps its text; its timings are then those that this side measured.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    model: str = ""
    placement: list[dict[str, Any]] = field(default_factory=list)
    seed: int | None = None
    #: ``stop``, ``length`` or ``cancelled``; empty while it grows.
    finish: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    _asked: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _last: float = 0.0

    def add(self, event: dict[str, Any]) -> None:
        """Take in one event of `NodeClient.generate`."""
        kind = event["event"]
        if kind == "start":
            self.model = event["model"]
            self.placement = event["placement"]
            self.timings["prompt_tokens"] = event["prompt_tokens"]
        elif kind == "text":
            self._last = time.monotonic()
            if self._first is None:
                self._first = self._last
            self.text += event["text"]
            self.tokens += event["tokens"]
        elif kind == "done":
            for name in ("text", "tokens", "model", "placement", "seed", "finish", "timings"):
                setattr(self, name, event[name])

    def cut_off(self) -> None:
        """Note that the generation was stopped before it was done."""
        self.finish = "cancelled"
        self.timings.setdefault("prompt_tokens", 0)
        self.timings["generated_tokens"] = len(self.tokens)
        first = self._first or self._asked
        self.timings["first_token_s"] = first - self._asked
        seconds = self._last - first
        self.timings["tokens_per_s"] = (len(self.tokens) - 1) / seconds if seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the form that ``ainet ask --json`` prints.

        Layers are 0-based and inclusive; times in seconds.
        """
        return {
            "text": self.text,
            "tokens": self.tokens,
            "model": self.model,
            "placement": self.placement,
            "timings": self.timings,
            "finish": self.finish,
            "seed": self.seed,
        }

    def footer(self) -> str:
        """Return the quiet line below an answer: model, devices and layers, speed, time to the first token."""
        speed = f"{self.timings.get('tokens_per_s', 0.0):.1f} tokens/s"
        first = f"first token {self.timings.get('first_token_s', 0.0):.2f} s"
        ending = {"length": ["stopped at the token limit"], "cancelled": ["stopped"]}.get(self.finish, [])
        return " · ".join([self.model, f"layers {placement_words(self.placement)}", speed, first, *ending])
