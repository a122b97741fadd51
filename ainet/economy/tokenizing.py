"""Tokens of models whose weights are elsewhere: their vocabularies are kept here, and loaded in a worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from ainet.economy.requests import MAX_VOCABULARY, AskPrice, Piece
from ainet.engine.leased_actor import LeasedActor, WorkerLost
from ainet.engine.worker_pool import Purpose
from ainet.errors import AinetError, NotEnough, PeerUnreachable, ProtocolError
from ainet.files import make_private_dir, write_private
from ainet.models.tokenizer import check_vocabulary, unpack_vocabulary, vocabulary_file
from ainet.stages.tokenizer_actor import TokenizerActor

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from pathlib import Path

    from ainet.api.generate import Message
    from ainet.economy.works import Works
    from ainet.engine.engine import Engine
    from ainet.engine.worker_pool import WorkerPool
    from ainet.links.link import PeerLink
    from ainet.models.tokenizer import Tokenizer
    from ainet.timing import Timing


#: Vocabularies that are kept: those that were used last.
MOST_KEPT = 16


class MadePrompt(NamedTuple):
    """A conversation up to the answer.

    Attributes
    ----------
    tokens, notes
        Its tokens, and what whoever asked must know of them.
    n_tokens
        Tokens of the vocabulary.
    """

    tokens: list[int]
    notes: list[str]
    n_tokens: int


class Tokenizing:
    """Turns conversations into tokens, and tokens into text.

    Parameters
    ----------
    folder
        Where vocabularies are kept.
    works
        Knows those of models that are here.
    engine, workers
        Where they are loaded.
    """

    def __init__(
        self, folder: Path, works: Works, *, engine: Engine, workers: WorkerPool, log: logging.Logger, timing: Timing
    ) -> None:
        self._folder, self._works, self._timing = folder, works, timing
        self._actor = LeasedActor(
            TokenizerActor,
            engine=engine,
            workers=workers,
            log=log,
            timing=timing,
            idle=timing.tokenizer_idle,
            purpose=Purpose.STAGE,
            retire=True,
        )
        #: What is being fetched, by the vocabulary's content.
        self._fetching: dict[str, asyncio.Future[None]] = {}

    async def stop(self) -> None:
        """Give the worker back."""
        await self._actor.stop()

    async def prompt(
        self, tokenizer: Tokenizer, messages: Sequence[Message], template: str, *, raw: bool, source: PeerLink
    ) -> MadePrompt:
        """Return the tokens of a conversation up to the answer.

        Parameters
        ----------
        source
            Whoever has the vocabulary, should it not be here.

        Raises
        ------
        AinetError
            The vocabulary cannot be had, or the conversation has no tokens.
        """
        path = str(await self._file(tokenizer, source))
        return MadePrompt(*await self._ask("prompt", path, list(messages), template, raw))

    async def text(self, tokenizer: Tokenizer, tokens: Sequence[int], stop: Sequence[str]) -> str:
        """Return the text of an answer whose prompt was made here; raises AinetError."""
        said: str = await self._ask("text", str(self._path(tokenizer)), list(tokens), list(stop))
        return said

    async def count(self, tokenizer: Tokenizer, text: str) -> int:
        """Return how many tokens a text has when it is read; raises AinetError."""
        n: int = await self._ask("count", str(self._path(tokenizer)), text)
        return n

    async def _ask(self, method: str, *arguments: object) -> Any:
        try:
            async with asyncio.timeout(2 * self._timing.tokenizer):  # with the wait for a worker
                return await self._actor.call(method, *arguments, seconds=self._timing.tokenizer)
        except (WorkerLost, TimeoutError) as exc:
            raise NotEnough("No worker that knows the model's tokens can be had now. Ask again.") from exc

    def _path(self, tokenizer: Tokenizer) -> Path:
        return self._folder / f"{tokenizer.content}.gguf"

    async def _file(self, tokenizer: Tokenizer, source: PeerLink) -> Path:
        path = self._path(tokenizer)
        fetching = self._fetching.get(tokenizer.content)
        if fetching is not None:  # of somebody else; who is slow keeps nobody waiting for long
            await asyncio.wait([fetching], timeout=self._timing.price_asked)
        if not await asyncio.to_thread(_is_kept, path):
            fetching = self._fetching[tokenizer.content] = asyncio.ensure_future(self._get(tokenizer, source))
            try:
                await fetching
            finally:
                if self._fetching.get(tokenizer.content) is fetching:
                    del self._fetching[tokenizer.content]
        return path

    async def _get(self, tokenizer: Tokenizer, source: PeerLink) -> None:
        try:
            blob = await self._works.vocabulary(tokenizer)
        except AinetError:
            blob = await self._fetch(tokenizer, source)
        await asyncio.to_thread(_write, self._path(tokenizer), tokenizer, blob)

    async def _fetch(self, tokenizer: Tokenizer, source: PeerLink) -> bytes:
        if not 0 < tokenizer.nbytes <= MAX_VOCABULARY or not 0 < tokenizer.content_nbytes <= MAX_VOCABULARY:
            raise ProtocolError(f"{source.peer_name} sells a model whose vocabulary is too large.")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timing.tokenizer):
                async for item in source.stream(AskPrice(tokenizer.hash)):
                    if isinstance(item, Piece):
                        parts.append(item.data)
                        size += len(item.data)
                    if size > tokenizer.nbytes:
                        raise ProtocolError(f"{source.peer_name} sends more than the vocabulary that was asked for.")
        except TimeoutError as exc:
            raise PeerUnreachable(f"{source.peer_name} sends the model's vocabulary too slowly.") from exc
        return b"".join(parts)


def _write(path: Path, tokenizer: Tokenizer, blob: bytes) -> None:
    found = unpack_vocabulary(tokenizer, blob)
    check_vocabulary(found)
    make_private_dir(path.parent)
    write_private(path, vocabulary_file(found))
    with contextlib.suppress(FileNotFoundError):  # somebody else does the same
        kept = sorted(path.parent.glob("*.gguf"), key=lambda one: one.stat().st_mtime_ns)
        for old in kept[:-MOST_KEPT]:
            old.unlink(missing_ok=True)  # whoever has it open goes on


def _is_kept(path: Path) -> bool:
    """Tell whether a vocabulary is here; then it is one of those that were used last."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
