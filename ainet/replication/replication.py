"""Replication: the owner's devices tell each other which documents they have, and keep those of the others.

Each device signs an entry for each of its documents, and says in its feed how many entries there are. Entries and
documents are asked for from their device, or from any other one that has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import TYPE_CHECKING

from ainet.errors import AinetError, NotFound, PeerUnreachable, Refused
from ainet.links.standing import Standing
from ainet.replication.entries import said, signer
from ainet.replication.requests import (
    MAX_ENTRIES,
    PIECE,
    ContentEnd,
    ContentPiece,
    JournalEntries,
    ReadContent,
    SyncJournals,
    TellJournal,
)
from ainet.storage.journal import OWN
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.replication.entries import SignedEntry
    from ainet.storage.records import Entry
    from ainet.storage.replicas import Replicas
    from ainet.swarm.feeds import Feeds
    from ainet.timing import Timing

#: The feed in which a device says how many entries it has, and under which key.
FEED, HEAD = "context", "head"
#: Documents that are asked for at once.
AT_ONCE = 8
#: Documents that have come, after which vectors are made of the first ones.
TOLD_AFTER = 200
#: Bytes on the disk for each byte of a document: its text, the index of its words, and vectors.
COST = 4.5


class Replication:
    """Brings this device and the other ones of its owner up to date with each other.

    Parameters
    ----------
    replicas
        What is known.
    links, feeds
        To the others.
    disk
        Bytes that others' documents may take here.
    changed
        Called after something has become known.
    removed
        Called after something has to leave the disk.
    """

    def __init__(
        self,
        replicas: Replicas,
        *,
        links: Links,
        feeds: Feeds,
        disk: int,
        changed: Callable[[], None],
        removed: Callable[[], None],
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self._replicas, self._links, self._feeds = replicas, links, feeds
        self._me = links.identity.id
        self._budget = int(disk / COST)
        self._changed, self._removed = changed, removed
        self._log, self._timing = log, timing
        self._tasks = Tasks("Documents were not exchanged", log)
        self._sign, self._fetch = asyncio.Event(), asyncio.Event()
        self._pulling: dict[str, bool] = {}
        links.on_linked(self._linked)
        feeds.on_change(self._heard)
        self._tasks.spawn(self._keep(self._sign, self._sign_all), name="signing documents")
        self._tasks.spawn(self._keep(self._fetch, self._fetch_all), name="fetching documents")
        self._tasks.spawn(self._begin())

    def notice(self) -> None:
        """Tell others soon what has changed here."""
        self._sign.set()

    def behind(self) -> list[str]:
        """Return the members (node ids) that have said that they have documents of which nothing is known here yet."""
        heads = self._replicas.heads()
        return [
            member.id
            for member in self._links.identity.roster.members
            if member.id != self._me and self._head(member.id) > heads.get(member.id, 0)
        ]

    async def keep_members(self) -> None:
        """Know nothing any more of devices that are no members."""
        members = {member.id for member in self._links.identity.roster.members}
        if await asyncio.to_thread(self._replicas.keep_only, members):
            self._removed()

    async def stop(self) -> None:
        """End what is being done."""
        await self._tasks.stop()

    # --- what others ask -------------------------------------------------------------------------

    async def answer_sync(self, _link: PeerLink, request: SyncJournals) -> JournalEntries:
        """Return the entries that the asker lacks."""
        return await asyncio.to_thread(self._lacking, request)

    async def answer_tell(self, link: PeerLink, request: TellJournal) -> None:
        """Go beyond entries of this device's own that a member knows."""
        self._log.info("%s knows other documents of this device than it has.", link.peer_name)
        entries = await asyncio.to_thread(lambda: [one.open(self._me) for one in request.entries])
        if any(one.origin != OWN for one in entries):
            raise Refused("These are entries of another device.")
        await asyncio.to_thread(self._replicas.meet_own, entries, request.after)
        self._sign.set()

    async def answer_read(
        self, _link: PeerLink, request: ReadContent
    ) -> AsyncGenerator[ContentPiece | ContentEnd, None]:
        """Yield the pieces of a document, then its salt; raises `NotFound` where it is not here (any more)."""
        origin = OWN if request.origin == self._me else request.origin
        salt, content = await asyncio.to_thread(self._replicas.read, origin, request.item, request.seq)
        packed = await asyncio.to_thread(zlib.compress, content, 1)
        for begin in range(0, len(packed), PIECE):
            yield ContentPiece(packed[begin : begin + PIECE])
        yield ContentEnd(salt)

    def _lacking(self, request: SyncJournals) -> JournalEntries:
        found: list[SignedEntry] = []
        for origin in self._replicas.heads():
            name = self._me if origin == OWN else origin
            if self._links.identity.roster.member(name) is not None and len(found) <= MAX_ENTRIES:
                most = MAX_ENTRIES + 1 - len(found)
                found += [said(one, self._me) for one in self._replicas.since(origin, request.known.get(name, 0), most)]
        is_all = len(found) <= MAX_ENTRIES
        return JournalEntries(found[:MAX_ENTRIES], more=not is_all, own=self._replicas.sums(OWN) if is_all else None)

    # --- what is told ----------------------------------------------------------------------------

    async def _sign_all(self) -> None:
        head = await asyncio.to_thread(self._replicas.sign, signer(self._me, self._links.identity.sign))
        if head:
            self._feeds.publish(FEED, {HEAD: head})

    # --- what is asked for -----------------------------------------------------------------------

    async def _begin(self) -> None:
        await self.keep_members()
        self._sign.set()
        self._fetch.set()
        for link in self._links.links():
            self._linked(link)

    def _linked(self, link: PeerLink) -> None:
        self._tasks.spawn(self._pull(link.peer_id))

    def _heard(self, author: str, log: str) -> None:
        if log == FEED and author != self._me:
            linked = {link.peer_id for link in self._links.links()}
            for peer in [author] if author in linked else linked:
                self._tasks.spawn(self._pull(peer))

    def _head(self, node_id: str) -> int:
        return self._feeds.get(node_id, FEED, HEAD, int) or 0

    async def _pull(self, peer: str) -> None:
        """Ask a member for entries; who asks meanwhile has it asked once more."""
        if peer in self._pulling:
            self._pulling[peer] = True
            return
        self._pulling[peer] = True
        try:
            while self._pulling[peer]:
                self._pulling[peer] = False
                more = True
                while more and (link := self._links.open_link(peer, Standing.MEMBER)) is not None:
                    heads = await asyncio.to_thread(self._replicas.heads)
                    known = {self._me if origin == OWN else origin: seq for origin, seq in heads.items()}
                    answer = await link.request(SyncJournals(known))
                    more = answer.more
                    await self._adopt(answer.entries)
                    if answer.own is not None and not more:
                        await self._compare(link, answer.own)
        finally:
            del self._pulling[peer]
            self._fetch.set()  # it may have what others have not

    async def _adopt(self, entries: list[SignedEntry]) -> None:
        known = [one for one in entries if self._links.identity.roster.member(one.origin) is not None]

        def adopt() -> bool:
            return self._replicas.adopt([one.open(self._me) for one in known])

        if known:
            is_gone = await asyncio.to_thread(adopt)
            if is_gone:
                self._removed()
        if any(one.origin == self._me for one in known):
            self._sign.set()

    async def _compare(self, link: PeerLink, own: tuple[int, int]) -> None:
        """Tell a member which entries of its own are known of it, if these are not those that it has."""
        if await asyncio.to_thread(self._replicas.sums, link.peer_id) == own:
            return
        seq = 0
        while known := await asyncio.to_thread(self._replicas.since, link.peer_id, seq, MAX_ENTRIES):
            await link.request(TellJournal([said(one, self._me) for one in known], seq))
            seq = known[-1].seq

    async def _fetch_all(self) -> None:
        wanted, given_up = await asyncio.to_thread(self._replicas.plan, self._budget)
        if given_up:
            await asyncio.to_thread(self._replicas.give_up, given_up)
            self._removed()
        gate = asyncio.Semaphore(AT_ONCE)
        failed: list[AinetError] = []
        fetched: list[Entry] = []

        async def fetch(entry: Entry) -> None:
            async with gate:
                if not failed or not isinstance(failed[-1], PeerUnreachable):
                    try:
                        await self._fetch_one(entry)
                    except AinetError as exc:
                        failed.append(exc)
                    else:
                        fetched.append(entry)
                        if len(fetched) % TOLD_AFTER == 0:
                            self._changed()

        await asyncio.gather(*(fetch(entry) for entry in wanted))
        if fetched:
            self._changed()
        if failed:
            self._log.info("Documents of other devices are missing: %s", failed[-1].message)
            if self._links.links() and any(not isinstance(one, NotFound | Refused) for one in failed):
                await asyncio.sleep(self._timing.context_again)
                self._fetch.set()

    async def _fetch_one(self, entry: Entry) -> None:
        """Fetch a version from its device, or from others; raises what the last one said."""
        error: AinetError = PeerUnreachable("no device that has them is linked.")
        peers = dict.fromkeys([entry.origin, *(link.peer_id for link in self._links.links())])
        for peer in peers:
            if (link := self._links.open_link(peer, Standing.MEMBER)) is not None:
                try:
                    salt, content = await _read(link, entry)
                    await asyncio.to_thread(self._replicas.put, entry, salt, content)
                    return
                except AinetError as exc:
                    error = exc
        raise error

    async def _keep(self, event: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work whenever it is wished, also after it has failed."""
        while True:
            await event.wait()
            await asyncio.sleep(self._timing.context_gather)
            event.clear()
            try:
                await work()
                continue
            except AinetError as exc:
                self._log.warning("Documents were not exchanged: %s", exc.message)
            except Exception:
                self._log.exception("Documents were not exchanged.")
            await asyncio.sleep(self._timing.context_again)
            event.set()  # what was wished still is


async def _read(link: PeerLink, entry: Entry) -> tuple[bytes, bytes]:
    """Return the salt and the content of a version that a member sends; raises `Refused` when it sends too much."""
    packed, salt = bytearray(), b""
    async with contextlib.aclosing(link.stream(ReadContent(entry.origin, entry.item, entry.seq))) as items:
        async for item in items:
            if isinstance(item, ContentEnd):
                salt = item.salt
            else:
                packed += item.data
            if len(packed) > entry.size + PIECE:
                raise Refused("A document that a member sent is larger than its owner said.")
    return salt, await asyncio.to_thread(_unpacked, packed, entry.size)


def _unpacked(packed: bytes | bytearray, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as exc:
        raise Refused(f"A document that a member sent cannot be unpacked ({exc}).") from exc
