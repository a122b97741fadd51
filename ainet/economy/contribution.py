"""What others have done for this device: whom it serves first, and how far it trusts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Sessions and checks of which nothing is known yet count like this number that went well, and like one that did not.
GOOD_BEFORE, BAD_BEFORE = 4, 1


class Record(NamedTuple):
    """What this device has seen itself of another one.

    Attributes
    ----------
    gave, had
        Credits that it gave, and that it had.
    finished, failed
        Sessions sold to this device that came to their end, and that did not by its fault.
    passed
        Answers that were checked and were right.
    is_liar
        Whether answers were not from the model that it named.
    """

    gave: int = 0
    had: int = 0
    finished: int = 0
    failed: int = 0
    passed: int = 0
    is_liar: bool = False


class ContributionScore:
    """Scores of other devices, from what was seen and from what contacts vouch for.

    A contact vouches with its vouchers: it signed that it received something. All that one contact vouches for counts,
    together, at most what it gave this device: however many names stand behind it, they share that.

    Parameters
    ----------
    records
        By device.
    vouched
        By contact, the credits that it signed for, by device.
    """

    def __init__(self, records: Mapping[str, Record], vouched: Mapping[str, Mapping[str, int]]) -> None:
        self._records = records
        self._vouched: dict[str, float] = {}
        for contact, signed in vouched.items():
            worth = records.get(contact, Record()).gave
            whole = sum(amount for device, amount in signed.items() if device != contact)
            for device, amount in signed.items():
                if whole and device != contact:
                    self._vouched[device] = self._vouched.get(device, 0.0) + amount * min(1.0, worth / whole)

    def owed(self, device: str) -> int:
        """Return what this device owes another one; what that one owes is negative."""
        record = self._records.get(device, Record())
        return record.gave - record.had

    def vouched(self, device: str) -> float:
        """Return what contacts vouch for."""
        return self._vouched.get(device, 0.0)

    def trust(self, device: str) -> float:
        """Return how likely it is that a session with a device ends well, from 0 to 1; 0 for one that lied."""
        record = self._records.get(device, Record())
        if record.is_liar:
            return 0.0
        good = record.finished + record.passed + GOOD_BEFORE
        return good / (good + record.failed + BAD_BEFORE)

    def trust_reason(self, device: str) -> str:
        """Return why a device is trusted so far, in words."""
        record = self._records.get(device, Record())
        if record.is_liar:
            return "it has answered with another model than the one that it named"
        counts = (("came to their end", record.finished), ("did not", record.failed), ("were checked", record.passed))
        ended = ", ".join(f"{n} {what}" for what, n in counts)
        return f"of its answers {ended}; a device of which nothing is known begins at {GOOD_BEFORE} to {BAD_BEFORE}"


#: Ranks of those who buy.
CONTACT, STRANGER = 2, 3


class Asker(NamedTuple):
    """Somebody who waits for this device.

    Attributes
    ----------
    device
        Node id.
    rank
        0 for the owner, 1 for members, 2 for contacts, 3 for strangers.
    since
        When it began to wait (ms).
    """

    device: str
    rank: int
    since: int


def order_of_service(askers: list[Asker], score: ContributionScore) -> list[Asker]:
    """Return who is served first: the owner, members, then whom this device owes most, then who was vouched for."""
    bought = CONTACT  # strangers that are owed something come before contacts that owe something themselves

    def key(one: Asker) -> tuple[int, int, float, int, int, str]:
        rank = min(one.rank, bought)
        owed = score.owed(one.device) if rank == bought else 0
        vouched = score.vouched(one.device) if rank == bought else 0.0
        return rank, -owed, -vouched, one.rank, one.since, one.device

    return sorted(askers, key=key)
