"""The process that converts and reads whole models: niced, and ended when its owner wants it to stop."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ainet.engine.program import Program, main
from ainet.errors import AinetError, ModelError, NotEnough
from ainet.models.gguf import open_model
from ainet.models.gguf_values import TENSOR_TYPES
from ainet.quantising import llama_quantise
from ainet.quantising.arrays import read_arrays, write_arrays
from ainet.quantising.formats import FORMATS
from ainet.quantising.importance import Importance
from ainet.quantising.quality import Reader, compare, keep_agreement, keep_logits, kept_agreement
from ainet.stages.llama.speed import measure_speed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NICE = 10
#: Seconds between two signs of progress.
TOLD = 0.2


class Part(NamedTuple):
    """A part of a text: its file, its first chunk and the number of chunks, and the folder of what is measured."""

    text: str
    first: int
    chunks: int
    folder: str

    def of(self, reader: Reader) -> list[NDArray[np.int32]]:
        """Return the chunks as tokens of a model."""
        return reader.chunks(Path(self.text).read_text(), self.first + self.chunks)[self.first :]


class QuantisingProgram(Program):
    """Converts, compares and times models, one thing at a time."""

    commands: ClassVar[frozenset[str]] = frozenset(
        {"start", "types", "quantise", "count_chunks", "measure_importance", "keep_source", "compare", "speed"}
    )

    def __init__(self, run_dir: Path, answers: int) -> None:
        super().__init__(run_dir, answers)
        self._told = 0.0
        self._threads = 1

    async def start(self, threads: int) -> None:
        """Give way to everything else from now on."""
        os.nice(NICE)
        os.umask(0o077)
        self._threads = threads

    async def types(self, source: str, formats: list[str], importance: bool) -> dict[str, Any]:
        """Return the types that tensors would change to, by formats and names."""

        def ask() -> dict[str, dict[str, int]]:
            return {
                name: llama_quantise.new_types(
                    Path(source), FORMATS[name], importance=importance or FORMATS[name].importance
                )
                for name in formats
            }

        return await self._do(ask)

    async def quantise(
        self, source: str, target: str, form: str, importance: str | None, notes: dict[str, str]
    ) -> dict[str, Any]:
        """Write a file in the format `form`; `importance` is a file that `measure_importance` wrote."""

        def work() -> None:
            matrix = _matrix(Path(source), Path(importance)) if importance is not None else {}
            llama_quantise.quantise(
                Path(source),
                Path(target),
                FORMATS[form],
                threads=self._threads,
                importance=matrix,
                notes=notes,
                progress=self._tell,
            )

        return await self._do(work)

    async def count_chunks(self, source: str, text: str, most: int) -> dict[str, Any]:
        """Return how many chunks of a text there are for a model, up to `most`."""

        def work() -> int:
            with Reader(Path(source), threads=1) as reader:
                return len(Part(text, 0, most, "").of(reader))

        return await self._do(work)

    async def measure_importance(self, source: str, part: dict[str, Any], target: str) -> dict[str, Any]:
        """Measure the importance of columns on a part of a text, and keep it in the file `target`."""
        on = Part(**part)

        def sums(number: int) -> Path:
            return Path(on.folder, f"sums-{number}.npz")

        def work() -> None:
            measured = Importance()
            begun = max((number for number in range(on.chunks) if sums(number).exists()), default=-1)
            done = begun + 1 if begun >= 0 and measured.take_up(sums(begun)) else 0
            with Reader(Path(source), threads=self._threads, watched=measured) as reader:
                for number, tokens in list(enumerate(on.of(reader)))[done:]:
                    self._tell(number, on.chunks)
                    for _ in reader.read(tokens):
                        pass
                    measured.matrix()  # a fault is told at once
                    measured.keep(sums(number))
                    sums(number - 1).unlink(missing_ok=True)
            write_arrays(Path(target), measured.matrix())

        return await self._do(work)

    async def keep_source(self, source: str, part: dict[str, Any]) -> dict[str, Any]:
        """Keep the source's logits of a part of a text."""
        on = Part(**part)

        def work() -> None:
            with Reader(Path(source), threads=self._threads) as reader:
                for number, tokens in enumerate(on.of(reader)):
                    self._tell(number, on.chunks)
                    path = Path(on.folder, f"source-{number}.npy")
                    if not path.exists():
                        keep_logits(path, reader.read(tokens))

        return await self._do(work)

    async def compare(self, model: str, name: str, part: dict[str, Any]) -> dict[str, Any]:
        """Compare a model with its source on a part of a text; what is known of `name` is not measured again."""
        on = Part(**part)

        def work() -> dict[str, float]:
            paths = [Path(on.folder, f"{name}-{number}.npz") for number in range(on.chunks)]
            found = [kept_agreement(path) for path in paths]
            if None in found:
                with Reader(Path(model), threads=self._threads) as reader:
                    for number, tokens in enumerate(on.of(reader)):
                        self._tell(number, on.chunks)
                        if found[number] is not None:
                            continue
                        source = Path(on.folder, f"source-{number}.npy")
                        if not source.exists():
                            paths[number].unlink(missing_ok=True)
                            raise ModelError(f"What was measured of chunk {number + 1} is damaged. Ask again.")
                        agreement = found[number] = compare(source, reader.read(tokens))
                        keep_agreement(paths[number], agreement)
            divergence = np.concatenate([one.divergence for one in found if one is not None])
            same = np.concatenate([one.same_top for one in found if one is not None])
            return {
                "divergence": float(divergence.mean()),
                "error": float(divergence.std() / len(divergence) ** 0.5),
                "worst": float(np.quantile(divergence, 0.99)),
                "same_top": float(same.mean()),
                "rows": len(same),
            }

        return await self._do(work)

    async def speed(self, kinds: list[str]) -> dict[str, Any]:
        """Return the bytes a second of one thread for types of weights; None for those that cannot be measured."""
        numbers = {kind.name: number for number, kind in TENSOR_TYPES.items()}

        def work() -> dict[str, float | None]:
            found: dict[str, float | None] = {}
            for done, name in enumerate(kinds):
                self._tell(done, len(kinds))
                try:
                    found[name] = measure_speed(numbers[name], self._threads, self.run_dir)
                except AinetError:
                    found[name] = None
            return found

        return await self._do(work)

    def _tell(self, done: int, total: int) -> None:
        if time.monotonic() - self._told >= TOLD:
            self._told = time.monotonic()
            self.emit({"done": done, "total": total})

    async def _do(self, work: Callable[[], Any]) -> dict[str, Any]:
        """Do `work` in a thread that no end of this process waits for; an error for the owner is an answer, too."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[str, Any]] = loop.create_future()

        def finish(found: dict[str, Any]) -> None:
            if not answer.done():
                answer.set_result(found)

        def fail(error: BaseException) -> None:
            if not answer.done():
                answer.set_exception(error)

        def run() -> None:
            try:
                found = {"found": work()}
            except AinetError as exc:
                found = {"refused": exc.to_dict()}
            except OSError as exc:
                refused = NotEnough(f"{exc.filename or 'A file'} cannot be read or written: {exc.strerror}.")
                found = {"refused": refused.to_dict()}
            except BaseException as exc:
                loop.call_soon_threadsafe(fail, exc)
                return
            loop.call_soon_threadsafe(finish, found)

        threading.Thread(target=run, name="work", daemon=True).start()
        return await answer


def _matrix(source: Path, importance: Path) -> dict[str, NDArray[np.float32]]:
    """Return an importance matrix; columns of weights that no text uses, as in prediction layers, are all equal."""
    equal = {
        info.name: np.ones(math.prod((info.shape[0], *info.shape[2:])), np.float32)
        for file in open_model(source)
        for info in file.tensors
        if len(info.shape) > 1
    }
    return equal | (read_arrays(importance) or {})


if __name__ == "__main__":
    main(QuantisingProgram)
