"""Sessions whose pipeline has lost stages: those that are left still know them, new ones catch up.

A stage that is left has the keys and values of its layers in its cache, and keeps the hidden states that it sent. A new
stage computes from those what its predecessor in the same place had computed, in the same shapes; what the first stage
computes, it computes from the tokens, which the requester has.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.errors import ProtocolError
from ainet.stages.protocol.generation import Key

if TYPE_CHECKING:
    from collections.abc import Sequence


MAX_SLOTS = 1024
Slot = Annotated[int, msgspec.Meta(ge=0, lt=MAX_SLOTS)]
Cells = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
FirstLayer = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The knowledge that a stage has of a session, after the end of its pipeline.

    Attributes
    ----------
    key
        Which session it is; 0 for one that has ended, and whose cells are still taken.
    slot
        Its place in the KV cache.
    known
        Positions in the cache.
    sent
        Positions of which it can send the hidden states once more.
    cells
        Cells that are taken: more than there are positions, if it went back.
    """

    key: Key
    slot: Slot
    known: Cells
    sent: Cells
    cells: Cells


class Continued(msgspec.Struct, frozen=True, array_like=True):
    """A session that can go on: every stage that is left knows `known` positions of it, in at most `cells` cells."""

    key: Key
    slot: Slot
    known: Cells
    cells: Cells


class Recovery(msgspec.Struct, frozen=True):
    """The inheritance of a new pipeline from a lost one.

    Attributes
    ----------
    sessions
        Those that can go on.
    new
        First layers of the stages that know nothing yet.
    spent_slots, spent_cells
        Slots of sessions that do not go on, and cells that they take as long as any session runs (in exact mode).
    """

    sessions: Annotated[list[Continued], msgspec.Meta(max_length=MAX_SLOTS)]
    new: Annotated[list[FirstLayer], msgspec.Meta(max_length=MAX_SLOTS)]
    spent_slots: Annotated[list[Slot], msgspec.Meta(max_length=MAX_SLOTS)]
    spent_cells: Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]

    def check(self, n_slots: int) -> None:
        """Raise `ProtocolError` unless it is possible with this many slots."""
        slots = [one.slot for one in self.sessions] + self.spent_slots
        if len(set(slots)) < len(slots) or any(slot >= n_slots for slot in slots):
            raise ProtocolError("The sessions that shall go on cannot be those of this pipeline.")


def plan_recovery(first_layers: Sequence[int], held: Sequence[Sequence[Held] | None]) -> Recovery | None:
    """Return what the stages of a pipeline can take over; None when that is nothing.

    Parameters
    ----------
    first_layers
        Of the stages, in order.
    held
        The knowledge of each of them of earlier sessions; None for a new one.
    """
    left = [{one.slot: one for one in stage} for stage in held if stage is not None]
    if not left:
        return None
    sources = [
        {one.slot: one for one in stage}
        for stage, following in itertools.pairwise(held)
        if stage is not None and following is None
    ]
    sessions = []
    for slot, one in left[0].items():
        same = [stage[slot] for stage in left if slot in stage and stage[slot].key == one.key]
        if one.key and len(same) == len(left):
            least = min([other.known for other in same] + [stage[slot].sent for stage in sources])
            if least > 0:
                sessions.append(Continued(one.key, slot, least, max(other.cells for other in same)))
    if not sessions:
        return None
    going = {session.slot for session in sessions}
    spent = {slot for stage in left for slot in stage} - going
    cells = sum(max(stage[slot].cells for stage in left if slot in stage) for slot in spent)
    new = [layer for layer, stage in zip(first_layers, held, strict=True) if stage is None]
    return Recovery(sessions, new, sorted(spent), cells)
