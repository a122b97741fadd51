"""Where the tensors of models lie on this device, by hash.

A tensor may lie in a GGUF file of the user's, in a shard that was assembled, or, while it waits for its shard, in a
file of its own. The index remembers which, for files whose size and time of modification are unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ainet.config import show_bytes
from ainet.errors import AinetError, Busy, ModelError, NotEnough, NotFound
from ainet.executor.manifest import (
    Manifest,
    Tensor,
    open_model,
    pack_vocabulary,
    unpack_vocabulary,
    vocabulary,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from ainet.executor.gguf import GGUFFile, TensorInfo, Value

    #: Called with the bytes done and the bytes in all.
    Progress = Callable[[int, int], None]

CHUNK = 1 << 20
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT, name TEXT);
CREATE TABLE IF NOT EXISTS places (
    hash TEXT, path TEXT REFERENCES files(path) ON DELETE CASCADE, offset INTEGER, nbytes INTEGER,
    PRIMARY KEY (hash, path)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places_by_path ON places (path);
"""
SCHEMA_VERSION = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Place(NamedTuple):
    """Bytes of a file."""

    path: str
    offset: int
    nbytes: int


class TensorStore:
    """Tensors by hash, and the manifests that name them. All methods may be called from any thread.

    Parameters
    ----------
    root
        Folder of the index, the manifests, the shards and the tensors that were fetched. One process at a time.
    disk
        Most bytes that shards and fetched tensors may occupy together; None for no limit of its own.
    """

    def __init__(self, root: Path, *, disk: int | None = None) -> None:
        self.root = root
        self.disk = disk
        #: Bytes that writers took in since the start.
        self.bytes_received = 0
        for folder in (root, self.tensors, self.shards, self.manifests):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self.shards.rglob("*.tmp"):
            leftover.unlink()
        self._lock = threading.RLock()
        self._registering = threading.Lock()
        self._writing: dict[str, PartWriter] = {}
        self._index = self._open_index()

    @property
    def tensors(self) -> Path:
        """Folder of fetched tensors."""
        return self.root / "tensors"

    @property
    def shards(self) -> Path:
        """Folder of assembled shards."""
        return self.root / "shards"

    @property
    def manifests(self) -> Path:
        """Folder of manifests."""
        return self.root / "manifests"

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- files and manifests ---------------------------------------------------------------------

    def register(self, path: Path, *, name: str | None = None, progress: Progress | None = None) -> Manifest:
        """Return the manifest of a GGUF file, whose tensors are hashed when it is new or was changed.

        Parameters
        ----------
        path
            The file, or the first of a model in several.
        name
            What to call the model; by default the file's name.
        progress
            Called while hashing.

        Raises
        ------
        ModelError
            If the file is damaged, no language model, or changes while it is read.
        """
        path = path.absolute()
        name = name or path.stem
        with self._registering:
            known = self.digest_of(path)
            if known is not None:
                with contextlib.suppress(NotFound):
                    return self.manifest(known, name=name)
            files = open_model(path)
            draft = Manifest.draft(name, files)
            found = vocabulary(files[0])
            tokenizer, blob = pack_vocabulary(found)
            stats = [file.path.stat() for file in files]
            hashes = _hash_tensors(files, progress)
            manifest = draft.with_hashes(tokenizer, hashes).validate()
            if [_identity(file.path.stat()) for file in files] != [_identity(stat) for stat in stats]:
                msg = f"{path.name} changed while it was read. Try again when it is complete."
                raise ModelError(msg)
            self._save_blob(tokenizer.hash, blob)
            self.save_manifest(manifest)
            for file, stat in zip(files, stats, strict=True):
                places = [(hashes[info.name], info.offset, info.nbytes) for info in file.tensors]
                self.add_file(file.path, stat, places, digest=manifest.digest, name=name)
            return manifest

    def save_manifest(self, manifest: Manifest) -> None:
        """Keep a manifest, which may come from another device.

        Raises
        ------
        ModelError
            If no valid file could have it.
        """
        data = manifest.validate().encode()
        target = self.manifests / f"{manifest.digest}.msgpack"
        if not target.exists():
            _write_atomically(target, data)

    def manifest(self, digest: str, *, name: str | None = None) -> Manifest:
        """Return a manifest that is known here, under another `name` if one is given.

        Raises
        ------
        NotFound
            If there is none, or it is damaged.
        """
        try:
            found = Manifest.decode((self.manifests / f"{digest}.msgpack").read_bytes())
        except (OSError, ModelError) as exc:
            msg = f"No model with the digest {digest[:12]}… is known here."
            raise NotFound(msg) from exc
        if found.digest != digest:
            msg = f"The description of the model {digest[:12]}… is damaged."
            raise NotFound(msg)
        return Manifest(name, found.metadata, found.tokenizer, found.tensors) if name else found

    def known_manifests(self) -> Iterator[Manifest]:
        """Yield every manifest that is known here."""
        for path in sorted(self.manifests.glob("*.msgpack")):
            with contextlib.suppress(NotFound):
                yield self.manifest(path.stem)

    def file_of(self, digest: str) -> Path | None:
        """Return an unchanged GGUF file that holds the whole model, or None."""
        with self._lock:
            rows = self._index.execute("SELECT path FROM files WHERE digest = ? ORDER BY path", (digest,)).fetchall()
        for (path,) in rows:
            if self.digest_of(Path(path)) == digest:
                return Path(path)
        return None

    def add_file(
        self,
        path: Path,
        stat: os.stat_result,
        places: Iterable[tuple[str, int, int]],
        *,
        digest: str | None = None,
        name: str = "",
    ) -> None:
        """Remember which tensors lie in a file, as (hash, offset, nbytes); `digest` if it is a user's whole model."""
        with self._lock, self._index:
            self._index.execute("DELETE FROM files WHERE path = ?", (str(path),))
            self._index.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?)", (str(path), *_identity(stat), digest, name))
            self._index.executemany(
                "INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?)",
                ((key, str(path), offset, nbytes) for key, offset, nbytes in places),
            )

    def forget_file(self, path: Path) -> None:
        """Forget the tensors of a file that is gone or changed."""
        with self._lock, self._index:
            self._index.execute("DELETE FROM files WHERE path = ?", (str(path),))

    def is_current(self, path: Path) -> bool:
        """Return whether a file is in the index and unchanged."""
        with self._lock:
            row = self._index.execute("SELECT size, mtime_ns FROM files WHERE path = ?", (str(path),)).fetchone()
        try:
            return row is not None and tuple(row) == _identity(path.stat())
        except OSError:
            return False

    def digest_of(self, path: Path) -> str | None:
        """Return the digest of the model in a file that was registered and is unchanged, or None."""
        with self._lock:
            row = self._index.execute("SELECT digest FROM files WHERE path = ?", (str(path),)).fetchone()
        return row[0] if row is not None and row[0] and self.is_current(path) else None

    # --- tensors ---------------------------------------------------------------------------------

    def locate(self, key: str) -> Place | None:
        """Return where the tensor with the hash `key` lies, or None."""
        blob = self._blob_path(key)
        with contextlib.suppress(OSError):
            return Place(str(blob), 0, blob.stat().st_size)
        with self._lock:
            rows = self._index.execute("SELECT path, offset, nbytes FROM places WHERE hash = ?", (key,)).fetchall()
        for row in rows:
            if self.is_current(Path(row[0])):
                return Place(*row)
            self.forget_file(Path(row[0]))
        return None

    def has(self, key: str) -> bool:
        """Return whether the tensor with the hash `key` is on this device."""
        return self.locate(key) is not None

    def read(self, key: str, offset: int, count: int) -> bytes:
        """Return up to `count` bytes of a tensor from `offset` on; fewer at its end.

        Raises
        ------
        NotFound
            If the tensor is not here.
        """
        place = self.locate(key)
        if place is None or not 0 <= offset <= place.nbytes or count < 0:
            msg = f"The tensor {key[:12]}… is not on this device."
            raise NotFound(msg)
        with Path(place.path).open("rb", buffering=0) as file:
            file.seek(place.offset + offset)
            return _read_exactly(file, min(count, place.nbytes - offset), place.path)

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield a tensor's bytes."""
        place = self.locate(key)
        if place is None:
            msg = f"The tensor {key[:12]}… is not on this device."
            raise NotFound(msg)
        with Path(place.path).open("rb", buffering=0) as file:
            file.seek(place.offset)
            for start in range(0, place.nbytes, CHUNK):
                yield _read_exactly(file, min(CHUNK, place.nbytes - start), place.path)

    def missing(self, manifest: Manifest, first: int, last: int) -> list[Tensor]:
        """Return what a stage with the layers [first, last] needs and this device does not have, each hash once."""
        found = {tensor.hash: tensor for tensor in manifest.shard_tensors(first, last)}
        return [tensor for key, tensor in found.items() if not self.has(key)]

    def vocabulary(self, manifest: Manifest) -> dict[str, Value]:
        """Return the checked ``tokenizer.*`` metadata of a model.

        Raises
        ------
        NotFound
            If its blob is not on this device.
        ModelError
            If it is no vocabulary for that model.
        """
        blob = self.read(manifest.tokenizer.hash, 0, manifest.tokenizer.nbytes)
        found = unpack_vocabulary(manifest.tokenizer, blob)
        manifest.check_vocabulary(found)
        return found

    def writer(self, tensor: Tensor) -> PartWriter:
        """Return a writer that takes up where the last one for this tensor stopped.

        Raises
        ------
        Busy
            If the tensor is being written already.
        NotEnough
            If it does not fit into the disk allowance.
        """
        with self._lock:
            if tensor.hash in self._writing:
                msg = f"{tensor.name} is being fetched already."
                raise Busy(msg, retry_after=1)
            path = self._blob_path(tensor.hash).with_suffix(".part")
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self.check_room(tensor.nbytes - _size(path), tensor.name)
            writer = PartWriter(self, tensor, path)
            self._writing[tensor.hash] = writer
            return writer

    def check_room(self, nbytes: int, what: str) -> None:
        """Raise `NotEnough` unless `nbytes` more fit into the disk allowance."""
        used = self.used()
        if self.disk is not None and used + nbytes > self.disk:
            msg = (
                f"{what} needs {show_bytes(nbytes)} on disk, but {show_bytes(used)} of the allowed "
                f"{show_bytes(self.disk)} are in use. Allow more with --disk, or remove a model."
            )
            raise NotEnough(msg, needed=nbytes, used=used, allowed=self.disk)

    def used(self) -> int:
        """Return the bytes of shards and fetched tensors, those still to come of running writers included."""
        with self._lock:
            to_come = sum(writer.tensor.nbytes - writer.position for writer in self._writing.values())
        return to_come + sum(_size(path) for folder in (self.tensors, self.shards) for path in folder.rglob("*.*"))

    def loose_bytes(self, key: str) -> int:
        """Return the size of a tensor that lies in a file of its own, otherwise 0."""
        return _size(self._blob_path(key))

    def remove_blob(self, key: str) -> None:
        """Delete a fetched tensor, which lies in a shard by now."""
        self._blob_path(key).unlink(missing_ok=True)

    def _writer_closed(self, writer: PartWriter) -> None:
        with self._lock:
            if self._writing.get(writer.tensor.hash) is writer:
                del self._writing[writer.tensor.hash]

    def _received(self, count: int) -> None:
        with self._lock:
            self.bytes_received += count

    def _save_blob(self, key: str, data: bytes) -> None:
        path = self._blob_path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            _write_atomically(path, data)

    def _blob_path(self, key: str) -> Path:
        return self.tensors / key[:2] / f"{key}.bin"

    def _open_index(self) -> sqlite3.Connection:
        path = self.root / "index.sqlite"
        for attempt in range(2):
            index = sqlite3.connect(path, check_same_thread=False, timeout=10)
            try:
                (version,) = index.execute("PRAGMA user_version").fetchone()
                if version in (0, SCHEMA_VERSION):
                    index.execute("PRAGMA journal_mode = WAL")
                    index.execute("PRAGMA foreign_keys = ON")
                    index.executescript(SCHEMA)
                    index.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                    return index
            except sqlite3.DatabaseError:
                if attempt:
                    index.close()
                    raise
            index.close()  # only an index: files are hashed again
            path.unlink()
        msg = f"{path} cannot be created."
        raise AinetError(msg)


class PartWriter:
    """A tensor on its way in: append to it, `finish` it, or `close` it and go on another time.

    Attributes
    ----------
    position
        Bytes that are there already; the next ones to `write` follow them.
    """

    def __init__(self, store: TensorStore, tensor: Tensor, path: Path) -> None:
        self.tensor = tensor
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self.position = 0
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        there = os.fstat(self._file.fileno()).st_size
        if there > tensor.nbytes:
            self._file.truncate(0)
            there = 0
        while self.position < there and (data := self._file.read(min(CHUNK, there - self.position))):
            self._hash.update(data)
            self.position += len(data)

    def write(self, data: bytes) -> None:
        """Append `data`.

        Raises
        ------
        ModelError
            If there are more bytes than the tensor has.
        NotEnough
            If the disk is full; what was written is removed.
        """
        if self.position + len(data) > self.tensor.nbytes:
            self.discard()
            msg = f"More bytes arrived for {self.tensor.name} than it has. They were thrown away."
            raise ModelError(msg)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as exc:
            self.discard()
            raise disk_full(exc, self.tensor.name, self._store.root) from exc
        self._hash.update(data)
        self.position += len(data)
        self._store._received(len(data))

    def finish(self) -> None:
        """Check the hash and make the tensor visible.

        Raises
        ------
        ModelError
            If bytes are missing (they can still be written), or the hash is wrong (they are thrown away).
        """
        if self.position != self.tensor.nbytes:
            msg = f"{self.tensor.name} is incomplete: {self.position:,} of {self.tensor.nbytes:,} bytes."
            raise ModelError(msg)
        if self._hash.hexdigest() != self.tensor.hash:
            self.discard()
            msg = f"The bytes that arrived for {self.tensor.name} do not have its hash. They were thrown away."
            raise ModelError(msg)
        try:
            os.fsync(self._file.fileno())
        except OSError as exc:
            self.discard()
            raise disk_full(exc, self.tensor.name, self._store.root) from exc
        self._file.close()
        self._path.replace(self._path.with_suffix(".bin"))
        sync_folder(self._path.parent)
        self._store._writer_closed(self)

    def close(self) -> None:
        """Keep what is there for the next writer. After `finish` nothing happens."""
        self._file.close()
        self._store._writer_closed(self)

    def discard(self) -> None:
        """Throw away what is there."""
        self._path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def disk_full(exc: OSError, what: str, folder: Path) -> AinetError:
    """Return the error for a write that failed."""
    if exc.errno in FULL:
        return NotEnough(f"The disk with {folder} is full: {what} could not be written. Free some space and try again.")
    return AinetError(f"{what} could not be written to {folder}: {exc.strerror or exc}.")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash_tensors(files: list[GGUFFile], progress: Progress | None) -> dict[str, str]:
    total, done = sum(info.nbytes for file in files for info in file.tensors), 0
    hashes = {}
    for file in files:
        with file.path.open("rb", buffering=0) as handle:
            for info in file.tensors:
                hashes[info.name] = _hash_tensor(handle, info, str(file.path))
                done += info.nbytes
                if progress is not None:
                    progress(done, total)
    return hashes


def _hash_tensor(handle: Any, info: TensorInfo, path: str) -> str:
    handle.seek(info.offset)
    digest = hashlib.sha256()
    for start in range(0, info.nbytes, CHUNK):
        digest.update(_read_exactly(handle, min(CHUNK, info.nbytes - start), path))
    return digest.hexdigest()


def _read_exactly(file: Any, count: int, path: str) -> bytes:
    data: bytes = file.read(count)
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            msg = f"{path} became shorter while it was read."
            raise ModelError(msg)
        data += more
    return data


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise disk_full(exc, path.name, path.parent) from exc
    temporary.replace(path)
    sync_folder(path.parent)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
