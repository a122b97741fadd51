"""Twins: two devices that run with one identity, since a data directory was copied.

Whoever has links to both finds out: a device that is there again while its link from before still answers is another
one. The one that has run for longer keeps working. The other is refused and told what to do; it then leaves everybody
alone for a while, so that nobody drops and dials for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.errors import AinetError, IdentityTaken, PeerUnreachable
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.timing import TIMING, Timing

if TYPE_CHECKING:
    import logging

    from ainet.identity.identity import Identity
    from ainet.links.link import PeerLink

ADVICE = (
    "On the device that is the copy, run `ainet down` and then `ainet up --new-identity`; a ticket (`ainet invite`) "
    "makes it a member of its own."
)


class TwinSeen(Request, frozen=True):
    """Tell a device that another one is there with its identity; `where` is the way to it, in words."""

    audience = Standing.CONTACT

    where: Annotated[str, msgspec.Meta(max_length=200)]


class Twins:
    """Knows of devices that run twice, and of this one's own twin.

    Parameters
    ----------
    identity
        Of this device.
    log
        Hears of each pair once.
    """

    def __init__(self, identity: Identity, log: logging.Logger, *, timing: Timing = TIMING) -> None:
        self._identity = identity
        self._log = log
        self._timing = timing
        self._known: dict[str, tuple[str, float]] = {}  # words and when they were last true, by the id of the device
        self._seen: set[tuple[str, str]] = set()  # ids, with the runs that were refused

    @property
    def warnings(self) -> list[str]:
        """What the owner should know, in words: while it is so, and a while longer."""
        latest = self._identity.now() - 2 * self._timing.twin_pause
        return [words for words, when in self._known.values() if when > latest]

    async def check(self, link: PeerLink, others: list[PeerLink]) -> list[PeerLink]:
        """Tell a device that was started anew from a twin, and return the links that end for the new one.

        Parameters
        ----------
        link
            The new link.
        others
            Open links to the same device; those of another run are asked whether they still live.

        Raises
        ------
        IdentityTaken
            They do, and have run for longer: `link` must end, with this reason.
        """
        strangers = [other for other in others if other.instance != link.instance]
        living = [other for other in strangers if await self._answers(other, link.path)]
        if not living:
            return strangers
        older = min([link, *living], key=lambda one: (one.started, one.instance))
        younger = next(one for one in (link, *living) if one.instance != older.instance)
        self._note(link, younger)
        taken = IdentityTaken(
            f"Another device runs with the same identity ({older.path}), and has done so for longer: one of the two "
            f"has a copy of the other's data directory. {ADVICE}"
        )
        if older is not link:
            raise taken
        for other in living:
            other.close(taken)
        return strangers

    async def answer(self, link: PeerLink, request: TwinSeen) -> None:
        """Note that this device has a twin."""
        words = (
            f"Another device has tried to work with this one's identity (seen by {link.peer_name}: {request.where}): "
            f"one of the two has a copy of the other's data directory. {ADVICE}"
        )
        if self._identity.id not in self._known:
            self._log.warning("%s", words)
        self._known[self._identity.id] = words, self._identity.now()

    async def _answers(self, other: PeerLink, where: str) -> bool:
        try:
            await other.request(TwinSeen(where[:200]), timeout=self._timing.twin)
        except PeerUnreachable:
            return False
        except AinetError:  # it does not know what that is, but it lives
            return True
        return not other.closed.is_set()

    def _note(self, link: PeerLink, younger: PeerLink) -> None:
        words = (
            f"{link.peer_name} runs on two devices at once, one of which has a copy of the other's data directory; the "
            f"one that was there first is used, the other one ({younger.path}) is refused. {ADVICE}"
        )
        if (link.peer_id, younger.instance) not in self._seen:
            self._seen.add((link.peer_id, younger.instance))
            self._log.warning("%s", words)
        self._known[link.peer_id] = words, self._identity.now()
