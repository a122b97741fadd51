"""One piece of work: models made of another one, and compared with it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ainet.api.quantise import MadeModel, Quality, QuantiseState
from ainet.errors import AinetError, NotEnough, UsageError
from ainet.files import make_private_dir, write_private
from ainet.quantising.advice import bits, converted
from ainet.quantising.formats import Format, find_format
from ainet.quantising.process import QuantisingProcess
from ainet.units import show_bytes

if TYPE_CHECKING:
    import logging

    from ainet.api.generate import Unit
    from ainet.api.quantise import QuantiseRequest
    from ainet.models.catalog import ModelCatalog
    from ainet.models.manifest import Manifest
    from ainet.models.tensors import Progress, TensorStore
    from ainet.resources.allocator import Allocator

#: Keys of files that are made: the digest of the source, and of what the importance was measured on.
SOURCE, IMPORTANCE = "ainet.source", "ainet.importance"
#: Bytes of memory that converting takes, and reading besides the rows of logits: rows that are converted, a process.
CONVERTING, READING = 450_000_000, 400_000_000
#: Rows of a chunk for which there are logits, and bytes of one logit: computed, copied, compared.
ROWS, LOGIT = 256, 16
#: Disk space that stays free (bytes).
SPARE = 64_000_000
UNFINISHED = ".quantising"
UNQUANTISED = ("F32", "F16", "BF16")
_NAME = re.compile(r"[\w+-][\w.+-]*")


class _Part(NamedTuple):
    """A part of a text, as the process takes it: its file, its first chunk, the number of chunks, a folder."""

    text: str
    first: int
    chunks: int
    folder: str


class QuantiseJob:
    """Makes models and compares them.

    Parameters
    ----------
    request
        What the owner wants. What makes no sense of it is refused here.
    catalog, store
        The models on this device.
    allocator
        The memory of this node.
    data_dir
        The node's data directory: models go to ``models/``, what was measured of them to ``quality/``.
    threads
        The threads that it computes with.
    log
        For the end of its process.

    Raises
    ------
    UsageError
        The request makes no sense.
    """

    def __init__(
        self,
        request: QuantiseRequest,
        *,
        catalog: ModelCatalog,
        store: TensorStore,
        allocator: Allocator,
        data_dir: Path,
        threads: int,
        log: logging.Logger,
    ) -> None:
        self._request, self._catalog, self._store, self._allocator = request, catalog, store, allocator
        self._data_dir, self._threads, self._log = data_dir, threads, log
        self._models, self._text = data_dir / "models", data_dir / "quality" / "text.txt"
        self._formats = [find_format(name) for name in dict.fromkeys(name.upper() for name in request.formats)]
        #: Where it is.
        self.state = QuantiseState(model=request.model, step="beginning")
        self._process: QuantisingProcess
        self._ended = False
        self._check()

    def _check(self) -> None:
        request = self._request
        if not self._formats:
            raise UsageError("Name a format, such as Q4_0; `ainet quantise MODEL` recommends one.")
        if request.name is not None and len(self._formats) > 1:
            raise UsageError("A name can be given to one model only. Name one format, or leave --name out.")
        if request.name is not None and not _NAME.fullmatch(request.name):
            raise UsageError(f"{request.name!r} cannot be a name: take letters, digits and any of . _ + - for it.")
        if request.importance and request.text is None:
            raise UsageError("An importance matrix is measured on a text: add --text FILE.")
        needing = [wanted.name for wanted in self._formats if wanted.importance]
        if needing and not request.importance:
            raise UsageError(
                f"llama.cpp writes {needing[0]} only with an importance matrix: add --text FILE --importance."
            )

    async def run(self) -> None:
        """Do the work.

        Raises
        ------
        AinetError
            It cannot be done. Models that were complete before are kept, and what was measured of others.
        """
        try:
            source, path = await self._find_source()
            await asyncio.to_thread(self._tidy)
            async with QuantisingProcess(self._data_dir, self._log, self._threads) as self._process:
                try:
                    await self._work(source, path)
                finally:
                    await asyncio.to_thread(self._remove_unfinished)
        finally:
            self._ended = True

    async def _work(self, source: Manifest, path: Path) -> None:
        if source.quantisation not in UNQUANTISED:
            self._note(
                f"{source.name} was quantised before, as {source.quantisation}: what is made of it can only be worse. "
                "Take the original (F16 or BF16) where you can get it."
            )
        part = None
        if self._request.text is not None:
            part = await self._prepare_text(source, path, self._request.text)
        for wanted in self._formats:
            made = await self._make(source, path, wanted, part if self._request.importance else None)
            self.state = dataclasses.replace(self.state, made=[*self.state.made, made])
        if part is not None:
            with self._allocator.reserve("comparing models", memory=_reading(source)):
                await self._compare(source, path, part)

    # --- the source ------------------------------------------------------------------------------

    async def _find_source(self) -> tuple[Manifest, Path]:
        name = self._request.model
        manifest = await asyncio.to_thread(
            self._catalog.manifest, name, progress=self._teller(f"reading {name}", "bytes")
        )
        path = self._store.file_of(manifest.digest)
        if path is None:
            raise UsageError(f"Only tensors of {manifest.name} are on this device. Its file is needed here.")
        return manifest, path

    # --- making ----------------------------------------------------------------------------------

    async def _make(self, source: Manifest, path: Path, wanted: Format, part: _Part | None) -> MadeModel:
        """Write the source in a format, or find that it was; where a part of a text is given, with its importance."""
        name = self._request.name or new_name(source, wanted.name, importance=part is not None)
        target = self._models / f"{name}.gguf"
        notes = {SOURCE: source.digest} | ({IMPORTANCE: Path(part.folder).name} if part is not None else {})
        if target.exists():
            made = await self._register(target, name)
            found = {key: text for key in (SOURCE, IMPORTANCE) if (text := made.text(key)) is not None}
            if found != notes or made.metadata["general.file_type"].value != wanted.number:
                raise UsageError(f"{name} is there already, and is another model. Give the new one a name with --name.")
            return _made(source, made, target, wanted, was_there=True)
        importance = await self._measure_importance(source, path, part) if part is not None else None
        self._say(f"planning {wanted.name}")
        types = await self._process.ask("types", source=str(path), formats=[wanted.name], importance=part is not None)
        size = converted(source, types[wanted.name]).nbytes
        free = shutil.disk_usage(self._models).free
        if size + SPARE > free:
            raise NotEnough(
                f"{name} takes {show_bytes(size)} on disk, but only {show_bytes(max(0, free - SPARE))} can be used in "
                f"{self._models}. Free some space, or take a format of fewer bits.",
                needed=size,
                free=free,
            )
        unfinished = target.with_suffix(UNFINISHED)
        with self._allocator.reserve(f"converting {source.name}", memory=CONVERTING):
            await self._process.ask(
                "quantise",
                self._teller(f"writing {name}", "tensors"),
                source=str(path),
                target=str(unfinished),
                form=wanted.name,
                importance=importance,
                notes=notes,
            )
        await asyncio.to_thread(unfinished.replace, target)
        try:
            return _made(source, await self._register(target, name), target, wanted)
        except AinetError:
            target.unlink(missing_ok=True)  # llama.cpp made nothing that it can use
            raise

    async def _register(self, path: Path, name: str) -> Manifest:
        progress = self._teller(f"reading {name}", "bytes")
        return await asyncio.to_thread(self._store.register, path, name=name, progress=progress)

    # --- measuring -------------------------------------------------------------------------------

    async def _prepare_text(self, source: Manifest, path: Path, text: str) -> _Part:
        """Keep the text where the process can read it, and return the part of it that compares."""
        request, kept = self._request, self._text
        await asyncio.to_thread(write_private, kept, text.encode())
        self._say("reading the text")
        most = request.chunks * (2 if request.importance else 1)
        there = int(await self._process.ask("count_chunks", source=str(path), text=str(kept), most=most))
        if there < most:
            self._note(f"The text is short: {there} chunk{'s' if there > 1 else ''} of 512 tokens instead of {most}.")
        first = there // 2 if request.importance else 0
        if request.importance and not first:
            raise UsageError("The text is too short to measure importance on one half and to compare on the other one.")
        folder = await asyncio.to_thread(self._folder, f"{source.digest} {first} {text}")
        return _Part(str(kept), first, there - first, str(folder))

    def _folder(self, measured: str) -> Path:
        """Return the folder of what is measured; what was measured of other texts, and is large, goes."""
        key = hashlib.sha256(measured.encode()).hexdigest()[:32]
        folder = make_private_dir(self._data_dir / "quality" / key)
        for other in folder.parent.iterdir():
            if other.is_dir() and other != folder:
                _remove_large(other)
        return folder

    async def _measure_importance(self, source: Manifest, path: Path, part: _Part) -> str:
        """Return the file of the importance matrix, which is measured on what comes before the part that compares."""
        target = Path(part.folder) / "importance-matrix.npz"
        if not target.exists():
            teller = self._teller("measuring importance", "chunks")
            on = part._replace(first=0, chunks=part.first)._asdict()
            with self._allocator.reserve("reading a model", memory=_reading(source)):
                await self._process.ask("measure_importance", teller, source=str(path), part=on, target=str(target))
        return str(target)

    async def _compare(self, source: Manifest, path: Path, part: _Part) -> None:
        folder = Path(part.folder)
        names = [
            folder / f"{made.digest[:32]}-{number}.npz" for made in self.state.made for number in range(part.chunks)
        ]
        if not all(name.exists() for name in names):
            size = 2 * part.chunks * ROWS * source.n_vocab
            free = shutil.disk_usage(folder).free
            if size + SPARE > free:
                raise NotEnough(
                    f"What {source.name} says to {part.chunks} chunks takes {show_bytes(size)} on disk, but only "
                    f"{show_bytes(max(0, free - SPARE))} can be used in {folder}. Take fewer with --chunks.",
                    needed=size,
                    free=free,
                )
            teller = self._teller(f"asking {source.name}", "chunks")
            await self._process.ask("keep_source", teller, source=str(path), part=part._asdict())
        for made in self.state.made:
            teller = self._teller(f"asking {made.name}", "chunks")
            found = await self._process.ask(
                "compare", teller, model=made.path, name=made.digest[:32], part=part._asdict()
            )
            quality = Quality(name=made.name, **found)
            self.state = dataclasses.replace(self.state, quality=[*self.state.quality, quality])
        await asyncio.to_thread(_remove_large, folder)

    # --- telling ---------------------------------------------------------------------------------

    def _say(self, step: str) -> None:
        self.state = dataclasses.replace(self.state, step=step, done=0, total=0)

    def _note(self, words: str) -> None:
        self.state = dataclasses.replace(self.state, notes=[*self.state.notes, words])

    def _teller(self, step: str, unit: Unit) -> Progress:
        self._say(step)

        def tell(done: int, total: int) -> None:  # of a thread, perhaps, which nobody else could stop
            if self._ended:
                raise AinetError("It was interrupted.")
            self.state = dataclasses.replace(self.state, step=step, done=done, total=total, unit=unit)

        return tell

    # --- tidying ---------------------------------------------------------------------------------

    def _tidy(self) -> None:
        make_private_dir(self._models)
        make_private_dir(self._text.parent)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for path in (*self._models.glob(f"*{UNFINISHED}"), self._text):
            path.unlink(missing_ok=True)


def new_name(source: Manifest, wanted: str, *, importance: bool) -> str:
    """Return the name of a model in another format, which takes the place of the source's at its end."""
    plain = re.sub(rf"[-._:]{re.escape(source.quantisation)}$", "", source.name, flags=re.IGNORECASE)
    return re.sub(r"[^\w.+-]+", "-", plain).strip("-.") + f"-{wanted}{'-imatrix' if importance else ''}"


def _made(source: Manifest, made: Manifest, path: Path, wanted: Format, *, was_there: bool = False) -> MadeModel:
    own = {tensor.hash for tensor in source.tensors}
    return MadeModel(
        name=made.name,
        format=wanted.name,
        path=str(path),
        digest=made.digest,
        size=made.nbytes,
        shared=sum(tensor.nbytes for tensor in made.tensors if tensor.hash in own),
        bits=bits(made),
        was_there=was_there,
        importance=made.text(IMPORTANCE) is not None,
    )


def _reading(source: Manifest) -> int:
    return READING + ROWS * LOGIT * source.n_vocab


def _remove_large(folder: Path) -> None:
    """Remove what is needed only while models are compared; what was measured of them stays."""
    for pattern in ("source-*", "sums-*", "importance-*", "*.part"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()
