"""Damage the description of a tiny model in every way there is, and let llama.cpp prepare what the checks let pass."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as C  # noqa: N812

from ainet.errors import ModelError
from ainet.models.gguf import open_model
from ainet.models.gguf_values import Kind, Value
from ainet.models.gguf_writer import header
from ainet.models.manifest import Manifest
from support.architectures import TINY
from support.every_range import SILENT, prepare
from support.tiny_architectures import ALIGNMENT, write_tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ainet.models.gguf import GGUFFile

#: What is changed; its metadata; its tensors.
Mutation = tuple[str, dict[str, Value], list[tuple[str, tuple[int, ...], int]]]
NUMBERS = (Kind.UINT32, Kind.INT32)


def mutations(file: GGUFFile, architecture: str) -> Iterator[Mutation]:
    """Yield files with one thing changed: a key or a tensor left out, another number, layers in another order."""
    metadata = file.metadata
    tensors = [(info.name, info.shape, info.type) for info in file.tensors]
    for key, value in metadata.items():
        if not key.startswith(f"{architecture}."):
            continue
        yield f"without {key}", {name: one for name, one in metadata.items() if name != key}, tensors
        for other in _others(value):
            yield f"{key} = {other.value}", {**metadata, key: other}, tensors
    seen = set()
    for name, *_ in tensors:
        suffix = name.split(".", 2)[-1] if name.startswith("blk.") else name
        if suffix not in seen:
            seen.add(suffix)
            yield f"without {name}", metadata, [one for one in tensors if one[0] != name]
            kept = [one for one in tensors if one[0] != suffix and not one[0].endswith(f".{suffix}")]
            yield f"without any {suffix}", metadata, kept


def _others(value: Value) -> Iterator[Value]:
    found: Any = value.value
    if value.type in NUMBERS:
        near = {found + 1, max(0, found - 1), 2 * found}
        for number in sorted(({0, 1, 2, 3, 5, 1 << 16, (1 << 31) - 1} | near) - {found}):
            yield Value.of(Kind(value.type), number)
    elif value.type == Kind.FLOAT32:
        for number in (0.0, -1.0, float("nan"), 1e30):
            yield Value.of(Kind.FLOAT32, number)
    elif value.item_type not in (None, Kind.STRING):
        one = type(found[0])
        for items in ([0] * len(found), [1] * len(found), found[::-1], found[:1] * len(found)):
            if items != found:
                yield Value.array(value.item_type, [one(item) for item in items])


def deaths(folder: Path, found: list[Mutation]) -> list[str]:
    """Return what ends the process of llama.cpp although the checks let it pass."""
    path, dead, begin = folder / "mutated.gguf", [], 0
    while begin < len(found):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            for number, (_, metadata, tensors) in enumerate(found[begin:], begin):
                os.write(writing, number.to_bytes(4, "big"))
                try:
                    head, _, size = header(metadata, tensors)
                    path.write_bytes(head)
                    os.truncate(path, size + ALIGNMENT)
                    Manifest.draft("mutated", open_model(path))
                except ModelError:
                    continue
                prepare(path)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
        last = int.from_bytes(told[-4:], "big")
        dead.append(found[last][0])
        begin = last + 1
    return dead


def main(architecture: str, folder: str, share: str) -> None:
    C.llama_log_set(SILENT, ctypes.c_void_p(0))
    C.llama_backend_init()
    tried, dead = 0, []
    for name, tiny in TINY.items():
        if tiny.architecture == architecture and tiny.n_layers < 20:
            (file,) = open_model(write_tiny(Path(folder) / f"{name}.gguf", tiny, seed=None))
            found = list(mutations(file, architecture))[:: int(share)]
            tried += len(found)
            dead += [f"{name}: {what}" for what in deaths(Path(folder), found)]
    sys.stdout.write(json.dumps({"tried": tried, "dead": dead}))


if __name__ == "__main__":
    main(*sys.argv[1:])
