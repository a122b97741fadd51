"""The vocabulary of a model: its ``tokenizer.*`` metadata, which travels as one compressed blob."""

from __future__ import annotations

import bz2
import hashlib
import io
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec

from ainet.errors import ModelError
from ainet.models.gguf import HeaderReader
from ainet.models.gguf_values import Kind, Value
from ainet.models.gguf_writer import encode_metadata, header

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ainet.models.gguf import GGUFFile

TOKENIZER_PREFIX = "tokenizer."
#: In hex. Files are named after it, also after what another device says.
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Tokenizer(msgspec.Struct, frozen=True, array_like=True):
    """The vocabulary's metadata (``tokenizer.*``), which travels as one compressed blob.

    Attributes
    ----------
    hash, nbytes
        Of the blob: bzip2, whose output is the same everywhere.
    content
        SHA-256 of the uncompressed bytes, which is what the model's identity counts.
    content_nbytes
        Their number.
    """

    hash: Sha256
    nbytes: int
    content: Sha256
    content_nbytes: int


def vocabulary(file: GGUFFile) -> dict[str, Value]:
    """Return the metadata of a file's vocabulary."""
    return {key: value for key, value in file.metadata.items() if key.startswith(TOKENIZER_PREFIX)}


def pack_vocabulary(found: Mapping[str, Value]) -> tuple[Tokenizer, bytes]:
    """Return the description of a vocabulary's blob, and the blob."""
    content = encode_metadata(found)
    blob = bz2.compress(content)
    digest, content_digest = (hashlib.sha256(data).hexdigest() for data in (blob, content))
    return Tokenizer(digest, len(blob), content_digest, len(content)), blob


def unpack_vocabulary(tokenizer: Tokenizer, blob: bytes) -> dict[str, Value]:
    """Return the vocabulary in a blob, which may come from anywhere.

    Raises
    ------
    ModelError
        If the blob does not hold exactly what the manifest says.
    """
    decompressor = bz2.BZ2Decompressor()
    try:
        content = decompressor.decompress(blob, max_length=tokenizer.content_nbytes + 1)
    except (OSError, ValueError) as exc:
        raise ModelError("The model's vocabulary cannot be unpacked.") from exc
    if len(content) != tokenizer.content_nbytes or hashlib.sha256(content).hexdigest() != tokenizer.content:
        raise ModelError("The model's vocabulary is not the one that its description names.")
    reader = HeaderReader(io.BytesIO(content), len(content))
    found: dict[str, Value] = {}
    while reader.position < len(content):
        pair = reader.metadata(1)
        key = next(iter(pair))
        if key in found or not key.startswith(TOKENIZER_PREFIX):
            raise ModelError(f"The model's vocabulary holds the key {key!r} twice or wrongly.")
        found |= pair
    return found


def vocabulary_file(found: Mapping[str, Value]) -> bytes:
    """Return a GGUF file that holds a vocabulary and nothing else, as llama.cpp reads it with ``vocab_only``."""
    metadata = {"general.architecture": Value.of(Kind.STRING, "llama"), **found}
    return header(metadata, [])[0]


def check_vocabulary(found: Mapping[str, Value]) -> None:
    """Raise `ModelError` unless `found` (``tokenizer.*``) is a vocabulary that llama.cpp survives."""
    kind = found.get("tokenizer.ggml.model")
    if kind is None or kind.type != Kind.STRING or kind.value in ("none", "no_vocab"):
        _wrong("It has no vocabulary")
    tokens = found.get("tokenizer.ggml.tokens")
    if tokens is None or tokens.item_type is not Kind.STRING or not len(tokens):
        _wrong("Its vocabulary has no tokens")
    texts = tokens.texts()
    if len({text or b"[EMPTY_%d]" % index for index, text in enumerate(texts)}) != len(texts):
        _wrong("Two tokens of its vocabulary are the same")  # a GGML_ASSERT in llama-vocab.cpp
    for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        value = found.get(key)
        if value is not None and (value.item_type in (None, Kind.STRING) or len(value) < len(tokens)):
            _wrong(f"{key} does not fit its {len(tokens):,} tokens")
    template = found.get("tokenizer.chat_template")
    if template is not None and template.type != Kind.STRING:
        _wrong("Its chat template is not a text")


def _wrong(what: str) -> NoReturn:
    raise ModelError(f"{what}.")
