"""Hidden states on their way from one stage to the next: as they are, or smaller and rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ainet.stages.protocol.spec import Form
    from ainet.stages.ring.frames import Frame

_FLOAT32, _FLOAT16 = np.dtype("<f4"), np.dtype("<f2")
_INT8_MOST = 127
_FLOAT16_MOST = np.float32(65504)


class HiddenStates:
    """Writes and reads the rows of `Kind.HIDDEN` frames.

    Parameters
    ----------
    form
        The form in which they travel.
    n_embd
        Values of a row.
    """

    def __init__(self, form: Form, n_embd: int) -> None:
        self._form, self._n_embd = form, n_embd
        self.row_bytes = {"float32": 4 * n_embd, "float16": 2 * n_embd, "int8": 4 + n_embd}[form]

    def write(self, hidden: NDArray[np.float32]) -> memoryview:
        """Return the bytes of hidden states, float32 of shape (n, n_embd)."""
        if self._form == "float32":
            packed = hidden.astype(_FLOAT32, copy=False)
        elif self._form == "float16":
            # A few channels of large models lie beyond float16's range.
            packed = np.clip(hidden, -_FLOAT16_MOST, _FLOAT16_MOST).astype(_FLOAT16)
        else:
            scale = np.maximum(np.abs(hidden).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / _INT8_MOST
            packed = np.empty((len(hidden), self.row_bytes), np.int8)
            packed[:, :4] = scale.astype(_FLOAT32).view(np.int8)
            packed[:, 4:] = np.rint(hidden / scale)
        return packed.reshape(-1).view(np.uint8).data

    def read(self, frame: Frame) -> NDArray[np.float32]:
        """Return the rows of a frame, float32 of shape (n, n_embd); valid until the next frame.

        Raises
        ------
        ProtocolError
            If there are more or fewer bytes than the frame's segments need.
        """
        frame.check(self.row_bytes)
        if self._form == "float32":
            return np.frombuffer(frame.payload, _FLOAT32).reshape(-1, self._n_embd)
        if self._form == "float16":
            return np.frombuffer(frame.payload, _FLOAT16).reshape(-1, self._n_embd).astype(np.float32)
        packed = np.frombuffer(frame.payload, np.int8).reshape(-1, self.row_bytes)
        scale = packed[:, :4].copy().view(_FLOAT32)
        return packed[:, 4:] * scale
