"""Placement: which layers run on which node, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ainet.config import show_bytes
from ainet.errors import CannotSplit, NotEnough

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ainet.executor.models.manifest import Manifest

#: Python objects, allocator slack and llama.cpp's graphs; measured on SmolLM2-135M, where they come to 9 MB.
OVERHEAD = 16_000_000


def stage_memory(manifest: Manifest, first_layer: int, last_layer: int, *, n_ctx: int, n_ubatch: int) -> int:
    """Return the bytes that a stage takes: weights, KV cache, buffers.

    Parameters
    ----------
    manifest
        The model.
    first_layer, last_layer
        Its layers, 0-based and inclusive.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    """
    is_last = last_layer == manifest.n_layers - 1
    whole = first_layer == 0 and is_last
    weights = sum(
        tensor.nbytes
        for tensor in manifest.shard_tensors(first_layer, last_layer)
        # The first of several stages maps the embedding table from its file and reads single rows.
        if whole or first_layer > 0 or tensor.name != "token_embd.weight"
    )
    kv_cache = n_ctx * manifest.kv_bytes_per_token(first_layer, last_layer)
    outputs = 4 * manifest.n_vocab if is_last else 0
    # Activations of one micro-batch (a dozen rows of n_embd are alive at once) and the attention mask.
    buffers = 4 * n_ubatch * (12 * manifest.n_embd + 2 * n_ctx) + 2 * outputs
    return weights + kv_cache + buffers + OVERHEAD


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
        Most stages that the node can host; 0 means as many as memory allows.
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
    workers: int = 0
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
    """The ordered stages of a model, its context window (tokens), and the reason in one sentence."""

    model: str
    name: str
    n_ctx: int
    n_ubatch: int
    stages: list[PlannedStage]
    why: str


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
        self._cuts = manifest.cuts
        self._last = manifest.n_layers - 1

    def memory(self, first_layer: int, last_layer: int) -> int:
        """Return the bytes that a stage with these layers takes."""
        return stage_memory(self._manifest, first_layer, last_layer, n_ctx=self._n_ctx, n_ubatch=self._n_ubatch)

    def fits(self, offer: NodeOffer) -> bool:
        """Whether the whole model fits on the node."""
        return offer.memory >= self.memory(0, self._last)

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
        hosts = self._hosts(stages)
        placed = self._split(hosts)
        if placed is None:
            return self._too_large(stages)
        return self._as_plan(placed, f"{stages} stages were asked for; each gets layers in proportion to its speed.")

    def _whole(self) -> Plan | None:
        for i, offer in enumerate(self._offers):
            if self.fits(offer):
                where = "on this device" if i == 0 else f"on {offer.name}, but not on this device"
                return self._as_plan([(offer, 0, self._last)], f"The whole model fits {where}.")
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

    def _hosts(self, stages: int) -> list[NodeOffer]:
        """Return a node for each stage: every node once, then again where memory is left; same nodes adjacent."""
        counts = [0] * len(self._offers)
        for _ in range(stages):
            free = [i for i, offer in enumerate(self._offers) if not offer.workers or counts[i] < offer.workers]
            if not free:
                msg = f"{stages} stages were asked for, but the devices have only {sum(counts)} workers."
                raise NotEnough(msg)
            unused = [i for i in free if not counts[i]]
            roomiest = max(free, key=lambda i: self._offers[i].memory / (counts[i] + 1))
            counts[unused[0] if unused else roomiest] += 1
        return [offer for offer, count in zip(self._offers, counts, strict=True) for _ in range(count)]

    def _split(self, hosts: Sequence[NodeOffer]) -> list[tuple[NodeOffer, int, int]] | None:
        """Return the split whose slowest stage is fastest, or None when memory does not allow any.

        Dynamic programming over the allowed cuts: `best[c]` is the slowest stage's time when the layers before `c`
        are placed on the hosts so far.
        """
        ends = [*self._cuts, self._last + 1]
        best: dict[int, tuple[float, list[tuple[NodeOffer, int, int]]]] = {0: (0.0, [])}
        for i, host in enumerate(hosts):
            reached: dict[int, tuple[float, list[tuple[NodeOffer, int, int]]]] = {}
            for begin, (slowest, placed) in best.items():
                # Stages of one node share its memory.
                used = sum(self.memory(a, b) for offer, a, b in placed if offer.node == host.node)
                for end in ends:
                    is_last = i == len(hosts) - 1
                    if end <= begin or (end == self._last + 1) != is_last:
                        continue
                    if self._manifest.split.refused_range(self._manifest, begin, end - 1):
                        continue
                    if used + self.memory(begin, end - 1) > host.memory:
                        continue
                    worst = max(slowest, self._seconds(host, begin, end - 1))
                    if end not in reached or worst < reached[end][0]:
                        reached[end] = (worst, [*placed, (host, begin, end - 1)])
            best = reached
        return best[self._last + 1][1] if self._last + 1 in best else None

    def _seconds(self, offer: NodeOffer, first_layer: int, last_layer: int) -> float:
        """Return the time of one token: its layers' weights are read once."""
        layers = range(first_layer, last_layer + 1)
        size = sum(tensor.nbytes for tensor in self._manifest.tensors if tensor.layer in layers)
        return size / (offer.speed * offer.threads)

    def _check_count(self, stages: int) -> None:
        if not self._cuts:
            msg = f"{self._manifest.name} runs whole on one device: {self._manifest.cuts_in_words}."
            raise CannotSplit(msg)
        if not 1 <= stages <= len(self._cuts) + 1:
            msg = f"{self._manifest.name} can be split into at most {len(self._cuts) + 1} stages, not {stages}."
            raise CannotSplit(msg)

    def _too_large(self, stages: int | None = None) -> Plan:
        needed = self.memory(0, self._last)
        split = f" in {stages} stages" if stages else ""
        have = ", ".join(f"{offer.name} {show_bytes(offer.memory)}" for offer in self._offers)
        alone = "" if self._cuts else " This architecture cannot be split over devices."
        msg = (
            f"{self._manifest.name} needs {show_bytes(needed)}{split} with a context window of {self._n_ctx} tokens; "
            f"free within the owners' caps: {have}.{alone} Raise a cap (`ainet up --memory`), unload another model "
            "(`ainet unload`), or use a smaller model or context window."
        )
        raise NotEnough(msg, needed=needed, free={offer.name: offer.memory for offer in self._offers})

    def _as_plan(self, placed: Sequence[tuple[NodeOffer, int, int]], why: str) -> Plan:
        shares = {offer.node: sum(other.node == offer.node for other, _, _ in placed) for offer, _, _ in placed}
        return Plan(
            model=self._manifest.digest,
            name=self._manifest.name,
            n_ctx=self._n_ctx,
            n_ubatch=self._n_ubatch,
            why=why,
            stages=[
                PlannedStage(
                    node=offer.node,
                    name=offer.name,
                    first_layer=first,
                    last_layer=last,
                    memory=self.memory(first, last),
                    threads=max(1, offer.threads // shares[offer.node]),
                    gpu=offer.gpu,
                    reason=f"{offer.speed / 1e9:.1f} GB/s a thread, {show_bytes(offer.memory)} free",
                )
                for offer, first, last in placed
            ],
        )
