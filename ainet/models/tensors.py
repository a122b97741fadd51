"""The tensors of models on this device, by hash.

A tensor may lie in a GGUF file of the user's, in a shard that was assembled, or, while it waits for its shard, in a
file of its own. The index remembers which, for files whose size and time of modification are unchanged.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ainet.errors import Busy, ModelError, NotEnough, NotFound
from ainet.models.gguf import open_model
from ainet.models.manifest import Manifest
from ainet.models.part_writer import CHUNK, PartWriter, write_atomically
from ainet.models.tensor_index import Place, TensorIndex, identity
from ainet.models.tokenizer import pack_vocabulary, unpack_vocabulary, vocabulary
from ainet.units import show_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from io import FileIO
    from types import TracebackType

    from ainet.models.description import Tensor
    from ainet.models.gguf import GGUFFile
    from ainet.models.gguf_values import TensorInfo, Value

    #: Called with the bytes done and the bytes in all.
    Progress = Callable[[int, int], None]

_HASH = re.compile(r"[0-9a-f]{64}")
#: Seconds of hashing that are lost at most when it is interrupted, beside those of one tensor.
NOTE_EVERY = 5.0


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
        self.index = TensorIndex(root / "index.sqlite")

    @property
    def tensors(self) -> Path:
        return self.root / "tensors"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    def close(self) -> None:
        self.index.close()

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
            The name of the model; by default the file's name.
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
            hashes = self._hash_tensors(files, progress)
            manifest = draft.with_hashes(tokenizer, hashes).validate()
            if [identity(file.path.stat()) for file in files] != [identity(stat) for stat in stats]:
                raise ModelError(f"{path.name} changed while it was read. Try again when it is complete.")
            self.save_blob(tokenizer.hash, blob)
            self.save_manifest(manifest)
            for file, stat in reversed(list(zip(files, stats, strict=True))):
                places = [(hashes[info.name], info.offset, info.nbytes) for info in file.tensors]
                self.index.add(file.path, stat, places, digest=manifest.digest if file is files[0] else None)
            return manifest

    def _hash_tensors(self, files: list[GGUFFile], progress: Progress | None) -> dict[str, str]:
        """Return the hashes of all tensors by name. What is known is noted now and then, for whom is interrupted."""
        total, done = sum(info.nbytes for file in files for info in file.tensors), 0
        hashes: dict[str, str] = {}
        noted = time.monotonic()

        def read(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for file in files:
            known, stat = self.index.known_in(file.path), file.path.stat()
            with file.path.open("rb", buffering=0) as handle:
                for info in file.tensors:
                    key = known.get((info.offset, info.nbytes))
                    if key is not None:
                        read(info.nbytes)
                    else:
                        key = _hash_tensor(handle, info, str(file.path), read)
                        known[info.offset, info.nbytes] = key
                    hashes[info.name] = key
                    if time.monotonic() - noted >= NOTE_EVERY:
                        self._note(file.path, stat, known)
                        noted = time.monotonic()
            if len(files) > 1:
                self._note(file.path, stat, known)
        return hashes

    def _note(self, path: Path, stat: os.stat_result, known: dict[tuple[int, int], str]) -> None:
        self.index.add(path, stat, [(key, offset, nbytes) for (offset, nbytes), key in known.items()])

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
            write_atomically(target, data)

    def manifest(self, digest: str, *, name: str | None = None) -> Manifest:
        """Return a manifest that is known here, under another `name` if one is given.

        Raises
        ------
        NotFound
            If there is none, or it is damaged.
        """
        try:
            if not _HASH.fullmatch(digest):
                raise FileNotFoundError(digest)
            found = Manifest.decode((self.manifests / f"{digest}.msgpack").read_bytes())
        except (OSError, ModelError) as exc:
            raise NotFound(f"No model with the digest {digest[:12]}… is known here.") from exc
        if found.digest != digest:
            raise NotFound(f"The description of the model {digest[:12]}… is damaged.")
        return Manifest(name, found.metadata, found.tokenizer, found.tensors) if name else found

    def known_manifests(self) -> Iterator[Manifest]:
        """Yield every manifest that is known here."""
        for path in sorted(self.manifests.glob("*.msgpack")):
            with contextlib.suppress(NotFound):
                yield self.manifest(path.stem)

    def file_of(self, digest: str) -> Path | None:
        """Return an unchanged GGUF file that holds the whole model, or None."""
        return self.index.file_of(digest)

    def digest_of(self, path: Path) -> str | None:
        """Return the digest of the model in a file that was registered and is unchanged, or None."""
        return self.index.digest_of(path)

    # --- tensors ---------------------------------------------------------------------------------

    def locate(self, key: str) -> Place | None:
        """Return where the tensor with the hash `key` lies, or None."""
        if not _HASH.fullmatch(key):
            return None
        blob = self._blob_path(key)
        with contextlib.suppress(OSError):
            return Place(str(blob), 0, blob.stat().st_size)
        return self.index.place(key)

    def has(self, key: str) -> bool:
        """Return whether the tensor with the hash `key` is on this device."""
        return self.locate(key) is not None

    def is_only_in(self, path: Path, key: str) -> bool:
        """Return whether the tensor with the hash `key` lies in this file and nowhere else on this device."""
        return not self.loose_bytes(key) and self.index.holders(key) == [str(path)]

    def read(self, key: str, offset: int, count: int) -> bytes:
        """Return up to `count` bytes of a tensor from `offset` on; fewer at its end.

        Raises
        ------
        NotFound
            If the tensor is not here.
        """
        with self._opened(key) as (file, place):
            if not 0 <= offset <= place.nbytes or count < 0:
                raise NotFound(
                    f"The tensor {key[:12]}… has {place.nbytes:,} bytes; {count:,} from {offset:,} on are none of them."
                )
            file.seek(place.offset + offset)
            return read_exactly(file, min(count, place.nbytes - offset), place.path)

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield a tensor's bytes."""
        with self._opened(key) as (file, place):
            file.seek(place.offset)
            for start in range(0, place.nbytes, CHUNK):
                yield read_exactly(file, min(CHUNK, place.nbytes - start), place.path)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[FileIO, Place]]:
        for _ in range(2):  # a fetched tensor may move into its shard in between
            place = self.locate(key)
            if place is None:
                break
            try:
                file = Path(place.path).open("rb", buffering=0)  # noqa: SIM115 (the caller's block is no part of the try)
            except OSError:
                continue
            with file:
                yield file, place
            return
        raise NotFound(f"The tensor {key[:12]}… is not on this device.")

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
                raise Busy(f"{tensor.name} is being fetched already.", retry_after=1)
            path = self._blob_path(tensor.hash).with_suffix(".part")
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self.check_room(tensor.nbytes - file_size(path), tensor.name)
            writer = PartWriter(tensor, path, self._received, self._writer_closed)
            self._writing[tensor.hash] = writer
            return writer

    def excess(self, nbytes: int) -> int:
        """Return by how many bytes `nbytes` more would exceed the disk allowance; not above 0 if they fit."""
        return self.used() + nbytes - self.disk if self.disk is not None else 0

    def check_room(self, nbytes: int, what: str) -> None:
        """Raise `NotEnough` unless `nbytes` more fit into the disk allowance."""
        if self.disk is not None and self.excess(nbytes) > 0:
            used = self.used()
            raise NotEnough(
                f"{what} needs {show_bytes(nbytes)} on disk, but {show_bytes(used)} of the allowed "
                f"{show_bytes(self.disk)} are in use. Allow more with --disk, or unload a model.",
                needed=nbytes,
                used=used,
                allowed=self.disk,
            )

    def used(self) -> int:
        """Return the bytes of shards and fetched tensors, those still to come of running writers included."""
        with self._lock:
            to_come = sum(writer.tensor.nbytes - writer.position for writer in self._writing.values())
        return to_come + sum(file_size(path) for folder in (self.tensors, self.shards) for path in folder.rglob("*.*"))

    def loose_bytes(self, key: str) -> int:
        """Return the size of a tensor that lies in a file of its own, otherwise 0."""
        return file_size(self._blob_path(key))

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

    def save_blob(self, key: str, data: bytes) -> None:
        """Keep the bytes whose hash is `key` in a file of their own."""
        path = self._blob_path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            write_atomically(path, data)

    def _blob_path(self, key: str) -> Path:
        return self.tensors / key[:2] / f"{key}.bin"


def _hash_tensor(handle: FileIO, info: TensorInfo, path: str, read: Callable[[int], None]) -> str:
    handle.seek(info.offset)
    digest = hashlib.sha256()
    for start in range(0, info.nbytes, CHUNK):
        data = read_exactly(handle, min(CHUNK, info.nbytes - start), path)
        digest.update(data)
        read(len(data))
    return digest.hexdigest()


def read_exactly(file: FileIO, count: int, path: str) -> bytes:
    """Return `count` bytes from where `file` stands, or raise `ModelError`."""
    data = file.read(count)
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise ModelError(f"{path} became shorter while it was read.")
        data += more
    return data


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
