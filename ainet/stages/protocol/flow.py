"""How far an answer may go for now: whoever pays for it as it comes says so, and its owner's questions come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Flow:
    """Lets an answer go on, and pauses it.

    Parameters
    ----------
    most
        Tokens of it that may be said at first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: Whether something else comes first.
        self.is_paused = False
        self._tell: Callable[[int], object] | None = None

    @property
    def now(self) -> int:
        """The number of tokens that may be said now, all in all."""
        return 0 if self.is_paused else self._most

    def allow(self, most: int) -> None:
        """Let this number of tokens be said in all, as soon as nothing else comes first."""
        if most != self._most:
            self._most = most
            self._say()

    def pause(self) -> None:
        """Say no more tokens for now; the next one may be on its way."""
        self.is_paused = True
        self._say()

    def go_on(self) -> None:
        """Take `pause` back."""
        self.is_paused = False
        self._say()

    def connect(self, tell: Callable[[int], object] | None) -> None:
        """Say it to a session from now on, to none for None."""
        self._tell = tell

    def _say(self) -> None:
        if self._tell is not None:
            self._tell(self.now)
