"""Documents between members: whoever meets exchanges what the other lacks, and passes on what is new."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Annotated, NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from ainet.documents.document import Document, Incomplete
from ainet.documents.kinds import Fetch, Kind, Kinds, MembersOnly
from ainet.documents.store import DocumentStore
from ainet.errors import AinetError, Busy, NotFound, PeerUnreachable, ProtocolError, Refused
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.tasks import Tasks

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from ainet.documents.kinds import Access
    from ainet.links.link import PeerLink
    from ainet.links.links import Links

#: The prefix of documents that all members may read and edit.
SHARED = "shared/"
#: Bytes of an update that is pushed; of a longer one the peer is only told that there is something to ask for.
MAX_PUSH = 256 * 1024
PART = 1024 * 1024  # bytes of a longer update that travel at once
MAX_DOCUMENTS = 1024
MAX_STATE = 1024 * 1024  # bytes of a state vector
MAX_UPDATE = 64 * 1024 * 1024
#: A contact is trusted with less.
MAX_CONTACT_UPDATE = 8 * 1024 * 1024
MAX_CONTACT_PULLS = 4  # at once
MAX_REFUSED = 32  # updates that are malformed, or come before those that they follow, on one link
PULL_SECONDS = 120.0


class Sizes(NamedTuple):
    """The sizes that documents and their updates may have.

    Attributes
    ----------
    documents
        Most documents.
    push
        Bytes of an update that is pushed; of a longer one the peer is only told that there is something to ask for.
    part
        Bytes of a longer update that travel at once.
    contact_document
        Bytes of a document to which a contact adds.
    """

    documents: int = MAX_DOCUMENTS
    push: int = MAX_PUSH
    part: int = PART
    contact_document: int = 16 * 1024 * 1024


SIZES = Sizes()
DocumentName = Annotated[str, msgspec.Meta(max_length=160)]


class DocumentNames(msgspec.Struct, frozen=True):
    """The names of the documents that the speaker has."""

    names: Annotated[list[DocumentName], msgspec.Meta(max_length=MAX_DOCUMENTS)]


class ListDocuments(Request, frozen=True):
    """Ask which documents there are."""

    reply = DocumentNames


class UpdatePart(msgspec.Struct, frozen=True):
    """A part of an update."""

    data: Annotated[bytes, msgspec.Meta(max_length=PART)]


class PullDocument(Request, frozen=True):
    """Ask for what the asker lacks of a document, who has seen `state`; the update comes in parts."""

    progress = UpdatePart
    audience = Standing.CONTACT

    name: DocumentName
    state: Annotated[bytes, msgspec.Meta(max_length=MAX_STATE)]


class PushUpdate(Request, frozen=True):
    """Tell of a change; without an update: of one that is too long, and must be asked for."""

    audience = Standing.CONTACT

    name: DocumentName
    update: Annotated[bytes, msgspec.Meta(max_length=MAX_PUSH)]


class Documents:
    """The documents that members of the swarm, and some of them contacts, may read and edit.

    Parameters
    ----------
    links
        To the other members.
    path
        File of the `DocumentStore`.
    log
        For what is refused.
    sizes
        The sizes that documents may have.
    """

    def __init__(self, links: Links, path: Path, log: logging.Logger, *, sizes: Sizes = SIZES) -> None:
        self._sizes = sizes
        self._links = links
        self._log = log
        self._path = path
        self.store = DocumentStore(path)
        self._documents: dict[str, Document] = {}
        self._watchers: dict[str, list[Callable[[bytes, object], object]]] = {}
        self._ended: dict[str, list[Callable[[], object]]] = {}
        self._kinds = Kinds()
        self.register(SHARED)
        self._tasks = Tasks("Shared documents were not exchanged", log)
        self._outgoing: dict[str, dict[str, list[bytes]]] = {}  # by peer and document
        self._pulling: dict[tuple[str, str], bool] = {}  # by peer and document: whether once more
        self._answering: Counter[str] = Counter()  # pulls of each peer
        self._refused: WeakKeyDictionary[PeerLink, int] = WeakKeyDictionary()  # updates of contacts
        links.handle(ListDocuments, self._list)
        links.handle(PullDocument, self._answer_pull)
        links.handle(PushUpdate, self._answer_push)
        links.on_linked(self._linked)
        links.on_linked(self._contact_linked, Standing.CONTACT)
        links.home.on_left(self._swarm_changed)
        for name in self.store.names():
            self._documents[name] = Document(name, self.store, self._changed)

    async def stop(self) -> None:
        """Stop exchanging, and close the file."""
        await self._tasks.stop()
        for document in self._documents.values():
            document.close()
        self.store.close()

    def names(self) -> list[str]:
        """Return the names of all documents that are open."""
        return sorted(self._documents)

    def open(self, name: str) -> Document:
        """Return the document with this name, a new and empty one if there is none.

        Raises
        ------
        UsageError
            The name cannot be one.
        Refused
            There are too many documents.
        """
        document = self._documents.get(name)
        if document is None:
            self.check_name(name)
            if len(self._documents) >= self._sizes.documents:
                raise Refused(f"There are {self._sizes.documents} shared documents already.")
            document = self._documents[name] = Document(name, self.store, self._changed)
        return document

    def register(
        self, prefix: str, access: Access | None = None, fetch: Fetch = Fetch.WHEN_MET, *, stays: bool = True
    ) -> None:
        """Exchange documents whose name begins with `prefix` from now on; see `Kind`.

        Parameters
        ----------
        access
            The devices that may have them; None: all members, and nobody else.

        Raises
        ------
        ValueError
            There are documents with such a prefix already.
        """
        self._kinds.add(Kind(prefix, access or MembersOnly(self._links.identity), fetch, stays))

    def check_name(self, name: str) -> None:
        """Raise `UsageError` unless `name` can be that of a document: of a kind that was registered."""
        self._kinds.check_name(name)

    async def fetch(self, name: str, node: str) -> Document:
        """Return the document with this name, with all that the member or contact knows of it.

        Raises
        ------
        PeerUnreachable
            The other device cannot be reached, and nothing is here.
        """
        known = name in self._documents
        document = self.open(name)
        try:
            link = await self._links.connect(node, Standing.CONTACT)
            await self._pull(link, name)
        except AinetError:
            if not known:
                self.delete(name)
                raise
        return document

    def delete(self, name: str) -> None:
        """Forget a document here; others keep theirs."""
        self._drop(name)
        self.store.delete(name)

    def watch(
        self, name: str, callback: Callable[[bytes, object], object], ended: Callable[[], object] = lambda: None
    ) -> Callable[[], None]:
        """Call `callback` with every update of a document and its origin; return what takes that back.

        The origin is a member's node id, whatever `Document.apply` was given, or None for a change made here. `ended`
        is called when this device does not have the document any more.
        """
        watchers, ends = self._watchers.setdefault(name, []), self._ended.setdefault(name, [])
        watchers.append(callback)
        ends.append(ended)

        def unwatch() -> None:
            watchers.remove(callback)
            ends.remove(ended)

        return unwatch

    def _drop(self, name: str) -> None:
        document = self._documents.pop(name, None)
        if document is not None:
            document.close()
            for ended in list(self._ended.get(name, ())):
                ended()

    def _swarm_changed(self, left: str | None) -> None:
        """Keep what is this device's own; put aside what it had together with the members of the swarm it left."""
        if left is None:
            for name in self.names():
                if not self._kinds.of(name).stays:
                    self.delete(name)
            return
        for name in self.names():
            self._drop(name)
        names = (f"{self._path.stem}-{left[:8]}{number}{self._path.suffix}" for number in ("", *range(2, 1000)))
        aside = next(path for name in names if not (path := self._path.with_name(name)).exists())
        self.store.close()
        self._path.replace(aside)
        self.store = DocumentStore(self._path)
        self._log.warning("The documents of the swarm that this device left are in %s.", aside)

    def _changed(self, document: Document, update: bytes, origin: object) -> None:
        for callback in list(self._watchers.get(document.name, ())):
            try:
                callback(update, origin)
            except Exception:
                self._log.exception("A callback failed when %s changed.", document.name)
        access = self._kinds.of(document.name).access
        try:
            access.check_write(document.name, self._links.identity.id)
        except Refused:
            return  # the others take it from elsewhere
        peers = {link.peer_id for link in self._links.links()} | set(access.contacts(document.name))
        for peer in peers - {origin}:
            if not self._may_read(document.name, peer):
                continue
            if peer in self._outgoing:  # somebody is about to send what waits
                self._outgoing[peer].setdefault(document.name, []).append(update)
            else:
                self._outgoing[peer] = {document.name: [update]}
                self._tasks.spawn(self._push(peer))

    async def _push(self, peer: str) -> None:
        """Send what waits for a peer."""
        try:
            while waiting := self._outgoing.get(peer):
                self._outgoing[peer] = {}
                for name, updates in waiting.items():
                    merged = _merge(updates)
                    await self._notify(peer, name, merged if len(merged) <= self._sizes.push else b"")
        finally:
            self._outgoing.pop(peer, None)

    async def _notify(self, peer: str, name: str, update: bytes) -> None:
        """Send an update. What is lost with the last link, the peer asks for on the next one."""
        link = self._links.open_link(peer)
        try:
            if link is not None:
                await link.request(PushUpdate(name, update))
        except AinetError as exc:
            self._log.info("A change of %s was not taken: %s", name, exc.message)
            newer = self._links.open_link(peer)
            if newer is not None and newer is not link:
                # The two met on that link before this change: now the peer must ask once more.
                with contextlib.suppress(AinetError):
                    await newer.request(PushUpdate(name, b""))

    def _linked(self, link: PeerLink) -> None:
        self._tasks.spawn(self._meet(link))

    async def _meet(self, link: PeerLink) -> None:
        await self._pull_all(link, (await link.request(ListDocuments())).names)

    def _contact_linked(self, link: PeerLink) -> None:
        shared = [name for name in self._documents if link.peer_id in self._kinds.of(name).access.contacts(name)]
        self._tasks.spawn(self._pull_all(link, shared))

    async def _pull_all(self, link: PeerLink, names: list[str]) -> None:
        for name in names:
            if name in self._documents or self._kinds.of(name).fetch is Fetch.WHEN_MET:
                try:
                    await self._pull(link, name)
                except AinetError as exc:
                    self._log.info("%s was not taken from %s: %s", name, link.peer_name, exc.message)
                    if link.closed.is_set():
                        return

    async def _pull(self, link: PeerLink, name: str) -> None:
        """Ask for what is missing here; while that goes on already, it is done once more afterwards."""
        key = (link.peer_id, name)
        if key in self._pulling:
            self._pulling[key] = True
            return
        self._pulling[key] = True
        try:
            while self._pulling[key]:
                self._pulling[key] = False
                await self._pull_once(link, name)
        finally:
            del self._pulling[key]

    async def _pull_once(self, link: PeerLink, name: str) -> None:
        self._kinds.of(name).access.check_write(name, link.peer_id)
        document = self.open(name)
        most = MAX_CONTACT_UPDATE if _is_contact(link) else MAX_UPDATE
        update = bytearray()
        try:
            async with (
                asyncio.timeout(PULL_SECONDS),
                contextlib.aclosing(link.stream(PullDocument(name, document.state))) as parts,
            ):
                async for part in parts:
                    update += part.data
                    if len(update) > most:
                        raise Refused(f"{link.peer_name} has more than {most >> 20} MiB to tell about {name}.")
        except TimeoutError:
            raise PeerUnreachable(f"{link.peer_name} did not send {name} within {PULL_SECONDS:g} seconds.") from None
        self._apply(document, bytes(update), link)

    def _apply(self, document: Document, update: bytes, link: PeerLink) -> None:
        if not update:
            return
        if _is_contact(link) and document.size + len(update) > self._sizes.contact_document:
            document.compact()  # its size is that of all saved updates
        if _is_contact(link) and document.size + len(update) > self._sizes.contact_document:
            raise Refused(
                f"{document.name} would have more than {self._sizes.contact_document >> 20} MiB, too much of a contact."
            )
        try:
            document.apply(update, link.peer_id)
        except Refused:
            # Trying an update costs more than sending one.
            self._refused[link] = self._refused.get(link, 0) + 1
            if _is_contact(link) and self._refused[link] > MAX_REFUSED:
                link.close(ProtocolError("This device sent too many changes that are none."))
            raise
        document.compact_if_due()

    async def _list(self, link: PeerLink, _request: ListDocuments) -> DocumentNames:
        return DocumentNames([name for name in self.names() if self._may_read(name, link.peer_id)])

    async def _answer_pull(self, link: PeerLink, request: PullDocument) -> AsyncGenerator[UpdatePart, None]:
        self._kinds.of(request.name).access.check_read(request.name, link.peer_id)
        if request.name not in self._documents:
            raise NotFound(f"There is no document {request.name!r} here.")
        if _is_contact(link) and self._answering[link.peer_id] >= MAX_CONTACT_PULLS:
            raise Busy(
                f"The device sends {MAX_CONTACT_PULLS} documents to this one already. Ask again in a second.",
                retry_after=1.0,
            )
        self._answering[link.peer_id] += 1
        try:
            update = self._documents[request.name].missing(request.state)
            for begin in range(0, len(update), self._sizes.part):
                yield UpdatePart(update[begin : begin + self._sizes.part])
        finally:
            self._answering[link.peer_id] -= 1

    async def _answer_push(self, link: PeerLink, request: PushUpdate) -> None:
        self.check_name(request.name)
        kind = self._kinds.of(request.name)
        kind.access.check_write(request.name, link.peer_id)
        if kind.fetch is Fetch.ONCE_OPENED and request.name not in self._documents:
            return  # nobody has opened it here
        document = self.open(request.name)
        if request.update:
            with contextlib.suppress(Incomplete):
                self._apply(document, request.update, link)
                return
        self._tasks.spawn(self._pull(link, request.name))

    def _may_read(self, name: str, node: str) -> bool:
        try:
            self._kinds.of(name).access.check_read(name, node)
        except Refused:
            return False
        return True


def _is_contact(link: PeerLink) -> bool:
    return not link.standing.permits(Standing.MEMBER)


def _merge(updates: list[bytes]) -> bytes:
    from pycrdt import merge_updates

    return updates[0] if len(updates) == 1 else merge_updates(*updates)
