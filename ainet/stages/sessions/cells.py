"""Slots and cells of the KV cache: who has reserved them, and what exact mode does otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ainet.stages.llama.llama import Llama
    from ainet.stages.protocol.recovery import Recovery
    from ainet.stages.sessions.prefixes import Prefix
    from ainet.stages.sessions.session import Session


class Cells:
    """Every session reserves the cells that it may need, so that none ever fails for want of them.

    In exact mode nothing may depend on which sessions share the stages. What comes to cells that were freed is summed
    up in another order, so cells of sessions that have ended stay spent until no session runs. As tokens are then
    computed in the same shapes whatever is beside them, an answer is kept with its question, to the token.

    Parameters
    ----------
    llama
        The last stage.
    exact
        Whether that mode is on.
    """

    def __init__(self, llama: Llama, *, exact: bool) -> None:
        self._llama = llama
        self._exact = exact
        self._slots = list(range(llama.n_slots))
        self._spent = 0

    @property
    def has_slot(self) -> bool:
        """Whether another session has a place."""
        return bool(self._slots)

    @property
    def unit(self) -> int:
        """Tokens of which a multiple is kept for later questions."""
        return 1 if self._exact else self._llama.n_ubatch

    @property
    def is_exact(self) -> bool:
        """Whether nothing may depend on which sessions share the stages."""
        return self._exact

    @property
    def keeps_answers(self) -> bool:
        """Whether an answer is kept with its question."""
        return self._exact and self._llama.can_keep

    def recover(self, recovery: Recovery) -> None:
        """Note what the sessions of a lost pipeline have, those that go on and those that do not."""
        taken = {one.slot for one in recovery.sessions}
        if self._exact:
            self._spent = recovery.spent_cells
            taken.update(recovery.spent_slots)
        self._slots = [slot for slot in self._slots if slot not in taken]

    def needed(self, session: Session, prefix: Prefix | None, *, taken: int, known: int) -> int:
        """Return the cells that a session may come to use.

        Parameters
        ----------
        prefix
            The part of its beginning that the stages keep.
        taken, known
            Cells that it has from a lost pipeline, and positions that are known there.
        """
        longest = min(len(session.prompt) + session.request.max_tokens, self._llama.n_ctx)
        cells = max(longest, prefix.cells if prefix is not None else 0)
        # What was on its way when the pipeline was lost keeps its cells.
        return cells + max(0, taken - known) if self._exact else cells

    def free(self, reserved: int) -> int:
        """Return the cells that are left when sessions have reserved this many."""
        return self._llama.n_ctx - self._spent - reserved

    def take_slot(self) -> int:
        """Return a slot that no session has."""
        return self._slots.pop(0)

    def give_back(self, slot: int, cells: int, reserved: int) -> bool:
        """Take back the slot and the cells of a session that every stage has given up.

        Parameters
        ----------
        reserved
            Cells that other sessions have.

        Returns
        -------
        bool
            Whether every stage must clear its cache now: nobody uses it.
        """
        if self._exact:
            self._spent += cells
        else:
            self._slots.append(slot)
        if reserved or not self._spent:
            return False
        self._spent, self._slots = 0, list(range(self._llama.n_slots))
        return True

    def kept(self, session: Session) -> NDArray[np.int32]:
        """Return the tokens of a session that may be kept for later questions."""
        return session.tokens if self.keeps_answers else session.prompt

    def replayed(self, session: Session) -> list[tuple[int, list[int], int]]:
        """Return how generated tokens are computed again."""
        # Where the shapes do not matter, what was tried for nothing would only leave gaps among the cells.
        return session.plain_steps if self._exact else session.steps
