"""Tokens of models whose weights are elsewhere: their vocabularies are kept here, and loaded in a worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

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
        self._fetching = asyncio.Lock()

    async def stop(self) -> None:
        """Give the worker back."""
        await self._actor.stop()

    async def prompt(
        self, tokenizer: Tokenizer, messages: Sequence[Message], template: str, *, raw: bool, source: PeerLink
    ) -> tuple[list[int], list[str]]:
        """Return the tokens of a conversation up to the answer, and what whoever asked must know of them.

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
        made: tuple[list[int], list[str]] = await self._ask("prompt", path, list(messages), template, raw)
        return made

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
            return await self._actor.call(method, *arguments, seconds=self._timing.tokenizer)
        except (WorkerLost, TimeoutError) as exc:
            raise NotEnough("The worker that knows the model's tokens has ended. Ask again.") from exc

    def _path(self, tokenizer: Tokenizer) -> Path:
        return self._folder / f"{tokenizer.content}.gguf"

    async def _file(self, tokenizer: Tokenizer, source: PeerLink) -> Path:
        path = self._path(tokenizer)
        async with self._fetching:
            if not await asyncio.to_thread(path.exists):
                try:
                    blob = await self._works.vocabulary(tokenizer)
                except AinetError:
                    blob = await self._fetch(tokenizer, source)
                await asyncio.to_thread(_write, path, tokenizer, blob)
        return path

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
