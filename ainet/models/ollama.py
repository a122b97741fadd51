"""Models in Ollama's store: every tag names a file, and what else its maker wants it to be asked with.

``manifests/HOST/NAMESPACE/MODEL/TAG`` lists layers: the file of the model, a template, instructions, parameters; each
is a file in ``blobs``. https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ainet.api.models import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
PROJECTOR = "its projector is not used: it reads text, no images"
MAX_MANIFEST = 1 << 20
MAX_LAYER = 1 << 16  # bytes of a template, of instructions, of parameters
_KIND = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
#: Ollama's names of parameters, and those of a request here.
PARAMETERS = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")},
    **{name: name for name in ("frequency_penalty", "presence_penalty")},
    "num_predict": "max_tokens",
}
#: The kinds of values that a request takes.
_TYPES: dict[str, type | tuple[type, ...]] = {"top_k": int, "seed": int, "max_tokens": int, "stop": list}


class Tag(NamedTuple):
    """A tag, the file of its model, and what it is asked with; `refused` says why it cannot be used."""

    name: str
    path: Path
    settings: ModelSettings
    refused: str


def homes() -> list[Path]:
    """Return the folders in which Ollama keeps models."""
    named = os.environ.get("OLLAMA_MODELS")
    if named:
        return [Path(named).expanduser()]
    return [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]


def tags() -> Iterator[Tag]:
    """Yield all tags that name a model."""
    for home in homes():
        for path in sorted((home / "manifests").glob("*/*/*/*")):
            layers = _layers(path)
            if digest := next((digest for kind, digest in layers if kind == "model"), ""):
                settings, refused = _settings(home, layers)
                yield Tag(_name(*path.parts[-4:]), _blob(home, digest), settings, refused)


def long_name(name: str) -> str:
    """Return a name with all that Ollama adds to a short one: host, namespace and tag."""
    path, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        path, tag = name, TAG
    parts = path.split("/")
    if len(parts) == 1:
        parts.insert(0, NAMESPACE)
    if len(parts) == 2:
        parts.insert(0, HOST)
    return f"{'/'.join(parts)}:{tag}".casefold()


def _name(host: str, namespace: str, model: str, tag: str) -> str:
    parts = [host, namespace, model]
    if host == HOST:
        parts = [model] if namespace == NAMESPACE else [namespace, model]
    return f"{'/'.join(parts)}:{tag}"


def _blob(home: Path, digest: str) -> Path:
    return home / "blobs" / f"sha256-{digest}"


def _layers(path: Path) -> list[tuple[str, str]]:
    """Return the kinds of a manifest's layers and their hashes; none of one that cannot be read."""
    try:
        if path.stat().st_size > MAX_MANIFEST:
            return []
        layers = json.loads(path.read_bytes())["layers"]
        kinds = [(str(layer["mediaType"]).removeprefix(_KIND), _DIGEST.fullmatch(layer["digest"])) for layer in layers]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    return [(kind, digest[1]) for kind, digest in kinds if digest is not None]


def _settings(home: Path, layers: list[tuple[str, str]]) -> tuple[ModelSettings, str]:
    """Return what a model is asked with, and why it cannot be used, if that is so."""
    texts, refused = {"template": "", "system": ""}, ""
    parameters: dict[str, Any] = {}
    notes: list[str] = []
    for kind, digest in layers:
        if kind in (*texts, "params"):
            text = _text(_blob(home, digest))
            if text is None:
                refused = refused or f"its layer `{kind}` is missing or no text; pull the model again"
            elif kind == "params":
                parameters, left_out = _parameters(text)
                notes += [f"the parameter {name} is not used" for name in left_out]
            else:
                texts[kind] = text
        elif kind == "adapter":
            refused = "it has an adapter (LoRA), which cannot be applied here; merge it into the model's file first"
        elif kind == "projector":
            notes.append(PROJECTOR)
        elif kind == "messages":
            notes.append("its example messages are not used")
        elif kind not in ("model", "license"):
            notes.append(f"its layer `{kind}` is not used")
    return ModelSettings(**texts, parameters=parameters, notes=notes), refused


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_LAYER else None
    except (OSError, UnicodeDecodeError):
        return None


def _parameters(text: str) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters by the names of a request, and the names of those that are none here."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return {}, ["layer"]
    found: dict[str, Any] = {}
    left_out = []
    for name, value in given.items():
        here = PARAMETERS.get(name, "")
        if here == "stop" and isinstance(value, str):
            value = [value]  # noqa: PLW2901
        is_right = isinstance(value, _TYPES.get(here, (int, float))) and not isinstance(value, bool)
        if here == "stop":
            is_right = is_right and all(isinstance(one, str) for one in value)
        if here == "max_tokens" and is_right and value < 0:
            continue  # as many as there is room for
        if here and is_right:
            found[here] = value
        else:
            left_out.append(name)
    return found, left_out
