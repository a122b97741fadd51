"""What a model loses in another format: how far its probabilities of next tokens are from those of the source.

A text is cut into chunks, as llama.cpp's own measure does: each begins anew, and the rows of its second half count,
which have enough before them. What was measured of a chunk is kept, so that who is interrupted goes on there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import UsageError
from ainet.quantising.arrays import read_arrays, write_arrays
from ainet.stages.llama.llama import Llama
from ainet.stages.llama.vocabulary import Vocabulary
from ainet.stages.protocol.segments import Segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from ainet.stages.llama.hidden_output import Watcher

#: Tokens of a chunk, and how many of them a text must have at least.
CHUNK, SHORTEST = 512, 64


class Agreement(NamedTuple):
    """How a model agrees with its source in the rows of some chunks: both of shape (rows,).

    Attributes
    ----------
    divergence
        Kullback-Leibler divergence of its probabilities from the source's, in nats, float32.
    same_top
        Whether the most probable token is the same.
    """

    divergence: NDArray[np.float32]
    same_top: NDArray[np.bool_]


class Reader:
    """A model that reads a text, chunk by chunk.

    Parameters
    ----------
    path
        Its file. It is mapped: a model that exceeds the memory is read again for each chunk.
    threads
        Threads.
    watched
        As for `Llama`.
    """

    def __init__(self, path: Path, *, threads: int, watched: Watcher | None = None) -> None:
        half = CHUNK // 2
        self._llama = Llama(
            path, hidden_out=False, n_ctx=CHUNK, n_ubatch=half, n_outputs=half, threads=threads, mapped=True,
            watched=watched,
        )  # fmt: skip
        self._vocabulary = Vocabulary(self._llama)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llama.close()

    def chunks(self, text: str, most: int) -> list[NDArray[np.int32]]:
        """Return the first `most` chunks of a text, int32 of shape (CHUNK,); a short text is one shorter chunk.

        Raises
        ------
        UsageError
            It is too short to tell anything.
        """
        vocabulary = self._vocabulary.pointer
        begin = [C.llama_vocab_bos(vocabulary)] if C.llama_vocab_get_add_bos(vocabulary) else []
        tokens = self._vocabulary.tokenize(text, special=False)
        if len(tokens) < SHORTEST:
            raise UsageError(f"The text has {len(tokens)} tokens; it takes at least {SHORTEST} to compare models.")
        room = CHUNK - len(begin)
        ends = range(room, len(tokens) + 1, room) if len(tokens) >= room else [len(tokens)]
        parts = [tokens[max(0, end - room) : end] for end in ends][:most]
        return [np.concatenate([np.array(begin, np.int32), part]) for part in parts]

    def read(self, tokens: NDArray[np.int32]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of a chunk's second half, row by row, float32 of shape (n_vocab,): views until the next."""
        llama, half = self._llama, len(tokens) // 2
        llama.clear()
        llama.decode(tokens[:half], [Segment(0, 0, half)])
        rest = len(tokens) - half
        llama.decode(tokens[half:], [Segment(0, half, rest, outputs=rest)])
        for row in range(rest):
            yield llama.logits(row)


def keep_logits(path: Path, rows: Iterator[NDArray[np.float32]]) -> None:
    """Keep logits in a file, relative to the largest of each row: half precision is fine where probability is."""
    kept = np.stack([(row - row.max()).astype(np.float16) for row in rows])
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, kept)
    part.replace(path)


def compare(source: Path, rows: Iterator[NDArray[np.float32]]) -> Agreement:
    """Return how the rows of a model agree with those of its source, which `keep_logits` kept."""
    divergences, same = [], []
    for expected, logits in zip(np.load(source, mmap_mode="r"), rows, strict=True):
        known = _log_softmax(expected.astype(np.float32))
        found = _log_softmax(logits)
        divergences.append(max(0.0, float(np.sum(np.exp(known) * (known - found)))))
        same.append(int(expected.argmax()) == int(logits.argmax()))
    return Agreement(np.array(divergences, np.float32), np.array(same, np.bool_))


def keep_agreement(path: Path, agreement: Agreement) -> None:
    """Keep what was measured of a chunk."""
    write_arrays(path, agreement._asdict())


def kept_agreement(path: Path) -> Agreement | None:
    """Return what `keep_agreement` kept; None if it must be measured again."""
    kept = read_arrays(path)
    return Agreement(kept["divergence"], kept["same_top"]) if kept is not None else None


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max()
    result: NDArray[np.float32] = shifted - np.log(np.sum(np.exp(shifted)))
    return result
