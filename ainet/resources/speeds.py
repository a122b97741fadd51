"""How fast models run on this device: measured when a stage is loaded and while it answers, kept for the next plan."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

FILE = "model_speeds.json"
MAX_MODELS = 200
#: Weight of what was measured last; alone it counts when it differs by more than this share.
WEIGHT, CHANGED = 0.3, 1 / 3


class Speeds:
    """Bytes of weights that one thread reads in a second, by the digest of the model.

    Parameters
    ----------
    data_dir
        Folder of the file that keeps them.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE
        try:
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])
        except (FileNotFoundError, msgspec.DecodeError):  # it is measured again
            self._known = {}

    def get(self, model: str) -> float | None:
        """Return the speed of a model that ran here."""
        return self._known.get(model)

    def note(self, model: str, speed: float) -> None:
        """Note what was measured. Raises OSError if the disk is full."""
        before = self._known.pop(model, speed)
        changed = abs(speed - before) > CHANGED * before
        self._known[model] = speed if changed else before + WEIGHT * (speed - before)
        for oldest in list(self._known)[:-MAX_MODELS]:
            del self._known[oldest]
        partial = self._path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(msgspec.json.encode(self._known))
        partial.replace(self._path)
