"""The Dask actor that makes, keeps and compares vectors in a worker, and gives way to everything else."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ainet.errors import AinetError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ainet.vectors.model import EmbeddingModel, Vectors
    from ainet.vectors.table import Numbers

T = TypeVar("T")
NICE = 10
#: Texts of which vectors are made at once, and seconds for which they wait for a question.
AT_ONCE, PATIENCE = 16, 0.1
#: By how much the length of a vector may differ from 1.
UNIT = 0.01
#: Bytes of an allocation up to which memory is kept when it is free.
KEPT = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
#: One thread: the owner works beside it.
_ENVIRONMENT = {
    "LANCE_CPU_THREADS": "1",
    "LANCE_IO_THREADS": "2",
    "LANCE_LOG": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class VectorActor:
    """The vectors of one folder.

    Numbers of passages travel as the bytes of 64-bit integers.

    Parameters
    ----------
    folder
        Where the tables lie.
    better
        Path of a GGUF file of an embedding model that is better than the static one; empty for the one that its package
        carries, if that is installed.
    """

    def __init__(self, folder: str, better: str = "") -> None:
        self._asking, self._changing = asyncio.Lock(), asyncio.Lock()
        self._unasked = threading.Event()
        self._unasked.set()
        self._niced = ThreadPoolExecutor(1, initializer=_give_way)
        os.environ.update(_ENVIRONMENT)
        _keep_memory()
        from ainet.vectors.table import VectorTables
        from ainet.vectors.word_llama import WordLlama

        self._tables = VectorTables(Path(folder))
        self._static = WordLlama()
        self._models: dict[str, EmbeddingModel] = {self._static.hash: self._static}
        self._problem = ""
        try:
            model = _better(better, Path(folder))
        except AinetError as exc:
            self._problem = exc.message
        else:
            if model is not None:
                self._models[model.hash] = model

    def models(self) -> tuple[list[tuple[str, str, int]], str]:
        """Return the hash, name and dimensions of each model, the best one last, and why one is missing."""
        return [(one.hash, one.name, one.dimensions) for one in self._models.values()], self._problem

    async def add(self, model: str, table: str, passages: bytes, texts: Sequence[str]) -> tuple[int, float]:
        """Add the vectors of passages to a table; returns the number of their tokens, and the seconds of this."""
        maker = self._models[model]

        def work() -> tuple[int, float]:
            before, begun = maker.tokens, time.perf_counter()
            self._tables.add(table, _numbers(passages), self._embed(maker, texts))
            return maker.tokens - before, time.perf_counter() - begun

        return await self._change(work)

    async def put(self, table: str, passages: bytes, vectors: bytes) -> None:
        """Add vectors that another device has made, as 32-bit floats; raises `Refused` for others."""

        def work() -> None:
            numbers = _numbers(passages)
            self._tables.add(table, numbers, _vectors(vectors, len(numbers)))

        await self._change(work)

    async def read(self, table: str, passages: bytes) -> tuple[list[int], bytes]:
        """Return those of these passages that are in a table, and their vectors as 32-bit floats."""

        def work() -> tuple[list[int], bytes]:
            numbers, vectors = self._tables.read(table, _numbers(passages))
            return numbers.tolist(), vectors.tobytes()

        async with self._asking:
            return await asyncio.to_thread(work)

    async def search(
        self, model: str, table: str, question: str, n: int, among: bytes | None = None
    ) -> tuple[list[int], list[float]]:
        """Return the passages nearest to a question, and how similar they are; also while tables change."""

        def work() -> tuple[list[int], list[float]]:
            vector = self._models[model].question(question)
            near = self._tables.search(table, vector, n, among=_numbers(among) if among is not None else None)
            return near.passages.tolist(), near.similarities.tolist()

        async with self._asking:
            self._unasked.clear()
            try:
                return await asyncio.to_thread(work)
            finally:
                self._unasked.set()

    async def similarities(self, texts: Sequence[str], others: Sequence[str]) -> list[list[float]]:
        """Return how similar each text is to each of the others, from -1 to 1, as the static model knows."""

        def work() -> list[list[float]]:
            similar: list[list[float]] = (self._static.passages(texts) @ self._static.passages(others).T).tolist()
            return similar

        return await asyncio.to_thread(work)

    async def passages(self, table: str) -> bytes:
        """Return the numbers of all passages of a table."""
        return await self._change(lambda: self._tables.passages(table).tobytes())

    async def rewrite(self, old: str, new: str, keep: bytes) -> int:
        """Write a table anew with these passages alone."""
        return await self._change(lambda: self._tables.rewrite(old, new, _numbers(keep)))

    async def settle(self, table: str) -> None:
        """Make the table's index, if it needs one, and take no more memory than before."""
        await self._change(lambda: self._tables.index(table))
        _give_back()

    async def keep_only(self, tables: Sequence[str]) -> None:
        """Drop all other tables."""
        await self._change(lambda: self._tables.keep_only(tables))

    def _embed(self, model: EmbeddingModel, texts: Sequence[str]) -> Vectors:
        """Make vectors of a few texts at a time: a question that comes meanwhile goes first.

        Otherwise it would wait for the interpreter's lock, held by a thread that gives way to everything else.
        """
        import numpy as np

        found = []
        for begin in range(0, len(texts), AT_ONCE):
            self._unasked.wait(PATIENCE)
            found.append(model.passages(texts[begin : begin + AT_ONCE]))
        return np.concatenate(found)

    async def _change(self, work: Callable[[], T]) -> T:
        async with self._changing:
            return await asyncio.get_running_loop().run_in_executor(self._niced, work)


def _keep_memory() -> None:
    """Have some memory that is free kept for the next question.

    Dask has its workers give it back at once (MALLOC_TRIM_THRESHOLD_), and page by page it would be taken again.
    """
    with contextlib.suppress(OSError, AttributeError):  # there is no glibc
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_TRIM_THRESHOLD, 2 * KEPT)
        allocator.mallopt(_MMAP_THRESHOLD, KEPT)


def _give_back() -> None:
    """Have all memory that is free given back."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _give_way() -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # the threads that it starts inherit this


def _better(path: str, folder: Path) -> EmbeddingModel | None:
    """Return the better model, if there is one; raises `AinetError` for one that cannot be used."""
    from ainet.vectors import minilm
    from ainet.vectors.gguf_model import GGUFModel

    if path:
        return GGUFModel(Path(path))
    package = minilm.find()
    if package is None:
        return None
    converted = folder / f"{minilm.NAME}.gguf"
    if not converted.exists():
        minilm.convert(package, converted)
    return GGUFModel(converted)


def _numbers(data: bytes) -> Numbers:
    import numpy as np

    return np.frombuffer(data, np.int64)


def _vectors(data: bytes, n: int) -> Vectors:
    import numpy as np

    vectors = np.frombuffer(data, "<f4").reshape(n, -1)
    if not np.isfinite(vectors).all() or np.abs(np.linalg.norm(vectors, axis=1) - 1).max(initial=0) > UNIT:
        raise Refused("Vectors that another device sent are none: their lengths are not 1.")
    return vectors
