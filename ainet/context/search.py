"""Passages for a question, of what somebody may see."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ainet.context.relation_question import relation_question
from ainet.context.retriever import DEPTH, Retriever, weight_of
from ainet.context.vectors import Nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.context.opened import Opened
    from ainet.context.retriever import Ranked
    from ainet.storage.records import Found

#: Of up to this number of passages that are allowed, each is named in a search for vectors; of more, the nearest ones
#: of all are filtered.
MOST_NAMED, FILTERED = 2000, 1000
#: The same for others: what they may not see must not push anything out, so of more, vectors are not asked.
MOST_SEEN = 20_000


async def search(
    opened: Opened,
    question: str,
    n: int,
    *,
    below: str | None = None,
    kind: str | None = None,
    folders: Sequence[int] | None = None,
) -> list[Ranked]:
    """Return the `n` passages that fit a question best.

    Parameters
    ----------
    below, kind
        Only passages in this folder or file, and of this kind.
    folders
        What the asker may see; None for all.
    """
    words, near = await asyncio.gather(
        asyncio.to_thread(_words, opened, question, below, kind, folders), _near(opened, question, below, kind, folders)
    )

    def find() -> list[Ranked]:
        with opened.storage.seen(folders) as view:
            retriever = Retriever(view, is_static=near.is_static)
            return retriever.find(question, n, words=words, vectors=near.found, below=below, kind=kind)

    return await asyncio.to_thread(find)


def _words(
    opened: Opened, question: str, below: str | None, kind: str | None, folders: Sequence[int] | None
) -> list[Found]:
    with opened.storage.seen(folders) as view:
        return Retriever(view).words(question, below=below, kind=kind)


def _allowed(opened: Opened, folders: Sequence[int], below: str | None, kind: str | None) -> list[int]:
    with opened.storage.seen(folders) as view:
        return view.all_among(below=below, kind=kind, most=MOST_SEEN)


async def _near(
    opened: Opened, question: str, below: str | None, kind: str | None, folders: Sequence[int] | None
) -> Nearest:
    """Return the passages whose vectors are nearest, where vectors have a say."""
    if not weight_of(question) or relation_question(question) is not None:
        return Nearest([], is_static=True)
    if folders is not None:
        allowed = await asyncio.to_thread(_allowed, opened, folders, below, kind)
        if len(allowed) >= MOST_SEEN:
            return Nearest([], is_static=True)
        return await opened.vectors.search(question, DEPTH, among=allowed)
    if below is None and kind is None:
        return await opened.vectors.search(question, DEPTH)
    allowed = await asyncio.to_thread(opened.storage.all_among, below=below, kind=kind, most=MOST_NAMED)
    if len(allowed) < MOST_NAMED:
        return await opened.vectors.search(question, DEPTH, among=allowed)
    near = await opened.vectors.search(question, FILTERED)
    numbers = [one.id for one in near.found]
    kept = set(await asyncio.to_thread(opened.storage.among, numbers, below=below, kind=kind))
    return Nearest([one for one in near.found if one.id in kept][:DEPTH], near.is_static)
