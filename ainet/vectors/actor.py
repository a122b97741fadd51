"""The Dask actor that makes, keeps and compares vectors in a worker, and gives way to everything else."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.vectors.model import EmbeddingModel
    from ainet.vectors.table import Numbers

NICE = 10
#: One thread: the owner works beside it.
_ENVIRONMENT = {
    "LANCE_CPU_THREADS": "1",
    "LANCE_IO_THREADS": "2",
    "LANCE_LOG": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class VectorActor:
    """The vectors of one folder.

    Numbers of passages travel as the bytes of 64-bit integers: the server, which names this class, loads no NumPy.

    Parameters
    ----------
    folder
        Where the tables lie.
    """

    def __init__(self, folder: str) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # the threads that it starts inherit this
        os.environ.update(_ENVIRONMENT)
        from ainet.vectors.table import VectorTables
        from ainet.vectors.word_llama import WordLlama

        self._tables = VectorTables(Path(folder))
        self._model: EmbeddingModel = WordLlama()

    def model(self) -> tuple[str, str, int]:
        """Return the hash, the name and the dimensions of the model."""
        return self._model.hash, self._model.name, self._model.dimensions

    def add(self, table: str, passages: bytes, texts: Sequence[str]) -> None:
        """Add the vectors of passages to a table."""
        self._tables.add(table, _numbers(passages), self._model.passages(texts))

    def search(self, table: str, question: str, n: int, among: bytes | None = None) -> tuple[list[int], list[float]]:
        """Return the passages nearest to a question, and how similar they are."""
        vector = self._model.question(question)
        near = self._tables.search(table, vector, n, among=_numbers(among) if among is not None else None)
        return near.passages.tolist(), near.similarities.tolist()

    def passages(self, table: str) -> bytes:
        """Return the numbers of all passages of a table."""
        return self._tables.passages(table).tobytes()

    def rewrite(self, old: str, new: str, keep: bytes) -> int:
        """Write a table anew with these passages alone."""
        return self._tables.rewrite(old, new, _numbers(keep))

    def settle(self, table: str) -> None:
        """Make the table's index, if it needs one."""
        self._tables.index(table)

    def keep_only(self, tables: Sequence[str]) -> None:
        """Drop all other tables."""
        self._tables.keep_only(tables)


def _numbers(data: bytes) -> Numbers:
    import numpy as np

    return np.frombuffer(data, np.int64)
