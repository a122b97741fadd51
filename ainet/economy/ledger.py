"""The ledger: what this device and others signed for, session by session, in a file of its own.

Every change is one transaction that is on the disk before anything is said about it. There is no balance of a whole
network: each pair of devices has its own account, and both keep it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ainet.economy.balance import Balance
from ainet.economy.ledger_schema import SCHEMA, VERSION
from ainet.economy.receipt import Finish
from ainet.economy.signed import SESSION_BYTES, Parties
from ainet.economy.voucher import Body, Kind, Voucher
from ainet.sqlite import open_database

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ainet.economy.order import Order
    from ainet.economy.receipt import Receipt, ReceiptBody

ADVICE = "Move it away: a new one is begun, and members and the devices of other owners tell what they signed."
NO_SESSION = bytes(SESSION_BYTES)
#: Accounts of strangers with which nothing was ever bought or sold.
_UNUSED = (
    "is_stranger AND NOT EXISTS (SELECT 1 FROM vouchers WHERE account = accounts.id) "
    "AND NOT EXISTS (SELECT 1 FROM rows WHERE account = accounts.id)"
)
#: Sessions whose rows are found at once: many more than can be open.
MOST_LATELY = 1024


class RowKind(IntEnum):
    """What a row is about."""

    SESSION = 0
    GIFT = 1
    BONUS = 2
    RECOVERED = 3


class Model(NamedTuple):
    """A model as it is sold: the SHA-256 of its manifest, its name, and its active parameters (millions)."""

    digest: bytes
    name: str
    parameters: int


class Account(NamedTuple):
    """The account with another device.

    Attributes
    ----------
    parties
        This device as payer, the other one as payee.
    signed, held
        The highest voucher of this device for the other one, and the other way round.
    pace
        Credits that the other device computes in a second, as it said last; 0: not known.
    """

    id: int
    parties: Parties
    balance: Balance
    signed: Voucher | None
    held: Voucher | None
    pace: int = 0


class LedgerRow(NamedTuple):
    """A row as people look at it; what it does not have is None."""

    id: int
    peer: bytes
    is_own: bool
    kind: RowKind
    session: bytes
    credits: int
    written_off: int
    time: int
    model: str | None
    price: int | None
    prompt: int | None
    generated: int | None
    finish: int | None
    checked: float | None
    check_limit: float | None
    note: str | None


class DistributedLedger:
    """One device's part of what devices owe each other.

    Parameters
    ----------
    path
        SQLite file.
    own_key, own_swarm
        This device's raw public key, and what identifies its swarm.

    Raises
    ------
    AinetError
        The file is damaged, or cannot be written.
    """

    def __init__(self, path: Path, own_key: bytes, own_swarm: bytes) -> None:
        self._file = open_database(path, SCHEMA, VERSION, advice=ADVICE)
        self._file.execute("PRAGMA synchronous = FULL")  # what was acknowledged outlives a power cut
        self._own_key, self._own_swarm = own_key, own_swarm
        #: The rows of sessions that began lately: an index of all would be a tenth of the file.
        self._lately: dict[tuple[int, bool, bytes], int] = {}
        with self._transaction():  # what was open when this device ended was not acknowledged
            self._file.execute("UPDATE accounts SET written_off = written_off + at_risk, at_risk = 0")
            self._file.execute(f"DELETE FROM accounts WHERE {_UNUSED}")  # noqa: S608

    @property
    def file(self) -> sqlite3.Connection:
        """The database, for whoever reads or checks it."""
        return self._file

    def account(
        self, peer: bytes, peer_swarm: bytes, *, new: Balance | None = None, is_stranger: bool = False
    ) -> Account:
        """Return the account with a device (raw public key), a new one where there is none.

        Parameters
        ----------
        new
            The balance with which a new one begins.
        is_stranger
            Whether nothing is known of the device now; that is noted.
        """
        key = (peer, peer_swarm, self._own_swarm)
        where = "WHERE peer = ? AND peer_swarm = ? AND own_swarm = ?"
        columns = "id, written_off, leaked, begun_at, moment, pace, is_stranger"
        row = self._file.execute(f"SELECT {columns} FROM accounts {where}", key).fetchone()  # noqa: S608
        if row is None:
            begun = new or Balance()
            with self._transaction():
                self._file.execute(
                    "INSERT INTO accounts (peer, peer_swarm, own_swarm, begun_at, moment, is_stranger) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (*key, begun.begun_at, begun.moment, is_stranger),
                )
            row = self._file.execute(f"SELECT {columns} FROM accounts {where}", key).fetchone()  # noqa: S608
        number, written_off, leaked, begun_at, moment, pace, was_stranger = row
        parties = Parties(self._own_key, peer, self._own_swarm, peer_swarm)
        signed, held = self.newest(number, is_own=True), self.newest(number, is_own=False)
        paid, got = _totals(signed), _totals(held)
        balance = Balance(
            *got,
            signed=paid[0],
            signed_gifts=paid[1],
            written_off=written_off,
            leaked=leaked,
            begun_at=begun_at,
            moment=moment,
        )
        if was_stranger != is_stranger:
            # What strangers share is not used up by what somebody else's allowance has given.
            if is_stranger:
                balance = replace(balance, leaked=leaked + max(balance.level, 0))
            elif new is not None:
                balance = replace(balance, begun_at=max(begun_at, new.begun_at), moment=max(moment, new.moment))
            with self._transaction():
                self._file.execute("UPDATE accounts SET is_stranger = ? WHERE id = ?", (is_stranger, number))
                self._keep(number, balance, 0)
        return Account(number, parties, balance, signed, held, pace)

    def accounts(self, *, of_strangers: bool | None = None) -> list[Account]:
        """Return the accounts of this device in its swarm.

        Parameters
        ----------
        of_strangers
            Only those that are accounts of strangers, or only those that are not; None: all.
        """
        found = self._file.execute(
            "SELECT peer, peer_swarm, is_stranger FROM accounts "
            "WHERE own_swarm = ?1 AND is_stranger = coalesce(?2, is_stranger)",
            (self._own_swarm, of_strangers),
        )
        return [self.account(peer, swarm, is_stranger=bool(one)) for peer, swarm, one in found.fetchall()]

    def drop_unused(self, account: int) -> None:
        """Forget the account of a stranger with which nothing was ever bought or sold."""
        with self._transaction():
            self._file.execute(f"DELETE FROM accounts WHERE id = ? AND {_UNUSED}", (account,))  # noqa: S608

    def given_to_strangers(self) -> Balance:
        """Return what was given away of the allowance that strangers share, and when that was counted."""
        row = self._file.execute(
            "SELECT leaked, moment FROM strangers WHERE own_swarm = ?", (self._own_swarm,)
        ).fetchone()
        return Balance(leaked=row[0], moment=row[1]) if row is not None else Balance()

    def keep_given_to_strangers(self, balance: Balance) -> None:
        """Note what was given away of the allowance that strangers share."""
        with self._transaction():
            self._file.execute(
                "INSERT OR REPLACE INTO strangers VALUES (?, ?, ?)", (self._own_swarm, balance.leaked, balance.moment)
            )

    def newest(self, account: int, *, is_own: bool) -> Voucher | None:
        """Return the highest voucher of one direction of an account."""
        row = self._file.execute(
            "SELECT body, signature FROM vouchers WHERE account = ? AND is_own = ?", (account, is_own)
        ).fetchone()
        return Voucher(*row) if row is not None else None

    def begin(self, account: int, order: Order, model: Model, *, is_own: bool, at_risk: int = 0) -> None:
        """Note a session before anything is done for it.

        Parameters
        ----------
        is_own
            Whether this device is the buyer.
        at_risk
            What may be unacknowledged of all open sessions of the account, when this device is the seller.
        """
        with self._transaction():
            self._file.execute("INSERT OR IGNORE INTO models (digest, name, parameters) VALUES (?, ?, ?)", model)
            (number,) = self._file.execute(
                "SELECT id FROM models WHERE digest = ? AND name = ? AND parameters = ?", model
            ).fetchone()
            begun = self._file.execute(
                "INSERT INTO rows (account, is_own, kind, session, time, model, price, prompt, generated) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (account, is_own, RowKind.SESSION, order.session, _now(), number, order.rate.price, order.prompt),
            )
            while len(self._lately) >= MOST_LATELY:
                del self._lately[next(iter(self._lately))]
            self._lately[account, is_own, order.session] = begun.lastrowid or 0
            if not is_own:
                self._file.execute("UPDATE accounts SET at_risk = ? WHERE id = ?", (at_risk, account))

    def note_voucher(
        self,
        account: int,
        voucher: Voucher,
        body: Body,
        parts: Mapping[bytes, int],
        *,
        is_own: bool,
        balance: Balance | None = None,
        at_risk: int = 0,
        note: str = "",
    ) -> bool:
        """Note a voucher that was signed, before it is sent, or that was read, before it is relied on.

        Parameters
        ----------
        parts
            By session that began since this device did, the credits by which it raises the total. What is more is a
            gift, or has become known again.
        balance, at_risk
            Of the account from now on, when this device is the seller.
        note
            What a gift is for.

        Returns
        -------
        bool
            Whether it is higher than what was known; otherwise nothing is noted.
        """
        before, gifts_before = _totals(self.newest(account, is_own=is_own))
        if body.total <= before:
            return False
        gifts = min(max(body.gifts - gifts_before, 0), body.total - before)
        rest = body.total - before - gifts - sum(parts.values())
        if rest < 0:
            raise ValueError("the parts are more than the whole")
        with self._transaction():
            self._file.execute(
                "INSERT OR REPLACE INTO vouchers VALUES (?, ?, ?, ?)",
                (account, is_own, voucher.body, voucher.signature),
            )
            said = (body.total, body.gifts, body.tokens, body.digest, body.time, voucher.signature)
            for session, amount in parts.items():
                self._file.execute(
                    "UPDATE rows SET credits = credits + ? WHERE id = ?",
                    (amount, self._row(account, session, is_own=is_own)),
                )
            if body.session in parts:
                self._file.execute(
                    "UPDATE rows SET total = ?, gifts = ?, tokens = ?, digest = ?, signed = ?, signature = ?, "
                    "output_digest = nullif(output_digest, ?) WHERE id = ?",
                    (*said, body.digest, self._row(account, body.session, is_own=is_own)),
                )
            # What is a gift or recovered is raised by this voucher, too.
            for kind, amount in ((_GIFTS.get(body.kind, RowKind.GIFT), gifts), (RowKind.RECOVERED, rest)):
                if amount:
                    self._file.execute(
                        "INSERT INTO rows (account, is_own, kind, session, credits, time, total, gifts, tokens, "
                        "digest, signed, signature, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''))",
                        (account, is_own, kind, body.session, amount, _now(), *said, note),
                    )
            self._keep(account, balance, at_risk)
        return True

    def end(
        self,
        account: int,
        session: bytes,
        *,
        is_own: bool,
        generated: int,
        written_off: int = 0,
        receipt: tuple[Receipt, ReceiptBody] | None = None,
        is_left: bool = False,
        balance: Balance | None = None,
        at_risk: int = 0,
    ) -> None:
        """Note the end of a session, with the seller's receipt, if there is one.

        Parameters
        ----------
        is_left
            Whether its buyer ended it, by no fault of the seller.
        """
        with self._transaction():
            row = self._row(account, session, is_own=is_own)
            self._file.execute(
                "UPDATE rows SET generated = ?, written_off = ? WHERE id = ?", (generated, written_off, row)
            )
            if is_left:
                self._file.execute("UPDATE rows SET finish = ? WHERE id = ?", (Finish.CANCELLED, row))
            if receipt is not None:
                signed, body = receipt
                self._file.execute(
                    "UPDATE rows SET seed = ?, finish = ?, prompt_digest = ?, output_digest = nullif(?, digest), "
                    "receipted = ?, receipt = ? WHERE id = ?",
                    (body.seed, body.finish, body.prompt_digest, body.output_digest, body.time, signed.signature, row),
                )
            self._keep(account, balance, at_risk)

    def keep(self, account: int, balance: Balance, at_risk: int = 0) -> None:
        """Note a balance that changed: something was written off, or given away as time went by."""
        with self._transaction():
            self._keep(account, balance, at_risk)

    def note_check(self, session: bytes, mean: float, limit: float) -> None:
        """Note what a check of an answer that was bought has found."""
        with self._transaction():
            self._file.execute(
                "UPDATE rows SET checked = ?, check_limit = ? WHERE session = ? AND is_own AND kind = ?",
                (mean, limit, session, RowKind.SESSION),
            )

    def checks(self, account: int) -> list[bool]:
        """Return which answers of a device were what they should have been, of those that were checked, in order."""
        found = self._file.execute(
            "SELECT checked <= check_limit FROM rows WHERE account = ? AND is_own AND checked IS NOT NULL ORDER BY id",
            (account,),
        )
        return [bool(one) for (one,) in found]

    def note_pace(self, account: int, pace: int) -> None:
        """Note how fast the other device says that it is (credits a second)."""
        with self._transaction():
            self._file.execute("UPDATE accounts SET pace = ? WHERE id = ?", (pace, account))

    def sessions(self, account: int) -> tuple[int, int]:
        """Return how many sessions that were bought came to their end, and how many did not by the seller's fault."""
        finished, begun = self._file.execute(
            "SELECT count(receipt), count(*) FROM rows WHERE account = ? AND is_own AND kind = ? "
            "AND (receipt IS NOT NULL OR finish IS NULL)",
            (account, RowKind.SESSION),
        ).fetchone()
        return finished, begun - finished

    def is_new(self, account: int) -> bool:
        """Tell whether nothing was bought of a device yet."""
        found = self._file.execute(
            "SELECT 1 FROM rows WHERE account = ? AND is_own AND kind = ?", (account, RowKind.SESSION)
        )
        return found.fetchone() is None

    def rows(self, since: int = 0) -> Iterator[LedgerRow]:
        """Yield the rows of all accounts from a time (unix seconds) on, the oldest first."""
        found = self._file.execute(
            "SELECT rows.id, peer, is_own, kind, session, credits, rows.written_off, time, name, price, prompt, "
            "generated, finish, checked, check_limit, note FROM rows JOIN accounts ON accounts.id = account "
            "LEFT JOIN models ON models.id = model WHERE time >= ? ORDER BY rows.id",
            (since,),
        )
        for number, peer, is_own, kind, *rest in found:
            yield LedgerRow(number, peer, bool(is_own), RowKind(kind), *rest)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _row(self, account: int, session: bytes, *, is_own: bool) -> int:
        """Return the number of a session's row; those that began lately are known, others are looked for."""
        number = self._lately.get((account, is_own, session))
        if number is None:
            (number,) = self._file.execute(
                "SELECT max(id) FROM rows WHERE account = ? AND is_own = ? AND session = ?", (account, is_own, session)
            ).fetchone()
        if number is None:
            raise ValueError("no such session")
        return int(number)

    def _keep(self, account: int, balance: Balance | None, at_risk: int) -> None:
        if balance is not None:
            self._file.execute(
                "UPDATE accounts SET written_off = ?, leaked = ?, begun_at = ?, moment = ?, at_risk = ? WHERE id = ?",
                (balance.written_off, balance.leaked, balance.begun_at, balance.moment, at_risk, account),
            )

    def _transaction(self) -> sqlite3.Connection:
        self._file.execute("BEGIN IMMEDIATE")
        return self._file  # as a context it commits, or takes everything back


_GIFTS = {Kind.GIFT: RowKind.GIFT, Kind.BONUS: RowKind.BONUS}


def _totals(voucher: Voucher | None) -> tuple[int, int]:
    """Return the total and the gifts of a voucher that was checked when it was noted."""
    if voucher is None:
        return 0, 0
    body = msgspec.msgpack.decode(voucher.body, type=Body)
    return body.total, body.gifts


def _now() -> int:
    return int(time.time())
