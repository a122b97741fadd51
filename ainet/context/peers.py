"""What other devices may ask of the context, and what it asks of them."""

from __future__ import annotations

import asyncio
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import msgspec

from ainet.api.context import FoundPassage
from ainet.context.search import search
from ainet.errors import AinetError, PeerUnreachable, Refused, UsageError
from ainet.identity.roster import NodeId
from ainet.links.request import Request
from ainet.links.standing import Standing
from ainet.replication.requests import (
    ContentPiece,
    JournalEntries,
    ReadContent,
    ReadVectors,
    SyncJournals,
    TellJournal,
    Vectors,
)
from ainet.resources.work import NoteWork, Work, unmetered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from ainet.context.opened import Opened
    from ainet.context.places import Places
    from ainet.context.retriever import Ranked
    from ainet.links.link import PeerLink
    from ainet.links.links import Links
    from ainet.replication.requests import ContentEnd

#: Passages of one answer, and characters of all their texts.
MOST, MOST_CHARACTERS = 50, 1_000_000
Question = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Short = Annotated[str, msgspec.Meta(max_length=4096)]
LineNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class PeerPassage(msgspec.Struct, frozen=True):
    """A passage, as it is told to another device.

    Attributes
    ----------
    device
        On which it is.
    path
        There; for contacts, it begins with the name of the folder that was shared.
    """

    device: NodeId
    path: Short
    cell: Short
    line: LineNumber
    end_line: LineNumber
    score: float
    text: Annotated[str, msgspec.Meta(max_length=MOST_CHARACTERS)]
    kind: Short
    name: Short
    reason: Short


class PeerPassages(msgspec.Struct, frozen=True):
    """What was found, the best first."""

    passages: Annotated[list[PeerPassage], msgspec.Meta(max_length=MOST)]


class SearchContext(Request, frozen=True):
    """Ask for the passages that fit a question best, of those that the asker may see.

    Attributes
    ----------
    folder
        Only in this folder or file of the device that is asked; for a contact, with the name of the shared folder.
    """

    reply = PeerPassages
    audience = Standing.CONTACT

    question: Question
    most: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 10
    folder: Short = ""
    kind: Short = ""


class ContextPeers:
    """Answers other devices, and asks them.

    Parameters
    ----------
    links
        To them.
    places
        Knows their names.
    opened
        Returns what this node knows; None where it knows nothing.
    note_work
        Takes note of what is sent.
    """

    def __init__(
        self,
        links: Links,
        places: Places,
        opened: Callable[[], Awaitable[Opened | None]],
        note_work: NoteWork = unmetered,
    ) -> None:
        self._links, self._places, self._opened, self._note_work = links, places, opened, note_work
        self._me = links.identity.id
        self._answering: dict[str, asyncio.Lock] = {}
        links.handle(SearchContext, self._answer_search)
        links.handle(SyncJournals, self._answer_sync)
        links.handle(TellJournal, self._answer_tell)
        links.handle(ReadContent, self._answer_read)
        links.handle(ReadVectors, self._answer_vectors)

    async def ask_contact(
        self, contact: str, question: str, folder: str, kind: str | None, most: int
    ) -> list[FoundPassage]:
        """Return what a contact (node id) has for a question; raises `PeerUnreachable`."""
        link = await self._links.connect(contact, Standing.CONTACT)
        return await self._ask(link, question, folder, kind, most)

    async def ask_members(
        self, members: Sequence[str], question: str, kind: str | None, most: int, folders: dict[str, str]
    ) -> tuple[list[FoundPassage], list[str]]:
        """Return what members (node ids) have, and the names of those that could not be asked."""
        found: list[FoundPassage] = []
        unasked: list[str] = []

        async def ask(member: str) -> None:
            link = self._links.open_link(member, Standing.MEMBER)
            try:
                if link is None:
                    raise PeerUnreachable(f"{self._places.name(member)} is away.")
                found.extend(await self._ask(link, question, folders.get(member, ""), kind, most))
            except AinetError:
                unasked.append(self._places.name(member))

        await asyncio.gather(*(ask(member) for member in members))
        return found, sorted(unasked)

    async def _ask(self, link: PeerLink, question: str, folder: str, kind: str | None, most: int) -> list[FoundPassage]:
        answer = await link.request(SearchContext(question, min(most, MOST), folder, kind or ""))
        is_contact = link.standing is Standing.CONTACT
        return [
            FoundPassage(
                # A contact can speak of itself only.
                device=self._places.name(link.peer_id if is_contact else one.device),
                path=one.path,
                cell=one.cell,
                line=one.line,
                end_line=one.end_line,
                score=one.score,
                text=one.text,
                kind=one.kind,
                name=one.name,
                reason=one.reason,
            )
            for one in answer.passages
            if is_contact or one.device != self._me
        ]

    async def _answer_search(self, link: PeerLink, request: SearchContext) -> PeerPassages:
        try:
            return await self._search(link, request)
        except AinetError as exc:
            if link.standing is Standing.MEMBER:
                raise
            raise Refused("This device cannot look anything up now.") from exc  # the reason may name its files

    async def _search(self, link: PeerLink, request: SearchContext) -> PeerPassages:
        opened = await self._opened()
        if opened is None:
            return PeerPassages([])
        # One question of each device at a time.
        async with self._answering.setdefault(link.peer_id, asyncio.Lock()):
            if link.standing is Standing.MEMBER:
                folders = await asyncio.to_thread(opened.storage.for_member)
                below = request.folder or None
            else:
                folders = await asyncio.to_thread(opened.storage.for_contact, link.peer_id)
                folders, below = await asyncio.to_thread(_within, opened, folders, request.folder)
            found: list[Ranked] = []
            if folders is None or folders:
                found = await search(
                    opened, request.question, request.most, below=below, kind=request.kind or None, folders=folders
                )
        return PeerPassages(self._told(found, is_contact=link.standing is not Standing.MEMBER))

    def _told(self, found: Sequence[Ranked], *, is_contact: bool) -> list[PeerPassage]:
        told, characters = [], 0
        for one in found:
            passage = one.passage.passage
            device, folder = self._places.split(one.passage.folder)
            inside = PurePath(folder).name if is_contact else folder
            characters += len(passage.text)
            if characters > MOST_CHARACTERS:
                break
            told.append(
                PeerPassage(
                    device=device or self._me,
                    path=str(PurePath(inside) / one.passage.path)[:4096],
                    cell=passage.cell,
                    line=passage.first_line,
                    end_line=passage.last_line,
                    score=one.score,
                    text=passage.text,
                    kind=passage.kind,
                    name=passage.name[:4096],
                    reason=one.reason[:4096],
                )
            )
        return told

    async def _answer_sync(self, link: PeerLink, request: SyncJournals) -> JournalEntries:
        opened = await self._opened()
        return await opened.replication.answer_sync(link, request) if opened is not None else JournalEntries([])

    async def _answer_tell(self, link: PeerLink, request: TellJournal) -> None:
        if (opened := await self._opened()) is not None:
            await opened.replication.answer_tell(link, request)

    async def _answer_read(
        self, link: PeerLink, request: ReadContent
    ) -> AsyncGenerator[ContentPiece | ContentEnd, None]:
        opened = await self._opened()
        if opened is None:
            raise UsageError("This device knows no documents.")
        async for item in opened.replication.answer_read(link, request):
            if isinstance(item, ContentPiece):
                self._note_work(Work("transfer", link.peer_id, size=len(item.data)))
            yield item

    async def _answer_vectors(self, link: PeerLink, request: ReadVectors) -> Vectors:
        opened = await self._opened()
        if opened is None:
            return Vectors([])
        found = await opened.shared_vectors.answer(request, opened.vectors.read)
        self._note_work(Work("transfer", link.peer_id, size=sum(map(len, found.vectors))))
        return found


def _within(opened: Opened, folders: Sequence[int], asked: str) -> tuple[list[int], str | None]:
    """Return those of the shared folders that a contact means, and the part of them."""
    if not asked:
        return list(folders), None
    name, _, inside = asked.partition("/")
    for one in opened.storage.folders():
        if one.id in folders and PurePath(one.path).name == name:
            return [one.id], str(PurePath(one.path) / inside)
    return [], None
