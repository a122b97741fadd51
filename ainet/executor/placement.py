"""Placement: which layers run on which node, and why."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ainet.config import show_bytes
from ainet.errors import CannotSplit, NotEnough

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.executor.models.manifest import Manifest

#: A worker process with Python, Dask and llama.cpp's graphs (bytes): 63 MB idle and up to 20 MB more with a vocabulary,
#: measured with SmolLM2-135M.
OVERHEAD = 80_000_000
#: Sessions at the same time, where nothing else is said.
SESSIONS = 8
#: Rows of logits at least: one for each token of a draft, and one.
LOGITS = 16


class Footprint:
    """The memory of a model's stages.

    Parameters
    ----------
    manifest
        The model.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    sessions
        Most sessions at the same time.
    """

    def __init__(self, manifest: Manifest, *, n_ctx: int, n_ubatch: int, sessions: int = SESSIONS) -> None:
        self._last = manifest.n_layers - 1
        layers = [0] * manifest.n_layers
        widest = manifest.n_embd
        for tensor in manifest.tensors:
            if tensor.layer is not None:
                layers[tensor.layer] += tensor.nbytes
                widest = max(widest, *tensor.shape[:2])
        self._weights = list(accumulate(layers, initial=0))
        self._kv_cache = list(
            accumulate((n_ctx * manifest.kv_bytes_per_token(i, i) for i in range(manifest.n_layers)), initial=0)
        )
        shared = {tensor.name: tensor.nbytes for tensor in manifest.tensors if tensor.layer is None}
        table = shared.get("token_embd.weight", 0)
        #: What is not part of a layer. The first of several stages reads single rows of the embedding table from its
        #: file; the last one needs it where the model shares it with the output.
        self._whole = sum(shared.values())
        self._ends = self._whole - (table if "output.weight" in shared else 0)
        # Logits of each session or draft, and the candidates among which the sampler draws, twice.
        self._outputs = (max(sessions, LOGITS) + 6) * 4 * manifest.n_vocab
        # Activations of one micro-batch (half a dozen rows of each width are alive at once) and the attention mask.
        self._buffers = 4 * n_ubatch * (6 * manifest.n_embd + 3 * widest + 2 * n_ctx)

    def weights(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes of the layers' tensors."""
        return self._weights[last_layer + 1] - self._weights[first_layer]

    def memory(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes that a stage with these layers takes: process, weights, KV cache, buffers."""
        size = OVERHEAD + self._buffers + self.weights(first_layer, last_layer)
        size += self._kv_cache[last_layer + 1] - self._kv_cache[first_layer]
        if last_layer == self._last:
            size += self._outputs + (self._whole if first_layer == 0 else self._ends)
        return size


class NodeOffer(msgspec.Struct, frozen=True, kw_only=True):
    """What one node can give to a pipeline now.

    Attributes
    ----------
    node, name
        Node id and name.
    memory
        Bytes that stages may still take.
    threads
        Threads that stages may use.
    speed
        Bytes of weights that one thread reads in a second, measured.
    workers
        Most stages that the node can host; None means as many as memory allows.
    models
        Digests of the models that it holds completely.
    gpu
        Whether layers may go to a GPU.
    """

    node: str
    name: str
    memory: int
    threads: int
    speed: float
    workers: int | None = None
    models: list[str] = []
    gpu: bool = False


class PlannedStage(msgspec.Struct, frozen=True, kw_only=True):
    """Layers `first_layer` to `last_layer` (0-based, inclusive) on one node, with the memory (bytes) they take."""

    node: str
    name: str
    first_layer: int
    last_layer: int
    memory: int
    threads: int
    gpu: bool
    reason: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered stages of a model, its context window (tokens), and the reason in one sentence.

    `seconds` is the predicted time of a token: of reading all weights once, each stage's after the other's.
    """

    model: str
    name: str
    n_ctx: int
    n_ubatch: int
    stages: list[PlannedStage]
    why: str
    seconds: float


class Placed(NamedTuple):
    """Layers on a node."""

    offer: NodeOffer
    first_layer: int
    last_layer: int


class _Partial(NamedTuple):
    """A placement of a model's first layers: its slowest stage (s a token), and what its last node has given."""

    slowest: float
    used: int
    placed: tuple[Placed, ...]


class Planner:
    """Plans one model over the nodes that are there.

    Parameters
    ----------
    manifest
        The model.
    offers
        What the nodes can give, the asking node first.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    """

    def __init__(self, manifest: Manifest, offers: Sequence[NodeOffer], *, n_ctx: int, n_ubatch: int) -> None:
        self._manifest = manifest
        self._offers = list(offers)
        self._n_ctx = n_ctx
        self._n_ubatch = n_ubatch
        self._footprint = Footprint(manifest, n_ctx=n_ctx, n_ubatch=n_ubatch)
        self._cuts = manifest.cuts
        self._last = manifest.n_layers - 1

    def fits(self, offer: NodeOffer) -> bool:
        """Whether the whole model fits on the node."""
        return offer.memory >= self._footprint.memory(0, self._last) and offer.workers != 0

    def plan(self, stages: int | None = None) -> Plan:
        """Place the model: whole where it fits, else over the fewest nodes; `stages` forces a number.

        Raises
        ------
        CannotSplit
            If the architecture does not allow that many stages.
        NotEnough
            If the nodes have too little memory, with the numbers.
        """
        if stages is None:
            return self._whole() or self._fewest()
        if stages == 1:
            return self._whole() or self._too_large()
        self._check_count(stages)
        offers = sorted(self._offers, key=lambda offer: offer.memory, reverse=True)
        while offers:
            placed = self._split(self._hosts([offer for offer in self._offers if offer in offers], stages))
            if placed is not None:
                why = f"{stages} stages were asked for; each gets layers in proportion to its speed."
                return self._as_plan(placed, why)
            offers.pop()  # the one with the least memory is in the way
        return self._too_large(stages)

    def _whole(self) -> Plan | None:
        for i, offer in enumerate(self._offers):
            if self.fits(offer):
                where = "on this device" if i == 0 else f"on {offer.name}, but not on this device"
                return self._as_plan([Placed(offer, 0, self._last)], f"The whole model fits {where}.")
        return None

    def _fewest(self) -> Plan:
        if not self._cuts:
            return self._too_large()
        by_memory = sorted(self._offers, key=lambda offer: offer.memory, reverse=True)
        for n in range(2, len(self._offers) + 1):
            chosen = by_memory[:n]
            placed = self._split([offer for offer in self._offers if offer in chosen])
            if placed is not None:
                why = f"No device can hold the whole model; these {n} can together, in proportion to their speed."
                return self._as_plan(placed, why)
        return self._too_large()

    def _hosts(self, offers: Sequence[NodeOffer], stages: int) -> list[NodeOffer]:
        """Return a node for each stage: every node once, then again where memory is left; same nodes adjacent."""
        counts = [0] * len(offers)
        for _ in range(stages):
            free = [i for i, offer in enumerate(offers) if offer.workers is None or counts[i] < offer.workers]
            if not free:
                msg = f"{stages} stages were asked for, but the devices have only {sum(counts)} workers."
                raise NotEnough(msg)
            unused = [i for i in free if not counts[i]]
            roomiest = max(free, key=lambda i: offers[i].memory / (counts[i] + 1))
            counts[unused[0] if unused else roomiest] += 1
        return [offer for offer, count in zip(offers, counts, strict=True) for _ in range(count)]

    def _split(self, hosts: Sequence[NodeOffer]) -> Sequence[Placed] | None:
        """Return the split whose slowest stage is fastest, or None when memory does not allow any.

        Dynamic programming over the allowed cuts: `best[c]` places the layers before `c` on the hosts so far.
        """
        ends = [*self._cuts, self._last + 1]
        best = {0: _Partial(0.0, 0, ())}
        before: NodeOffer | None = None
        for i, host in enumerate(hosts):
            is_last = i == len(hosts) - 1
            reached: dict[int, _Partial] = {}
            for begin, partial in best.items():
                # Stages of one node share its memory, and are adjacent.
                used = partial.used if before is host else 0
                for end in ends[-1:] if is_last else ends[:-1]:
                    if end <= begin:
                        continue
                    memory = used + self._footprint.memory(begin, end - 1)
                    if memory > host.memory or self._manifest.split.refused_range(self._manifest, begin, end - 1):
                        continue
                    slowest = max(partial.slowest, self._seconds(host, begin, end - 1))
                    if end not in reached or slowest < reached[end].slowest:
                        placed = (*partial.placed, Placed(host, begin, end - 1))
                        reached[end] = _Partial(slowest, memory, placed)
            best, before = reached, host
        return best[self._last + 1].placed if self._last + 1 in best else None

    def _seconds(self, offer: NodeOffer, first_layer: int, last_layer: int) -> float:
        """Return the time of one token: its layers' weights are read once."""
        return self._footprint.weights(first_layer, last_layer) / (offer.speed * offer.threads)

    def _check_count(self, stages: int) -> None:
        if not self._cuts:
            msg = f"{self._manifest.name} runs whole on one device: {self._manifest.cuts_in_words}."
            raise CannotSplit(msg)
        if not 1 <= stages <= len(self._cuts) + 1:
            msg = f"{self._manifest.name} can be split into at most {len(self._cuts) + 1} stages, not {stages}."
            raise CannotSplit(msg)

    def _too_large(self, stages: int | None = None) -> Plan:
        needed = self._footprint.memory(0, self._last)
        split = f" in {stages} stages" if stages else ""
        have = ", ".join(f"{offer.name} {show_bytes(offer.memory)}" for offer in self._offers)
        alone = "" if self._cuts else " This architecture cannot be split over devices."
        msg = (
            f"{self._manifest.name} needs {show_bytes(needed)}{split} with a context window of {self._n_ctx} tokens; "
            f"free within the owners' caps: {have}.{alone} Raise a cap (`ainet up --memory`), unload another model "
            "(`ainet unload`), or use a smaller model or context window."
        )
        raise NotEnough(msg, needed=needed, free={offer.name: offer.memory for offer in self._offers})

    def _as_plan(self, placed: Sequence[Placed], why: str) -> Plan:
        shares = {offer.node: sum(other.node == offer.node for other, _, _ in placed) for offer, _, _ in placed}
        return Plan(
            model=self._manifest.digest,
            name=self._manifest.name,
            n_ctx=self._n_ctx,
            n_ubatch=self._n_ubatch,
            why=why,
            seconds=sum(self._seconds(offer, first, last) for offer, first, last in placed),
            stages=[
                PlannedStage(
                    node=offer.node,
                    name=offer.name,
                    first_layer=first,
                    last_layer=last,
                    memory=self._footprint.memory(first, last),
                    threads=max(1, offer.threads // shares[offer.node]),
                    gpu=offer.gpu,
                    reason=f"{offer.speed / 1e9:.1f} GB/s a thread, {show_bytes(offer.memory)} free",
                )
                for offer, first, last in placed
            ],
        )
