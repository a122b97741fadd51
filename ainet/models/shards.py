"""Shards: a range of a model's layers as a GGUF file that stock llama.cpp loads."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from ainet.errors import NotFound
from ainet.models.gguf import files_of
from ainet.models.gguf_writer import header, write
from ainet.models.part_writer import disk_full, sync_folder
from ainet.models.shard_layout import ShardTensor, layout, shard_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ainet.models.gguf_values import TensorInfo
    from ainet.models.manifest import Manifest
    from ainet.models.tensors import Progress, TensorStore


#: Bytes that are taken out of a shard which is deleted to make room, if the new one needs them.
MAX_TAKEN_OUT = 16_000_000
#: Bytes of a placeholder that are written at once.
ZEROS = 1 << 20


class TensorLocation(msgspec.Struct, frozen=True):
    """The place of a tensor's bytes.

    Attributes
    ----------
    offset, nbytes
        Bytes.
    type
        ggml's number of the type.
    shape
        In ggml's order: of an embedding table, values per token first, then tokens.
    """

    path: str
    offset: int
    nbytes: int
    type: int
    shape: tuple[int, ...]


class Shard(msgspec.Struct, frozen=True):
    """A file that a stage loads.

    Attributes
    ----------
    path
        GGUF file; of a model in several files, the first.
    first_layer, last_layer
        Of the whole model, inclusive.
    is_first, is_last
        A first stage takes tokens, a last one gives logits.
    n_embd
        Values of one hidden state.
    input_scale
        Factor for the token embeddings that the first of several stages looks up.
    nbytes
        Size of the file, or of all of them.
    embedding
        The embedding table, for the first of several stages; None if llama.cpp looks tokens up itself.
    """

    path: str
    first_layer: int
    last_layer: int
    is_first: bool
    is_last: bool
    n_embd: int
    input_scale: float
    nbytes: int
    embedding: TensorLocation | None


class ShardStore:
    """Makes shards out of a `TensorStore`'s tensors and keeps them while the disk allowance suffices.

    Parameters
    ----------
    store
        The tensors.
    in_use
        Returns the shards that must stay, as (manifest, first layer, last layer); called in any thread.
    """

    def __init__(
        self, store: TensorStore, in_use: Callable[[], Iterable[tuple[Manifest, int, int]]] = lambda: ()
    ) -> None:
        self._store = store
        self._in_use = in_use
        self._assembling = threading.Lock()

    def assemble(self, manifest: Manifest, first: int, last: int, *, progress: Progress | None = None) -> Shard:
        """Return the shard with the layers [first, last], which is written unless it is there already.

        A whole model whose file is on this device is used as it is.

        Raises
        ------
        CannotSplit
            If the architecture does not allow this range.
        NotFound
            If tensors are missing.
        NotEnough
            If the disk, or the allowance, is full; nothing is left behind.
        """
        manifest.check_range(first, last)
        is_first, is_last = first == 0, last == manifest.n_layers - 1
        embedding = None
        with self._assembling:
            file = self._store.file_of(manifest.digest) if is_first and is_last else None
            if file is not None:
                nbytes = sum(part.stat().st_size for part in files_of(file))
            else:
                file, nbytes = self._written(manifest, first, last, progress)
                os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))  # used now
            if is_first and not is_last:
                embedding = self._embedding(manifest)
        scale = manifest.split.input_scale(manifest)
        return Shard(str(file), first, last, is_first, is_last, manifest.n_embd, scale, nbytes, embedding)

    def nbytes(self, manifest: Manifest, first: int, last: int) -> int:
        """Return the size that the shard's tensors will have, without assembling it."""
        return sum(tensor.nbytes for tensor in layout(manifest, first, last))

    def path(self, manifest: Manifest, first: int, last: int) -> Path:
        """Return where the shard is kept."""
        return self._store.shards / manifest.digest / f"{first}-{last}.gguf"

    def make_room(self, manifest: Manifest, first: int, last: int) -> None:
        """Delete shards that nobody uses until this one, and what must be fetched for it, fit into the allowance.

        The least recently used goes first. One that alone holds much of what this shard is made of stays.
        """
        with self._assembling:
            whole = first == 0 and last == manifest.n_layers - 1
            if self._store.index.is_current(self.path(manifest, first, last)) or (
                whole and self._store.file_of(manifest.digest)
            ):
                return
            entries = layout(manifest, first, last)
            to_fetch = sum(tensor.nbytes for tensor in self._store.missing(manifest, first, last))
            to_write = sum(entry.nbytes for entry in entries) - self._loose_bytes(entries)
            self._make_room(manifest, first, last, max(to_fetch, to_write))

    def _make_room(self, manifest: Manifest, first: int, last: int, nbytes: int) -> None:
        excess = self._store.excess(nbytes)
        if excess <= 0:
            return
        keep = {str(self.path(manifest, first, last))}
        for used, start, end in self._in_use():
            keep.add(str(self.path(used, start, end)))
            table = used.tensor("token_embd.weight") if start == 0 else None
            if table is not None and (place := self._store.locate(table.hash)) is not None:
                keep.add(place.path)
        wanted = {tensor.hash: tensor.nbytes for tensor in manifest.shard_tensors(first, last)}
        unused = [path for path in self._store.shards.rglob("*.gguf") if str(path) not in keep]
        for path in sorted(unused, key=lambda path: path.stat().st_atime_ns):
            if excess <= 0:
                break
            only_here = {key: nbytes for key, nbytes in wanted.items() if self._store.is_only_in(path, key)}
            if sum(only_here.values()) > MAX_TAKEN_OUT:
                continue
            taken_out = {key: self._store.read(key, 0, nbytes) for key, nbytes in only_here.items()}
            excess -= path.stat().st_size - sum(only_here.values())
            self._store.index.forget(path)
            path.unlink()
            for key, data in taken_out.items():
                self._store.save_blob(key, data)

    def _loose_bytes(self, entries: list[ShardTensor]) -> int:
        return sum(self._store.loose_bytes(entry.hash) for entry in entries if entry.hash)

    def _embedding(self, manifest: Manifest) -> TensorLocation:
        table = manifest.tensor("token_embd.weight")
        place = self._store.locate(table.hash) if table is not None else None
        if table is None or place is None:
            raise _missing(manifest, 1)
        return TensorLocation(place.path, place.offset, place.nbytes, table.type, table.shape)

    def _written(self, manifest: Manifest, first: int, last: int, progress: Progress | None) -> tuple[Path, int]:
        target = self.path(manifest, first, last)
        entries = layout(manifest, first, last)
        vocabulary = self._store.vocabulary(manifest) if last == manifest.n_layers - 1 else {}
        head, places, size = header(
            shard_metadata(manifest, first, last, vocabulary),
            [(entry.name, entry.shape, entry.type) for entry in entries],
        )
        if self._store.index.is_current(target) and _begins_with(target, head):
            return target, size
        absent = self._store.missing(manifest, first, last)
        if absent:
            raise _missing(manifest, len(absent))
        # The fetched tensors are deleted in exchange, so that only the difference counts in the end.
        needed = size - self._loose_bytes(entries)
        self._make_room(manifest, first, last, needed)
        self._store.check_room(needed, f"The shard {target.stem} of {manifest.name}")
        target.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                sources = self._sources(entries, places, progress)
                write(file, head, sources, size)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            raise disk_full(exc, f"The shard {target.stem} of {manifest.name}", target.parent) from exc
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(target)
        sync_folder(target.parent)
        held = [
            (entry.hash, info.offset, info.nbytes) for entry, info in zip(entries, places, strict=True) if entry.hash
        ]
        self._store.index.add(target, target.stat(), held)
        table = manifest.tensor("token_embd.weight")
        in_use = table is not None and any(target.parent.glob("0-*.gguf"))  # a first stage looks tokens up there
        for key, *_ in held:
            if not (in_use and table is not None and key == table.hash):
                self._store.remove_blob(key)
        return target, size

    def _sources(
        self, entries: list[ShardTensor], places: list[TensorInfo], progress: Progress | None
    ) -> Iterator[tuple[TensorInfo, Iterable[bytes]]]:
        total, done = sum(info.nbytes for info in places), 0
        for entry, info in zip(entries, places, strict=True):
            yield info, self._store.chunks(entry.hash) if entry.hash else _zero_bytes(info.nbytes)
            done += info.nbytes
            if progress is not None:
                progress(done, total)


def _zero_bytes(nbytes: int) -> Iterator[bytes]:
    for position in range(0, nbytes, ZEROS):
        yield bytes(min(ZEROS, nbytes - position))


def _begins_with(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _missing(manifest: Manifest, count: int) -> NotFound:
    return NotFound(f"{count} tensors of {manifest.name} are not on this device yet.")
