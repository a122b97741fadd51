"""Drafts for the sessions of a pipeline, and the cost of laps that carry them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ainet.stages.sessions.drafts import Drafter, LapTime

if TYPE_CHECKING:
    from ainet.stages.sessions.session import Drawn, Session


class Drafting:
    """Gives sessions their drafts while they are alone.

    Where several sessions share the stages there is work enough; and in exact mode, a token that was tried for nothing
    would leave a hole among the cells of the others.

    Parameters
    ----------
    enabled
        Whether anything is tried at all.
    most
        Most tokens that can be tried at once.
    """

    def __init__(self, *, enabled: bool, most: int) -> None:
        self._enabled = enabled and most > 0
        self._most = most
        self._lap = LapTime()

    def begin(self, session: Session) -> None:
        """Let a session have drafts, of what is known of its text so far."""
        if self._enabled:
            session.drafter = Drafter(self._lap)
            session.drafter.extend(session.tokens.tolist())

    def after(self, session: Session, drawn: Drawn, tried: int, *, is_alone: bool, judged: int = 0) -> list[int]:
        """Return the tokens that are tried after the one that was drawn last.

        Parameters
        ----------
        drawn, tried
            The tokens of the last lap, and the number of tokens that were tried in it.
        is_alone
            Whether no other session runs or waits.
        judged
            Tokens that may be looked at together, where they are known: those of a prompt, or of an expected answer.
        """
        if (certain := session.certain_next(drawn.position, judged)) is not None:
            return certain
        drafter = session.drafter
        if drafter is None:
            return []
        drafter.extend(drawn.tokens)
        drafter.judge(len(drawn.tokens), tried)
        now = time.perf_counter()
        if is_alone and session.sent:
            self._lap.measure(tried + 1, now - session.sent)
        session.sent = now if is_alone else 0.0
        return session.propose(self._most) if is_alone else []
