"""The ledger as the owner sees it: balances, rows, its audit, and gifts."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING

from ainet.api import ledger as shown
from ainet.economy.audit import audit
from ainet.economy.credits import UNIT_PRICE
from ainet.economy.ledger import RowKind
from ainet.economy.pair_account import now
from ainet.economy.receipt import Finish
from ainet.economy.requests import Pay
from ainet.economy.voucher import Kind
from ainet.economy.words import seconds_of
from ainet.errors import AinetError, NotFound, UsageError
from ainet.links.standing import Standing, stranger_name
from ainet.units import DAY, parse_seconds

if TYPE_CHECKING:
    import logging

    from ainet.api.answers import Answers
    from ainet.economy.accounts import Accounts
    from ainet.economy.ledger import LedgerRow
    from ainet.economy.selling import Selling
    from ainet.links.links import Links

_KINDS: dict[RowKind, shown.LedgerKind] = {
    RowKind.SESSION: "session",
    RowKind.GIFT: "gift",
    RowKind.BONUS: "bonus",
    RowKind.RECOVERED: "recovered",
}


class Bookkeeping:
    """Answers what the owner wants to know of the ledger, and gives.

    Parameters
    ----------
    accounts
        With all contacts.
    selling
        Knows how fast this device is.
    """

    def __init__(
        self, accounts: Accounts, selling: Selling, links: Links, answers: Answers, log: logging.Logger
    ) -> None:
        self._accounts, self._selling, self._links, self._log = accounts, selling, links, log
        answers.add(shown.balance, self.balance)
        answers.add(shown.ledger, self.ledger)
        answers.add(shown.verify, self.verify)
        answers.add(shown.give, self.give)

    async def balance(self, why: bool = False) -> shown.Balances:
        """Return what this device and its contacts have had of each other; the reasons always come along.

        Where this device sells nothing, and so does not know what its minutes are worth, those of the others count.
        """
        found = []
        for account in await self._accounts.all():
            balance, pace = account.seller.balance, self._selling.pace
            had, gave = account.buyer.signed - account.buyer.gifts, balance.acknowledged - balance.acknowledged_gifts
            left = account.seller.left(now())
            found.append(
                shown.PairBalance(
                    peer=account.name,
                    had=had,
                    gave=gave,
                    left=left,
                    lost=balance.written_off,
                    gifts_given=account.buyer.gifts,
                    gifts_got=balance.acknowledged_gifts,
                    forgiven=balance.leaked,
                    most_s=seconds_of(account.seller.allowance.cap(balance.signed - balance.signed_gifts), pace),
                    had_s=seconds_of(had, account.pace),
                    gave_s=seconds_of(gave, pace),
                    left_s=seconds_of(left, pace or account.pace),
                )
            )
        shared = await self._accounts.shared()
        return shown.Balances(
            accounts=sorted(found, key=lambda one: one.peer),
            strangers_left_s=seconds_of(shared.left(now()), self._selling.pace),
            strangers_s=seconds_of(shared.allowance.daily, self._selling.pace),
            problem=self._accounts.damage,
        )

    async def ledger(self, days: int = 30) -> shown.LedgerRows:
        """Return the rows of the last days."""
        ledger = await self._accounts.ledger()
        names = {contact.id: contact.name for contact in self._links.identity.contacts.all()}
        since = int(time.time() - days * DAY)
        rows = await self._accounts.do(lambda: list(ledger.rows(since)))
        return shown.LedgerRows(rows=[_entry(row, names) for row in rows], problem=self._accounts.damage)

    async def verify(self) -> shown.Verified:
        """Check every row, and compare with the devices that can be reached."""
        ledger = await self._accounts.ledger()
        own = base64.b32decode(self._links.identity.id.upper() + "====")
        problems = await self._accounts.do(lambda: audit(ledger, own))
        rows = await self._accounts.do(lambda: sum(1 for _ in ledger.rows()))
        found = [shown.LedgerProblem(one.row, one.words) for one in problems]
        compared, unreached = [], []
        for account in await self._accounts.all():
            try:
                link = await self._links.connect(account.peer, Standing.CONTACT)
                words = await self._accounts.compare(link)
            except AinetError:
                unreached.append(account.name)
            else:
                compared.append(account.name)
                found += [shown.LedgerProblem(0, f"{account.name} {one}") for one in words]
        return shown.Verified(rows=rows, problems=found, compared=compared, unreached=unreached)

    async def give(self, name: str, amount: str, note: str = "") -> shown.Given:
        """Let a contact have time of this device, as if it had worked as much."""
        contact = next((one for one in self._links.identity.contacts.all() if name in (one.name, one.id)), None)
        if contact is None:
            names = ", ".join(one.name for one in self._links.identity.contacts.all()) or "nobody yet"
            raise NotFound(f"No contact is called {name!r}. Contacts are: {names}.")
        seconds = parse_seconds(amount)
        if not self._selling.pace:
            raise UsageError(
                "How much a minute of this device is worth, is known once it sells something: `ainet sell`, then give."
            )
        credits_ = round(seconds * self._selling.pace)
        if credits_ <= 0:
            raise UsageError("A gift of nothing is none. Give minutes or hours, such as 30m or 2h.")
        await self.pay(contact.id, credits_, Kind.GIFT, note)
        await self.tell(contact.id)
        return shown.Given(peer=contact.name, seconds=seconds, credits=credits_)

    async def pay(self, peer: str, amount: int, kind: Kind, note: str = "") -> None:
        """Sign for a gift or a bonus to a contact (node id).

        Raises
        ------
        AinetError
            It cannot be written down: then it is not given.
        """
        account = await self._accounts.of(peer)
        await account.give(amount, kind, note)
        self._accounts.replicate(account)

    async def tell(self, peer: str) -> None:
        """Tell a contact (node id) what was signed for it last, if it is there."""
        account = await self._accounts.of(peer)
        link = self._links.open_link(peer, Standing.CONTACT)
        if link is not None and account.signed is not None:
            try:
                await link.request(Pay(account.signed))
            except AinetError as exc:  # it is shown when the two meet again
                self._log.info("%s does not know of a gift yet: %s", account.name, exc.message)


def _entry(row: LedgerRow, names: dict[str, str]) -> shown.LedgerEntry:
    peer = base64.b32encode(row.peer).decode().rstrip("=").lower()
    return shown.LedgerEntry(
        id=row.id,
        peer=names.get(peer, stranger_name(peer)),
        is_own=row.is_own,
        kind=_KINDS[row.kind],
        session=row.session.hex(),
        credits=row.credits,
        lost=row.written_off,
        time=row.time,
        model=row.model,
        price=None if row.price is None else row.price / UNIT_PRICE,
        prompt_tokens=row.prompt,
        generated_tokens=row.generated,
        finish=None if row.finish is None else Finish(row.finish).name.lower(),
        note=row.note or "",
        checked=row.checked,
        check_limit=row.check_limit,
    )
