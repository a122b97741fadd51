"""The needs of a stage: memory, and time for a token."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from ainet.stages.protocol.spec import SLOTS_OF_EXACT

if TYPE_CHECKING:
    from ainet.models.manifest import Manifest


#: A worker process with Python, Dask and llama.cpp's graphs (bytes): 63 MB idle and up to 20 MB more with a vocabulary,
#: measured with SmolLM2-135M.
OVERHEAD = 80_000_000
#: What a stage costs besides its layers and the way to it (s): waking up, encrypting, beginning a graph. Measured with
#: SmolLM2-135M on virtual processors, where waking up is slow.
STAGE_SECONDS = 0.001
#: Sessions at the same time, where nothing else is said.
SESSIONS = 8
#: Rows of logits at least: one for each token of a draft, and one.
LOGITS = 16
#: llama.cpp allocates cells of the KV cache by this many.
CELLS = 256


class Footprint:
    """The memory of a model's stages.

    Parameters
    ----------
    manifest
        The model.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    sessions, exact
        Most sessions at the same time, and whether their answers shall not depend on each other (see `StageSpec`).
    """

    def __init__(
        self, manifest: Manifest, *, n_ctx: int, n_ubatch: int, sessions: int = SESSIONS, exact: bool = False
    ) -> None:
        # As llama.cpp rounds it, with a cell that fills up batches.
        cells = -(-(n_ctx + exact) // CELLS) * CELLS
        # Besides, in exact mode: one for rows that fill up batches, and one for cells that are left taken.
        sequences = sessions * SLOTS_OF_EXACT + 2 if exact else sessions
        self._last = manifest.n_layers - 1
        layers = [0] * manifest.n_layers
        widest = manifest.n_embd
        for tensor in manifest.tensors:
            if tensor.layer is not None:
                layers[tensor.layer] += tensor.nbytes
                widest = max(widest, *tensor.shape[:2])
        self._weights = list(accumulate(layers, initial=0))
        self._kv_cache = list(
            accumulate((cells * manifest.kv_bytes_per_token(i, i) for i in range(manifest.n_layers)), initial=0)
        )
        shared = {tensor.name: tensor.nbytes for tensor in manifest.tensors if tensor.layer is None}
        table = shared.get("token_embd.weight", 0)
        #: What is not part of a layer. The first of several stages reads single rows of the embedding table from its
        #: file; the last one needs it where the model shares it with the output.
        self._whole = sum(shared.values())
        self._ends = self._whole - (table if "output.weight" in shared else 0)
        #: The matrix that makes logits of a hidden state: the last stage reads it for every token.
        self._logits = shared.get("output.weight", table)
        # Logits where they are computed and where they are kept, and the candidates among which the sampler draws.
        self._outputs = (max(sequences, LOGITS) + sequences + 6) * 4 * manifest.n_vocab
        # Activations of one micro-batch (half a dozen rows of each width are alive at once) and the attention mask.
        self._buffers = 4 * n_ubatch * (6 * manifest.n_embd + 3 * widest + 2 * cells)

    def weights(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of the layers' tensors."""
        return self._weights[last_layer + 1] - self._weights[first_layer]

    def read(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of weights that a stage with these layers reads for one token."""
        return self.weights(first_layer, last_layer) + (self._logits if last_layer == self._last else 0)

    def memory(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes that a stage with these layers takes: process, weights, KV cache, buffers."""
        size = OVERHEAD + self._buffers + self.weights(first_layer, last_layer)
        size += self._kv_cache[last_layer + 1] - self._kv_cache[first_layer]
        if last_layer == self._last:
            size += self._outputs + (self._whole if first_layer == 0 else self._ends)
        return size
