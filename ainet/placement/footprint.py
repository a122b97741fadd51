"""The needs of a stage: memory, and time for a token."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from ainet.models.gguf_values import padded
from ainet.models.shard_layout import layout
from ainet.placement.capacity import GPU_PROCESS
from ainet.resources.memory import Memory
from ainet.stages.protocol.spec import SLOTS_OF_EXACT

if TYPE_CHECKING:
    from ainet.models.architectures.layers import Layer
    from ainet.models.manifest import Manifest


#: A worker process with Python, Dask and llama.cpp's graphs (bytes): 63 MB idle and up to 20 MB more with a vocabulary,
#: measured with SmolLM2-135M.
OVERHEAD = 80_000_000
#: Names of experts' tensors hold it.
EXPERTS = "_exps."
#: Bytes that a GPU's driver takes for a process (CUDA: 603 MiB, measured).
GPU_CONTEXT = 650_000_000
#: Rows of a prompt at once on a GPU: with 64, as on processors, it reads half as fast.
GPU_UBATCH = 512
#: What a stage costs besides its layers and the way to it (s): waking up, encrypting, beginning a graph. Measured with
#: SmolLM2-135M on virtual processors, where waking up is slow.
STAGE_SECONDS = 0.001
#: Sessions at the same time, where nothing else is said.
SESSIONS = 8
#: Rows of logits at least: one for each token of a draft, and one.
LOGITS = 16
#: llama.cpp allocates cells of the KV cache by this many.
CELLS = 256
#: Masks of attention: values for each cell and token, and bytes.
MASK, MASKS = 0.75, 2_000_000
#: Copies of the states of a layer that llama.cpp works on.
STATE_COPIES = 2


def goes_alone(manifest: Manifest, *, exact: bool) -> bool:
    """Whether a model answers one session after the other."""
    return manifest.split.alone or (exact and any(layer.recurs for layer in manifest.layers))


class Footprint:
    """The memory of a model's stages.

    Parameters
    ----------
    manifest
        The model.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    sessions, exact, rollback
        Most sessions at the same time, whether their answers shall not depend on each other, and how many tokens can be
        taken back out of states (see `StageSpec`).
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        n_ctx: int,
        n_ubatch: int,
        sessions: int = SESSIONS,
        exact: bool = False,
        rollback: int = 0,
    ) -> None:
        # Besides, in exact mode: one for rows that fill up batches, and one for cells that are left taken.
        slots = 1 if goes_alone(manifest, exact=exact) else sessions * (SLOTS_OF_EXACT if exact else 1)
        sequences = slots + (2 if exact else 0)
        # As llama.cpp rounds it, with a cell that fills up batches.
        cells = padded(n_ctx + exact, CELLS)
        last = self._last = manifest.n_layers - 1
        layers = [0] * manifest.n_layers
        widths = [manifest.n_embd] * manifest.n_layers
        experts = [0] * manifest.n_layers
        for tensor in manifest.tensors:
            if tensor.layer is not None and tensor.layer <= last:
                layers[tensor.layer] += tensor.nbytes
                widths[tensor.layer] = max(widths[tensor.layer], *tensor.shape[:2])
                experts[tensor.layer] += tensor.nbytes if EXPERTS in tensor.name else 0
        self._weights = list(accumulate(layers, initial=0))
        self._experts = list(accumulate(experts, initial=0))
        #: Of the experts, a token reads those that it uses.
        count, used = manifest.number("expert_count", 0) or 1, manifest.layer_numbers("expert_used_count")
        shares = [size * min(n, count) // count for size, n in zip(experts, used, strict=True)]
        self._used_experts = list(accumulate(shares, initial=0))

        def cache(layer: Layer) -> int:
            # In exact mode no cell is used again.
            windowed = layer.window * sequences + n_ubatch if layer.window and not exact else cells
            return padded(min(cells, windowed), CELLS) * layer.cell + sequences * (1 + rollback) * layer.state

        self._caches = list(accumulate(map(cache, manifest.layers), initial=0))
        outer = {tensor.name: tensor.nbytes for tensor in manifest.tensors if tensor.layer is None}
        #: What belongs to no layer: of a whole model, a last stage, any other one. The first of several stages reads
        #: single rows of the embedding table from its file.
        self._whole = sum(outer.values())
        self._end, self._between = (
            sum(tensor.nbytes for tensor in layout(manifest, layer, layer) if not tensor.name.startswith("blk."))
            for layer in (last, 0)
        )
        #: The matrix that makes logits of a hidden state: the last stage reads it for every token.
        self._logits = outer.get("output.weight", outer.get("token_embd.weight", 0))
        # Logits where they are computed and where they are kept, and the candidates among which the sampler draws.
        self._outputs = (max(sequences, LOGITS) + sequences + 6) * 4 * manifest.n_vocab
        self._buffers = MASKS + round(4 * n_ubatch * MASK * cells)
        # Those that go back are computed all at once.
        copies = STATE_COPIES + (1 + rollback if rollback else 0)
        self._activations = [
            4 * n_ubatch * _activations(manifest, layer, width, experts=bool(size))
            + copies * sequences * manifest.layers[layer].state
            for layer, (width, size) in enumerate(zip(widths, experts, strict=True))
        ]

    def caches(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of keys, values and states of the layers."""
        return self._caches[last_layer + 1] - self._caches[first_layer]

    def weights(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of the layers' tensors."""
        return self._weights[last_layer + 1] - self._weights[first_layer]

    def read(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of weights that a stage with these layers reads for one token."""
        idle = self.experts(first_layer, last_layer) - self.used_experts(first_layer, last_layer)
        return self.weights(first_layer, last_layer) - idle + (self._logits if last_layer == self._last else 0)

    def experts(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of the layers' experts."""
        return self._experts[last_layer + 1] - self._experts[first_layer]

    def used_experts(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of the experts that a token uses."""
        return self._used_experts[last_layer + 1] - self._used_experts[first_layer]

    def memory(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes that a stage with these layers takes: process, weights, KV cache, buffers."""
        size = OVERHEAD + self._layers(first_layer, last_layer)
        if last_layer < self._last:
            return size + self._between
        return size + self._outputs + (self._whole if first_layer == 0 else self._end)

    def on_gpu(self, first_layer: int, last_layer: int, *, experts_on_host: bool = False) -> Memory:
        """Return what a stage with these layers takes on a GPU, and of the device's own memory.

        The embedding table stays with the host; a matrix that makes logits is on the GPU, too, where both are one. With
        `experts_on_host`, so do the experts.
        """
        if experts_on_host:
            size = self.experts(first_layer, last_layer)
            return self.on_gpu(first_layer, last_layer) + Memory(size, -size)
        host = GPU_PROCESS + (self._between if last_layer < self._last or first_layer > 0 else self._whole)
        gpu = GPU_CONTEXT + self._layers(first_layer, last_layer)
        if last_layer < self._last:
            return Memory(host, gpu)
        return Memory(host + self._outputs, gpu + self._logits + self._outputs)

    def _layers(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of layers at work: weights, KV cache, buffers."""
        size = self._buffers + self.weights(first_layer, last_layer) + self.caches(first_layer, last_layer)
        return size + max(self._activations[first_layer : last_layer + 1])


def _activations(manifest: Manifest, layer: int, widest: int, *, experts: bool) -> int:
    """Return the values of one token that are alive at once in a layer.

    Half a dozen hidden states always are; besides, two rows of all queries (wide where keys are compressed), or of the
    feed-forward network, or what each of the token's experts makes of it. Beyond the last attention only the few rows
    are left for which there will be logits.
    """
    needs = [0]
    if manifest.layers[layer].attends:
        queries = manifest.layer_numbers("attention.head_count")[layer] * manifest.key_length
        needs.append(2 * (queries - manifest.n_embd))
    if layer < manifest.n_layers - 1:
        needs.append(2 * widest)
        if experts:
            width = manifest.layer_numbers("expert_feed_forward_length")[layer]
            needs.append(manifest.layer_numbers("expert_used_count")[layer] * (2 * width + manifest.n_embd))
    return 6 * manifest.n_embd + max(needs)
