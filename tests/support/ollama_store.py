"""Ollama's store of models, as the tests fill it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def ollama(home: Path, name: str, source: Path, **layers: str | bytes) -> Path:
    """Put a model into Ollama's store: `name` is HOST/NAMESPACE/MODEL/TAG, `layers` are more of them by their kinds."""
    (home / "blobs").mkdir(parents=True, exist_ok=True)

    def blob(kind: str, content: bytes) -> dict[str, str]:
        digest = hashlib.sha256(content).hexdigest()
        (home / "blobs" / f"sha256-{digest}").write_bytes(content)
        return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    listed = [blob(kind, text.encode() if isinstance(text, str) else text) for kind, text in layers.items()]
    model = blob("model", source.read_bytes())
    manifest = home / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": [*listed, model]}))
    return home / "blobs" / model["digest"].replace(":", "-")
