"""The order of sessions: users are treated alike, however much each of them asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ainet.stages.sessions.session import Session


class Turns:
    """Remembers when each user's last session began."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._begun = 0

    def note(self, user: str) -> None:
        """Note that a session of this user begins."""
        self._begun += 1
        self._last[user] = self._begun

    def next(
        self, waiting: Collection[Session], running: Collection[Session], goes_on: Callable[[Session], bool]
    ) -> Session:
        """Return the session that begins next.

        First come those that go on from a lost pipeline. Then comes the user with the fewest sessions running; among
        several, the one whose last session began the longest ago.
        """
        count = Counter(session.request.user for session in running)
        here = {session.request.user for session in waiting} | set(count)
        self._last = {user: turn for user, turn in self._last.items() if user in here}
        return min(
            waiting,
            key=lambda one: (not goes_on(one), count[one.request.user], self._last.get(one.request.user, 0)),
        )
