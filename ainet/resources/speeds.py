"""The speeds of models on this device: measured when a stage is loaded and while it answers, kept for the next plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.files import KeptFile

if TYPE_CHECKING:
    import logging
    from pathlib import Path

FILE = "model_speeds.json"
MAX_MODELS = 200
#: Follows the digest of a model that ran on a GPU.
GPU = " gpu"
#: Weight of what was measured last; alone it counts when it differs by more than this share.
WEIGHT, CHANGED = 0.3, 1 / 3


class Speeds:
    """Bytes of weights that one thread reads in a second, by the digest of the model.

    Parameters
    ----------
    data_dir
        Folder of the file that keeps them.
    log
        For what cannot be written.
    """

    def __init__(self, data_dir: Path, log: logging.Logger) -> None:
        self._file = KeptFile(data_dir / FILE, log)
        try:
            self._known = msgspec.json.decode(self._file.path.read_bytes(), type=dict[str, float])
        except (FileNotFoundError, msgspec.DecodeError):  # it is measured again
            self._known = {}

    def get(self, model: str, *, gpu: bool = False) -> float | None:
        """Return the speed of a model that ran here, on the processors or on the GPU."""
        return self._known.get(model + GPU * gpu)

    def note(self, model: str, speed: float, *, gpu: bool = False) -> None:
        """Note what was measured."""
        model += GPU * gpu
        before = self._known.pop(model, speed)
        changed = abs(speed - before) > CHANGED * before
        self._known[model] = speed if changed else before + WEIGHT * (speed - before)
        for oldest in list(self._known)[:-MAX_MODELS]:
            del self._known[oldest]
        self._file.write(msgspec.json.encode(self._known))

    async def flush(self) -> None:
        """Wait until everything is written."""
        await self._file.flush()
