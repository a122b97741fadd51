"""Which device runs which layers, as one bar; plain text where HTML cannot be shown."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ainet.client.answer import Layers

#: Colours that differ for colour-blind readers too (Okabe and Ito).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


class PlacementBar:
    """A model's layers, left to right, each device in its colour.

    Parameters
    ----------
    stages
        Those of a plan or of an answer.
    """

    def __init__(self, stages: Iterable[Layers]) -> None:
        self._stages = [(stage.device, stage.first_layer, stage.last_layer) for stage in stages]

    def __repr__(self) -> str:
        return " → ".join(f"{name} {first}–{last}" for name, first, last in self._stages)

    def _repr_html_(self) -> str:
        colours = dict(zip(dict.fromkeys(name for name, _, _ in self._stages), COLOURS * 20, strict=False))
        parts = [
            f'<div title="layers {first}–{last}" style="flex:{last - first + 1};background:{colours[name]};'
            'color:white;padding:2px 6px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis">'
            f"{escape(name)} {first}–{last}</div>"
            for name, first, last in self._stages
        ]
        style = "display:flex;gap:2px;max-width:640px;font-size:12px;border-radius:4px;overflow:hidden"
        return f'<div role="img" aria-label="{escape(repr(self))}" style="{style}">{"".join(parts)}</div>'
