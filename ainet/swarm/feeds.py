"""The signed logs that this node knows: its own and those of other members, kept on disk and passed on."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ainet.errors import AinetError, Refused
from ainet.identity.roster import NodeId
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.signals import Signal
from ainet.sqlite import open_database
from ainet.swarm.feed import MAX_BODY, NULL, Body, Entry, Feed, FeedName, Place, make_entry
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from ainet.links.link import PeerLink
    from ainet.links.links import Links

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    author TEXT, log TEXT, epoch INTEGER, seq INTEGER, body BLOB, signature BLOB, PRIMARY KEY (author, log, epoch, seq)
) WITHOUT ROWID;
"""
#: After this many entries the author writes a snapshot.
COMPACT_AFTER = 64
MAX_SAID = MAX_BODY - 1024  # bytes in one log
MAX_LOGS = 4096
LOGS_OF_ONE = 8
MAX_ENTRIES = 4096  # in one message
#: Bytes of entries in one message; who lacks more asks again.
MAX_BATCH = 1024 * 1024


class KnownFeed(msgspec.Struct, frozen=True, array_like=True):
    """The part of a log that the speaker knows."""

    author: NodeId
    log: FeedName
    place: Place


class Entries(msgspec.Struct, frozen=True):
    """Entries of any logs, those of one log in their order; `more` says whether there are others."""

    entries: Annotated[list[Entry], msgspec.Meta(max_length=MAX_ENTRIES)]
    more: bool = False


class SyncLogs(Request, frozen=True):
    """Ask for everything that goes beyond what the asker knows."""

    reply = Entries

    known: Annotated[list[KnownFeed], msgspec.Meta(max_length=MAX_LOGS)]


class PushEntries(Request, frozen=True):
    """Tell of new entries."""

    entries: Annotated[list[Entry], msgspec.Meta(max_length=MAX_ENTRIES)]


class Feeds:
    """Keeps the logs of the swarm's members.

    Parameters
    ----------
    links
        To the other members.
    path
        SQLite file.
    log
        For entries that are refused.
    """

    def __init__(self, links: Links, path: Path, log: logging.Logger) -> None:
        self._links = links
        self._identity = links.identity
        self._log = log
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._changed: Signal[[str, str]] = Signal("a feed has changed", log)
        #: Tells what others know of a log of this node's own: also what it knows no more, as after a backup.
        self.remembered: Signal[[str, Mapping[str, msgspec.Raw]]] = Signal("others remember a feed", log)
        self._tasks = Tasks("Feeds were not exchanged", log)
        self._outgoing: dict[str, list[Entry]] = {}  # by peer
        self._file = open_database(
            path, SCHEMA, 1, advice="Restore it from a backup, or move it away: the members tell theirs again."
        )
        self._read()
        links.handle(SyncLogs, self._answer_sync)
        links.handle(PushEntries, self._answer_push)
        links.on_linked(self._linked)
        links.on_revoked(self._forget)
        links.home.on_left(self._swarm_changed)

    async def stop(self) -> None:
        """Stop passing on, and close the file."""
        await self._tasks.stop()
        self._file.close()

    def on_change(self, callback: Callable[[str, str], object]) -> None:
        """Call `callback` with the author's node id and the log's name whenever a log has changed."""
        self._changed.connect(callback)

    def get(self, author: str, log: str, key: str, kind: type[Any]) -> Any:
        """Return what the author says under `key` of its log, as a `kind`; None when it says nothing, or nonsense."""
        found = self._feeds.get((author, log))
        return found.get(key, kind) if found is not None else None

    def keys(self, author: str, log: str) -> list[str]:
        """Return the keys of a log."""
        found = self._feeds.get((author, log))
        return list(found.state) if found is not None else []

    def publish(self, log: str, changes: Mapping[str, Any]) -> None:
        """Say something in this node's own log; None as value takes a key back. What was said already is left out.

        Raises
        ------
        Refused
            The log would be too large.
        """
        known = self._feeds.setdefault((self._identity.id, log), Feed())
        encoded = {key: msgspec.Raw(_encode(value)) for key, value in changes.items()}
        news = {key: value for key, value in encoded.items() if bytes(known.state.get(key, NULL)) != bytes(value)}
        if news or known.place is None:
            snapshot = known.place is None or len(known.entries) > COMPACT_AFTER
            whole = {**known.state, **news}
            if any(bytes(value) != NULL for value in news.values()):
                self._check_size(log, whole)
            said = whole if snapshot else news
            self._say(log, known, said, snapshot=snapshot)

    def compact(self, log: str) -> None:
        """Say in one entry what this node's own log says, so that nobody hears what it said before."""
        known = self._feeds.get((self._identity.id, log))
        if known is not None and known.place is not None:
            self._say(log, known, known.state, snapshot=True)

    def _check_size(self, log: str, state: Mapping[str, msgspec.Raw]) -> None:
        """Raise `Refused` when a snapshot of the log would not fit into one entry."""
        size = sum(len(key) + len(bytes(value)) + 8 for key, value in state.items() if bytes(value) != NULL)
        if size > MAX_SAID:
            raise Refused(f"This device says too much in its log {log} ({size:,} bytes; {MAX_SAID:,} are allowed).")

    def _say(self, name: str, log: Feed, said: Mapping[str, msgspec.Raw], *, snapshot: bool, epoch: int = 0) -> None:
        place = log.place
        following = (place.epoch, place.seq + 1) if place is not None else (0, 0)
        if epoch > following[0]:
            following = (epoch, 0)
        body = Body(
            author=self._identity.id,
            log=name,
            epoch=following[0],
            seq=following[1],
            previous=b"" if snapshot or place is None else place.digest,
            time=self._identity.now(),
            changes={key: value for key, value in said.items() if not snapshot or bytes(value) != NULL},
        )
        entry = make_entry(body, self._identity.sign)
        log.add(entry, body)
        self._keep(entry, body)
        self._changed.emit(self._identity.id, name)
        self._pass_on([entry], None)

    def _known(self) -> list[KnownFeed]:
        return [KnownFeed(author, name, log.place) for (author, name), log in self._feeds.items() if log.place]

    def _adopt(self, entries: Iterable[Entry]) -> tuple[list[Entry], bool]:
        """Add entries; return those that were new, and whether some did not fit to what is known."""
        fresh: list[Entry] = []
        gap = False
        for entry in entries:
            body = entry.open()
            if self._identity.roster.member(body.author) is None:
                continue
            key = (body.author, body.log)
            log = self._feeds.get(key) or Feed()
            if body.author == self._identity.id:
                self._meet_own(log, body, entry)
                continue
            if not log.accepts(body):
                gap = gap or log.place is None or (body.epoch, body.seq) > log.place.order
                continue
            if key not in self._feeds and sum(author == body.author for author, _ in self._feeds) >= LOGS_OF_ONE:
                raise Refused(f"{body.author[:8]} has {LOGS_OF_ONE} logs already.")
            log.add(entry, body)
            self._feeds[key] = log
            self._keep(entry, body)
            fresh.append(entry)
        for author, name in dict.fromkeys((body.author, body.log) for body in (entry.open() for entry in fresh)):
            self._changed.emit(author, name)
        return fresh, gap

    def _meet_own(self, log: Feed, body: Body, entry: Entry) -> None:
        """Notice that others know more of this node's own log than itself: it was restored from a backup."""
        self.remembered.emit(body.log, body.changes)
        place, here = log.place, (body.epoch, body.seq)
        if place is None or here > place.order or (here == place.order and entry.digest != place.digest):
            self._log.warning("Others know a later part of this node's log %s: it begins anew.", body.log)
            key = (self._identity.id, body.log)
            mine = self._feeds.setdefault(key, Feed())
            self._say(body.log, mine, mine.state, snapshot=True, epoch=body.epoch + 1)

    def _pass_on(self, entries: list[Entry], origin: str | None) -> None:
        for peer in {link.peer_id for link in self._links.links()} - {origin} if entries else ():
            if peer in self._outgoing:  # somebody is about to send what waits
                self._outgoing[peer] += entries
            else:
                self._outgoing[peer] = list(entries)
                self._tasks.spawn(self._push(peer))

    async def _push(self, peer: str) -> None:
        """Send what waits for a peer. What is lost with the last link, the peer asks for on the next one."""
        try:
            while waiting := self._outgoing.get(peer):
                self._outgoing[peer] = []
                for batch in _batches(waiting):
                    if (link := self._links.open_link(peer, Standing.MEMBER)) is None:
                        break
                    try:
                        await link.request(PushEntries(batch))
                    except AinetError:
                        newer = self._links.open_link(peer, Standing.MEMBER)
                        if newer is None or newer is link:
                            raise
                        await newer.request(PushEntries(batch))
        finally:
            self._outgoing.pop(peer, None)

    def _linked(self, link: PeerLink) -> None:
        self._tasks.spawn(self._pull(link))

    async def _pull(self, link: PeerLink) -> None:
        more = True
        while more:
            answer = await link.request(SyncLogs(self._known()))
            fresh, _ = self._adopt(answer.entries)
            self._pass_on(fresh, link.peer_id)
            more = answer.more and bool(fresh)

    async def _answer_sync(self, link: PeerLink, request: SyncLogs) -> Entries:
        known = {(one.author, one.log): one.place for one in request.known}
        if any(self._is_ahead(one) for one in request.known):
            self._tasks.spawn(self._pull(link))  # the signed entries show whether that is true
        lacking = [entry for key, log in self._feeds.items() for entry in log.since(known.get(key))]
        batches = list(_batches(lacking))
        return Entries(batches[0], more=len(batches) > 1) if batches else Entries([])

    def _is_ahead(self, known: KnownFeed) -> bool:
        """Whether somebody says that it knows more of this node's own log than the node itself."""
        log = self._feeds.get((self._identity.id, known.log))
        mine = log.place if log is not None else None
        return known.author == self._identity.id and (mine is None or known.place.order > mine.order)

    async def _answer_push(self, link: PeerLink, request: PushEntries) -> None:
        fresh, gap = self._adopt(request.entries)
        self._pass_on(fresh, link.peer_id)
        if gap:
            self._tasks.spawn(self._pull(link))

    def _forget(self, node_id: str) -> None:
        for key in [key for key in self._feeds if key[0] == node_id]:
            del self._feeds[key]
            self._changed.emit(*key)
        self._file.execute("DELETE FROM entries WHERE author = ?", (node_id,))

    def _swarm_changed(self, _left: str | None) -> None:
        """Forget what the members of the former swarm said."""
        for author in {author for author, _ in self._feeds} - {self._identity.id}:
            self._forget(author)

    def _keep(self, entry: Entry, body: Body) -> None:
        row = (body.author, body.log, body.epoch, body.seq, entry.body, entry.signature)
        try:
            with self._file:
                if body.is_snapshot:
                    self._file.execute("DELETE FROM entries WHERE author = ? AND log = ?", (body.author, body.log))
                self._file.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as exc:
            raise AinetError(f"An entry of the log {body.log} cannot be saved: {exc}. Is the disk full?") from exc

    def _read(self) -> None:
        rows = self._file.execute("SELECT body, signature FROM entries ORDER BY author, log, epoch, seq")
        for encoded, signature in rows:
            entry = Entry(encoded, signature)
            try:
                body = entry.open()
                log = self._feeds.setdefault((body.author, body.log), Feed())
                if log.accepts(body):
                    log.add(entry, body)
            except Refused as exc:
                self._log.warning("A log entry on this disk is left out: %s", exc.message)


def _encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def _batches(entries: list[Entry]) -> Iterable[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (size + len(entry.body) > MAX_BATCH or len(batch) >= MAX_ENTRIES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry.body)
    if batch:
        yield batch
