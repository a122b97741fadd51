"""The accounts with all other devices, and the ledger behind them."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ainet.economy.balance import Allowance, Balance
from ainet.economy.checks import lies
from ainet.economy.contribution import Record
from ainet.economy.ledger import DistributedLedger
from ainet.economy.pair_account import PairAccount, now
from ainet.economy.requests import ShowAccount, Shown
from ainet.economy.shared_allowance import SharedAllowance, had_beyond
from ainet.economy.voucher import Voucher, said
from ainet.errors import AinetError, NotEnough, NotFound, ProtocolError, Refused
from ainet.identity.certificates import read_ca, swarm_of
from ainet.links.standing import Standing, stranger_name
from ainet.signals import Signal
from ainet.sqlite import put_aside
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ainet.economy.checks import Verdict
    from ainet.identity.identity import Identity
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.swarm.feeds import Feeds
    from ainet.timing import Timing

T = TypeVar("T")
#: The log in which members keep each other's newest vouchers, and of how many accounts.
LOG, MOST_KEPT = "accounts", 100
#: What a stranger may have alone: they share an allowance.
NOTHING = Allowance(0, 0, 0)


class KeptAccount(msgspec.Struct, frozen=True):
    """The newest vouchers of an account, as a device's members keep them for it."""

    signed: Voucher | None
    held: Voucher | None


class Accounts:
    """Opens the account with each device when it is needed, and has both sides show what they hold when they meet.

    Parameters
    ----------
    path
        The ledger's file.
    links
        To the devices of other owners.
    feeds
        In which members keep the newest vouchers.
    allowance, shared
        Return what each contact may have beyond what it gave, and all strangers together.
    """

    def __init__(
        self,
        path: Path,
        links: Links,
        feeds: Feeds,
        log: logging.Logger,
        *,
        allowance: Callable[[], Allowance],
        shared: Callable[[], Allowance],
        timing: Timing,
    ) -> None:
        self._path, self._links, self._log = path, links, log
        self._allowance, self._shared_allowance = allowance, shared
        self._shared: SharedAllowance | None = None
        self._feeds = feeds
        self._timing = timing
        self._identity: Identity = links.identity
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._ledger: DistributedLedger | None = None
        self._opening = asyncio.Lock()
        self._open: dict[str, PairAccount] = {}
        #: Held while an account is opened, or retired.
        self._changing = asyncio.Lock()
        self._tasks = Tasks("An account was not compared with another device's", log)
        #: Why the ledger was begun anew, if it was.
        self.damage = ""
        #: Something was bought, sold, given or agreed.
        self.changed: Signal[[]] = Signal("an account has changed", log)
        links.handle(ShowAccount, self._show)
        links.on_linked(self._linked, Standing.CONTACT)
        links.on_linked(lambda link: link.on_close(self._stranger_left), Standing.STRANGER)
        links.home.on_left(lambda _: self._tasks.spawn(self.close()))
        feeds.remembered.connect(self._remember)

    async def stop(self) -> None:
        """Write down what is open, and close the file."""
        await self._tasks.stop()
        await self.close()
        self._thread.shutdown(wait=False)

    async def close(self) -> None:
        """End all sessions, and close the file; what is asked for later opens it again."""
        async with self._opening:
            for account in list(self._open.values()):
                await account.cut()
            self._open.clear()
            self._shared = None
            if self._ledger is not None:
                await self.do(self._ledger.close)
                self._ledger = None

    async def do(self, work: Callable[[], T]) -> T:
        """Do something with the ledger, in the thread that has it.

        Raises
        ------
        NotEnough
            It cannot be written.
        AinetError
            It is damaged.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.OperationalError as exc:
            raise NotEnough(
                f"The ledger cannot be written ({exc}): nothing is bought or sold until there is room on the disk, "
                f"and {self._path.name} in the data directory is writable."
            ) from exc
        except sqlite3.DatabaseError as exc:
            raise AinetError(
                f"The ledger is damaged ({exc}). Restart the node: it is put aside, and begun anew from what the "
                "devices of other owners hold."
            ) from exc

    async def ledger(self) -> DistributedLedger:
        """Return the ledger; a damaged one is put aside first."""
        async with self._opening:
            if self._ledger is None:
                self._ledger = await self.do(self._open_ledger)
            return self._ledger

    async def shared(self) -> SharedAllowance:
        """Return what strangers may have, all together."""
        ledger = await self.ledger()
        if self._shared is None:
            had = await self.do(lambda: had_beyond((one.id, one.balance) for one in ledger.accounts(of_strangers=True)))
            before = await self.do(ledger.given_to_strangers)
            before = before if before.moment else replace(before, moment=now())
            self._shared = self._shared or SharedAllowance(self._shared_allowance(), before, had)
            await self._keep_shared()
        return self._shared

    async def of(self, peer: str) -> PairAccount:
        """Return the account with a contact, or with a stranger that is linked (node id).

        Raises
        ------
        NotFound
            It is neither.
        """
        contact = self._identity.contacts.get(peer)
        stranger = self._links.strangers.swarm(peer) if contact is None else None
        if contact is None and stranger is None:
            raise NotFound("That device is no contact here (any more).")
        is_stranger = contact is None
        known = self._open.get(peer)
        if known is not None and known.is_stranger is is_stranger and not known.is_retired:
            return known
        ledger, shared = await self.ledger(), await self.shared()
        async with self._changing:
            known = self._open.get(peer)
            if known is not None and known.is_stranger is is_stranger and not known.is_retired:
                return known  # somebody else was first
            await self._retire(peer)
            swarm = stranger or (bytes.fromhex(swarm_of(read_ca(contact.ca))) if contact is not None else b"")
            key = base64.b32decode(peer.upper() + "====")
            given = NOTHING if is_stranger else self._allowance()
            found = await self.do(
                lambda: ledger.account(key, swarm, new=Balance.new(now(), given), is_stranger=is_stranger)
            )
            made = PairAccount(
                peer,
                contact.name if contact is not None else stranger_name(peer),
                found,
                given,
                is_stranger=is_stranger,
                changed=self.changed.emit,
                ledger=ledger,
                journal=self.do,
                signer=self._identity.sign,
                patience=self._timing.session_silence,
            )
            self._open[peer] = made
            if is_stranger:
                made.seller.share(shared, made.number)
        if not is_stranger:
            await made.allow(self._allowance())  # what the owner gives may have changed meanwhile
        return made

    async def all(self) -> list[PairAccount]:
        """Return the accounts with all contacts with which there is one."""
        ledger = await self.ledger()
        keys = {one.parties.payee for one in await self.do(lambda: ledger.accounts(of_strangers=False))}
        known = [contact.id for contact in self._identity.contacts.all()]
        return [await self.of(one) for one in known if base64.b32decode(one.upper() + "====") in keys]

    async def records(self) -> dict[str, Record]:
        """Return what was seen of each contact with which there is an account."""
        return {account.peer: await self.record_of(account) for account in await self.all()}

    async def record_of(self, account: PairAccount) -> Record:
        """Return what was seen of a device."""
        ledger = await self.ledger()
        finished, failed = await self.do(lambda: ledger.sessions(account.number))
        gave, had, checked = account.buyer.signed, account.seller.balance.acknowledged, await self.checks(account)
        return Record(gave, had, finished, failed, sum(checked), lies(checked))

    async def is_new(self, account: PairAccount) -> bool:
        """Tell whether nothing was bought of a device yet."""
        ledger = await self.ledger()
        return await self.do(lambda: ledger.is_new(account.number))

    async def checks(self, account: PairAccount) -> list[bool]:
        """Return which answers of a device passed, of those that were checked, in order."""
        ledger = await self.ledger()
        return await self.do(lambda: ledger.checks(account.number))

    async def note_check(self, session: bytes, found: Verdict) -> None:
        """Note what a check has found; what is wrong in another way than by its tokens is far above the limit."""
        ledger = await self.ledger()
        mean = max(found.mean, 2 * found.limit) if found.words else found.mean
        await self.do(lambda: ledger.note_check(session, mean, found.limit))

    async def compare(self, link: PeerLink) -> list[str]:
        """Return in which words a device and this one do not agree, after both have shown what they hold."""
        account = await self.of(link.peer_id)
        shown = await link.request(ShowAccount(account.held, account.signed), timeout=self._timing.meeting)
        await self._take(link, account, shown)
        words = []
        for mine, theirs, what in (
            (account.signed, shown.held, "holds of what this device signed"),
            (account.held, shown.signed, "has signed"),
        ):
            known, told = _total(mine), _total(theirs)
            if known != told:
                words.append(f"{what} {told:,} credits where {known:,} are known here")
        return words

    async def allow(self, *, to_contacts: bool = True) -> None:
        """Take over what the owner gives now to strangers, and to contacts."""
        for account in list(self._open.values()) if to_contacts else []:
            if not account.is_stranger:
                await account.allow(self._allowance())
        (await self.shared()).allowance = self._shared_allowance()

    async def met(self, link: PeerLink) -> PairAccount:
        """Return the account with a device after both have shown what they hold on this link.

        Raises
        ------
        AinetError
            The other device does not.
        """
        account = await self.of(link.peer_id)
        if not account.has_met(link):
            shown = await link.request(ShowAccount(account.held, account.signed), timeout=self._timing.meeting)
            await self._take(link, account, shown)
        return account

    def record(self, peer: str) -> Record:
        """Return what a device with which there is an open account gave and had."""
        account = self._open.get(peer)
        if account is None:
            return Record()
        balance = account.seller.balance
        return Record(account.buyer.signed, balance.acknowledged - balance.acknowledged_gifts + balance.written_off)

    async def keep(self, account: PairAccount) -> None:
        """Have what is now owed outlive this device: members keep it, and what strangers had is written down."""
        if account.is_stranger:
            await self._keep_shared()
        else:
            self.replicate(account)

    async def _keep_shared(self) -> None:
        if self._shared is not None and self._ledger is not None:
            self._shared.left(now())
            ledger, balance = self._ledger, self._shared.balance
            await self.do(lambda: ledger.keep_given_to_strangers(balance))

    def replicate(self, account: PairAccount) -> None:
        """Have members keep the newest vouchers of an account, for the day on which this device loses them."""
        if account.is_stranger:
            return
        known = self._feeds.keys(self._identity.id, LOG)
        changes: dict[str, KeptAccount | None] = {account.peer: KeptAccount(account.signed, account.held)}
        if account.peer not in known and len(known) >= MOST_KEPT:
            changes[known[0]] = None
        try:
            self._feeds.publish(LOG, changes)
        except AinetError as exc:
            self._log.warning("Members do not keep the account with %s: %s", account.name, exc.message)

    def _remember(self, log: str, changes: Mapping[str, msgspec.Raw]) -> None:
        if log == LOG:
            self._tasks.spawn(self._take_kept(changes))

    async def _take_kept(self, changes: Mapping[str, msgspec.Raw]) -> None:
        """Take what members have kept: this device may have been restored from a backup."""
        for peer, value in changes.items():
            try:
                kept = msgspec.msgpack.decode(value, type=KeptAccount | None)
                if kept is not None:
                    account = await self.of(peer)
                    await account.take_shown(None, kept.signed, kept.held)
                    # What this device had published since it was restored was older than what members had.
                    self.replicate(account)
            except (AinetError, msgspec.MsgspecError) as exc:
                self._log.info("What members kept of an account is left out: %s", exc)

    def _open_ledger(self) -> DistributedLedger:
        own = self._own_key(), bytes.fromhex(self._identity.swarm)
        try:
            return DistributedLedger(self._path, *own)
        except (AinetError, sqlite3.DatabaseError) as exc:
            if isinstance(exc, sqlite3.OperationalError) or "newer ainet" in str(exc) or not self._path.exists():
                raise
            aside = put_aside(self._path, int(time.time()))
            self.damage = (
                f"The ledger was damaged, and is put aside as {aside.name}. A new one was begun: devices of other "
                "owners tell what was signed when they are met."
            )
            self._log.error("%s (%s)", self.damage, exc)
            return DistributedLedger(self._path, *own)

    def _own_key(self) -> bytes:
        return base64.b32decode(self._identity.id.upper() + "====")

    def _linked(self, link: PeerLink) -> None:
        link.on_close(lambda closed: self._tasks.spawn(self._cut(closed)))
        self._tasks.spawn(self._meet(link))

    async def _meet(self, link: PeerLink) -> None:
        try:
            await self.met(link)
        except AinetError as exc:
            self._log.info("%s does not show its side of the account: %s", link.peer_name, exc.message)

    async def _cut(self, link: PeerLink) -> None:
        """End the sessions of a device to which the last link was lost."""
        account = self._open.get(link.peer_id)
        if account is not None and self._links.open_link(link.peer_id) is None:
            await account.cut()

    def _stranger_left(self, link: PeerLink) -> None:
        self._tasks.spawn(self._retire_stranger(link.peer_id))

    async def _retire_stranger(self, peer: str) -> None:
        async with self._changing:
            account = self._open.get(peer)
            if account is not None and account.is_stranger and self._links.open_link(peer) is None:
                await self._retire(peer)

    async def _retire(self, peer: str) -> None:
        """End all sessions of a stranger that is gone, or of a device that is one, or none, from now on."""
        account = self._open.get(peer)
        if account is not None:
            await account.retire()
            if self._shared is not None:
                self._shared.close(account.number)
            self._open.pop(peer, None)
            await self._keep_shared()

    async def _show(self, link: PeerLink, request: ShowAccount) -> Shown:
        account = await self.of(link.peer_id)
        if not (account.is_stranger and account.has_met(link)):  # each time could be a row that stays
            await self._take(link, account, request)
        return Shown(account.held, account.signed)

    async def _take(self, link: PeerLink, account: PairAccount, shown: ShowAccount | Shown) -> None:
        try:
            await account.take_shown(link, shown.held, shown.signed)
        except ProtocolError as exc:
            link.close(exc)
            raise Refused(f"{link.peer_name} shows an account that nobody signed: {exc.message}") from exc


def _total(voucher: Voucher | None) -> int:
    return said(voucher).total if voucher is not None else 0
