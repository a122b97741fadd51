"""Incentives: bonuses for what is wanted, and what more would be used. Nothing is minted: each is its giver's."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from ainet.api import incentives as shown
from ainet.economy.voucher import Kind
from ainet.economy.wants import MOST_WANTS, NEEDED, Want
from ainet.errors import UsageError
from ainet.tasks import Tasks
from ainet.units import parse_seconds

if TYPE_CHECKING:
    import logging

    from ainet.api.answers import Answers
    from ainet.economy.bookkeeping import Bookkeeping
    from ainet.economy.demand import Demand
    from ainet.economy.selling import Selling
    from ainet.economy.wants import Wants
    from ainet.links.links import Links


class IncentiveManager:
    """Keeps what the owner wants, pays bonuses, and tells what would pay.

    Parameters
    ----------
    wants, demand
        What is wanted, and what was refused here.
    selling
        Knows how fast this device is.
    books
        Gives.
    """

    def __init__(
        self,
        *,
        wants: Wants,
        demand: Demand,
        selling: Selling,
        books: Bookkeeping,
        links: Links,
        answers: Answers,
        log: logging.Logger,
    ) -> None:
        self._wants, self._demand, self._selling, self._books = wants, demand, selling, books
        self._links, self._log = links, log
        self._paying, self._telling = Tasks("A bonus was not paid", log), Tasks("A bonus was not told", log)
        self._being_paid: set[str] = set()
        answers.add(shown.want, self.want)
        answers.add(shown.want_no_more, self.want_no_more)
        answers.add(shown.earn, self.earn)

    async def stop(self) -> None:
        """Finish what is being paid."""
        await self._telling.stop()
        await self._paying.finish()
        await self._wants.flush()
        await self._demand.flush()

    async def want(self, model: str, speed: float, bonus: str, until: str) -> shown.WantState:
        """Promise a bonus for a model."""
        seconds = parse_seconds(bonus)
        try:
            day = datetime.date.fromisoformat(until)
        except ValueError:
            raise UsageError(f"{until[:40]!r} is no date. Write year, month and day, such as 2027-03-31.") from None
        if day < datetime.date.today():
            raise UsageError(f"{until} is over.")
        if seconds <= 0 or not 0 <= speed <= 1e6:
            raise UsageError("A bonus is a time of this device, such as 2h, and a speed is at least 0 tokens a second.")
        if not self._selling.pace:
            raise UsageError("What a minute of this device is worth, is known once it sells something: `ainet sell`.")
        wanted = [one for one in self._wants.own() if one.model.casefold() != model.casefold()]
        if len(wanted) >= MOST_WANTS:
            raise UsageError(f"You want {MOST_WANTS} models already. `ainet want MODEL --no` takes one back.")
        self._wants.add(Want(model, speed, round(seconds * self._selling.pace), seconds, day.isoformat()))
        return self._state()

    async def want_no_more(self, model: str) -> shown.WantState:
        """Take a promise back."""
        if not self._wants.remove(model):
            names = ", ".join(one.model for one in self._wants.own()) or "nothing"
            raise UsageError(f"You do not want {model!r}. You want {names}.")
        return self._state()

    async def earn(self, days: int = 7) -> shown.Earnings:
        """Return what more would have been used here, and what contacts give a bonus for."""
        names = {contact.id: contact.name for contact in self._links.identity.contacts.all()}
        missed = [shown.MissedQuestions(reason, what, n) for reason, what, n in self._demand.missed(days)]
        wanted = [
            _shown(one, names[peer], 0)
            for peer, wants in self._wants.of_others.items()
            for one in wants
            if peer in names and one.is_open
        ]
        return shown.Earnings(days=days, missed=missed, wanted=wanted)

    def answered(self, seller: str, model: str, speed: float) -> None:
        """Count an answer of a seller (node id) that was checked, and right; pay the bonus that is due."""
        want = self._wants.answered(seller, model, speed)
        if want is not None and want.model not in self._being_paid:
            self._log.info("%s has answered %d questions with %s: its bonus is paid.", seller[:8], NEEDED, model)
            self._being_paid.add(want.model)
            self._paying.spawn(self._pay(seller, want))

    async def _pay(self, seller: str, want: Want) -> None:
        """Sign for a bonus; what was promised is promised until then."""
        try:
            await self._books.pay(seller, want.bonus, Kind.BONUS)
            if want in self._wants.own():
                self._wants.remove(want.model)
        finally:
            self._being_paid.discard(want.model)
        self._telling.spawn(self._books.tell(seller))

    def _state(self) -> shown.WantState:
        return shown.WantState([_shown(one, "", self._wants.progress(one.model)) for one in self._wants.own()])


def _shown(want: Want, peer: str, answers: int) -> shown.Wanted:
    return shown.Wanted(
        model=want.model,
        speed=want.speed,
        seconds=want.seconds,
        until=want.until,
        peer=peer,
        answers=answers,
        needed=NEEDED,
    )
