"""Placement: which layers run on which node, and why."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ainet.api.models import LeftOut, Plan, PlannedStage
from ainet.errors import CannotSplit, NotEnough, UsageError
from ainet.placement.footprint import GPU_UBATCH, SESSIONS, STAGE_SECONDS, Footprint
from ainet.placement.optimiser import Objective, Ways, nearest, optimise
from ainet.resources.memory import Memory
from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ainet.models.manifest import Manifest
    from ainet.placement.capacity import NodeCapacity, Part

#: At most this many devices that are left out have their cost named.
EXPLAINED = 6
#: The least stages of a model whose first and last layers stay on one device, with others between them; and how many
#: ways to share its memory between the two are tried.
PRIVATE_STAGES, PRIVATE_TRIES = 3, 6


class Placed(NamedTuple):
    """Layers on a part of a node."""

    part: Part
    first_layer: int
    last_layer: int


class _Partial(NamedTuple):
    """A placement of a model's first layers: its slowest stage (s a token), and what its last node has given."""

    slowest: float
    used: float
    placed: tuple[Placed, ...]


class Planner:
    """Plans one model over the nodes that are there.

    Parameters
    ----------
    manifest
        The model.
    capacities
        The capacities of the nodes, the asking node first.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    objective
        Whether one session shall be fast (``latency``), or many together (``throughput``).
    row_bytes
        Bytes of one hidden state on its way; None: in float32.
    sessions, exact, rollback
        As for `Footprint`.
    """

    def __init__(
        self,
        manifest: Manifest,
        capacities: Sequence[NodeCapacity],
        *,
        n_ctx: int,
        n_ubatch: int,
        objective: Objective = "latency",
        row_bytes: int | None = None,
        sessions: int = SESSIONS,
        exact: bool = False,
        rollback: int = 0,
    ) -> None:
        self._manifest = manifest
        self._row_bytes = 4 * manifest.n_embd if row_bytes is None else row_bytes
        self._own = capacities[0]
        self._exact = exact
        self._parts = [part for capacity in capacities for part in capacity.parts(exact=exact)]
        self._n_ctx = n_ctx
        self._n_ubatch = n_ubatch
        self._objective = objective
        self._footprint = Footprint(
            manifest, n_ctx=n_ctx, n_ubatch=n_ubatch, sessions=sessions, exact=exact, rollback=rollback
        )
        #: Of stages on GPUs, which read longer chunks.
        self._on_gpu = Footprint(
            manifest, n_ctx=n_ctx, n_ubatch=max(n_ubatch, GPU_UBATCH), sessions=sessions, rollback=rollback
        )
        self._cuts = manifest.cuts
        self._last = manifest.n_layers - 1

    @property
    def whole_memory(self) -> int:
        """Bytes that the whole model takes on one node's processors."""
        return self._footprint.memory(0, self._last)

    def fits(self, capacity: NodeCapacity) -> bool:
        """Whether the whole model fits on the node."""
        return any(self._holds(part) for part in capacity.parts(exact=self._exact))

    def seconds(self, capacity: NodeCapacity) -> float:
        """Return the time of a token of the whole model on the node's processors."""
        return self._seconds(capacity.parts(exact=True)[0], 0, self._last)

    def plan(self, stages: int | None = None, *, private: bool = False) -> Plan:
        """Place the model: whole where it fits, else over the fewest nodes.

        Parameters
        ----------
        stages
            Forces a number of stages.
        private
            Whether the first and the last layer stay on this device: others then see no tokens, only hidden states.

        Raises
        ------
        CannotSplit
            If the architecture does not allow this number of stages.
        NotEnough
            If the nodes have too little memory, with the numbers.
        UsageError
            If both are wished.
        """
        if private and stages is not None:
            raise UsageError(
                "Where the layers of a private question go follows from that: no number of stages with it."
            )
        if private:
            return self._whole(only_here=True) or self._between_own()
        if stages is None:
            return self._whole() or self._best()
        if stages == 1:
            return self._whole() or self._too_large()
        self._check_count(stages)
        for parts in (self._best_parts, self._parts):
            able = sorted(parts, key=lambda part: part.memory, reverse=True)
            while able:
                placed = self._split(self._hosts([part for part in parts if part in able], stages))
                if placed is not None:
                    why = f"{stages} stages were asked for; each gets layers in proportion to its speed."
                    return self._as_plan(placed, why)
                able.pop()  # the one with the least memory is in the way
        return self._too_large(stages)

    @property
    def _best_parts(self) -> list[Part]:
        """The GPU of each node that has one, and the processors of the others."""
        with_gpu = {part.node for part in self._parts if part.gpu}
        return [part for part in self._parts if part.gpu or part.node not in with_gpu]

    def _holds(self, part: Part) -> bool:
        return part.capacity.workers != 0 and self._needs(part, 0, self._last) <= part.memory

    def _needs(self, part: Part, first_layer: int, last_layer: int) -> float:
        """Return the bytes of the part's memory that the layers take; infinite where the node lacks other memory."""
        if not part.gpu:
            return self._footprint.memory(first_layer, last_layer)
        needed = self._gpu_memory(part, first_layer, last_layer)
        return needed.gpu if needed.host <= part.capacity.memory else math.inf

    def _keeps_experts(self, part: Part, first_layer: int, last_layer: int) -> bool:
        """Whether the host computes the experts of layers on a GPU that is too small for them."""
        return (
            part.gpu
            and self._on_gpu.experts(first_layer, last_layer) > 0
            and self._on_gpu.on_gpu(first_layer, last_layer).gpu > part.memory
        )

    def _gpu_memory(self, part: Part, first_layer: int, last_layer: int) -> Memory:
        keeps = self._keeps_experts(part, first_layer, last_layer)
        return self._on_gpu.on_gpu(first_layer, last_layer, experts_on_host=keeps)

    def _whole(self, *, only_here: bool = False) -> Plan | None:
        """Place the whole model on this device, else where a token takes the least time; None where it fits nowhere."""
        able = [part for part in self._parts if self._holds(part) and (part.capacity is self._own or not only_here)]
        if not able:
            return None
        own = [part for part in able if part.capacity is self._own]
        best = min(own or able, key=self._whole_seconds)
        if own:
            where = "this device's GPU" if best.gpu else "this device"
            return self._as_plan([Placed(best, 0, self._last)], f"The whole model fits on {where}.")
        left_out = [
            LeftOut(part.name, f"a token would take {_milliseconds(self._whole_seconds(part))} from there")
            for part in able
            if part is not best
        ]
        fastest = ", where a token takes the least time" if left_out else ""
        why = f"The whole model fits on {best.name}{fastest}, but not on this device."
        return self._as_plan([Placed(best, 0, self._last)], why, left_out)

    def _whole_seconds(self, part: Part) -> float:
        """Return the time of a token of the whole model on the part, and on its way to this node."""
        return self._seconds(part, 0, self._last) + self._hop(part.capacity, self._own, 0)

    def _best(self) -> Plan:
        """Split the model in the best of all ways."""
        parts = [self._parts[i] for i in nearest([(one.speed * one.threads, one.memory) for one in self._parts])]
        seconds, ways = self._seconds_of(parts), self._ways(parts)
        found = optimise(seconds, ways, self._objective)
        if found is None:
            return self._too_large()
        ends = self._ends
        shares, cost = found
        placed = [Placed(parts[one.device], ends[one.begin], ends[one.end] - 1) for one in shares]
        used = {one.device for one in shares}
        left_out = [
            LeftOut(parts[i].name, self._why_not(i, parts, seconds, ways, cost))
            for i in range(len(parts))
            if i not in used
        ]
        is_latency = self._objective == "latency"
        what = "a token takes the least time" if is_latency else "the slowest stage or way is the fastest"
        devices = "device" if len(placed) == 1 else "devices"
        why = f"This device cannot hold the whole model; with these {len(placed)} {devices} {what}."
        return self._as_plan(placed, why, left_out)

    def _between_own(self) -> Plan:
        """Place the first and the last layers on this device, and those between on others, in the best of all ways."""
        ends, last = self._ends, len(self._ends) - 1
        if last < PRIVATE_STAGES or self._manifest.most_stages < PRIVATE_STAGES:
            raise CannotSplit(
                f"{self._manifest.name} does not fit on this device, and cannot be split so that its first and last "
                f"layers stay here: {self._manifest.cuts_in_words}."
            )
        own, *_ = self._own.parts(exact=True)
        others = [part for part in self._parts if part.capacity is not self._own]
        others = [others[i] for i in nearest([(one.speed * one.threads, one.memory) for one in others])]
        least, least_last = self._needs(own, 0, ends[1] - 1), self._needs(own, ends[-2], self._last)
        if least + least_last > own.memory or own.capacity.workers in (0, 1):
            raise NotEnough(
                f"The first and the last layers of {self._manifest.name} must stay on this device, and take at least "
                f"{show_bytes(least + least_last)} in two workers; it has {show_bytes(own.memory)}"
                f"{'' if own.capacity.workers is None else f' and {own.capacity.workers} workers'}. "
                "Raise the cap (`ainet up --memory`), use a smaller model or context window, or ask without --private."
            )
        best: tuple[float, list[Placed]] | None = None
        for first in np.linspace(least, own.memory - least_last, PRIVATE_TRIES) if others else ():
            parts = [own._replace(memory=int(first)), *others, own._replace(memory=own.memory - int(first))]
            seconds = self._seconds_of(parts)
            seconds[0, 1:], seconds[0, :, last] = np.inf, np.inf
            seconds[1:-1, 0], seconds[1:-1, :, last] = np.inf, np.inf
            seconds[-1, 0], seconds[-1, :, :last] = np.inf, np.inf
            found = optimise(seconds, self._ways(parts), self._objective)
            if found is not None and (best is None or found[1] < best[0]):
                best = found[1], [Placed(parts[one.device], ends[one.begin], ends[one.end] - 1) for one in found[0]]
        if best is None:
            return self._too_large()
        why = "This device cannot hold the whole model; it keeps the first and the last layers: others see no tokens."
        return self._as_plan(best[1], why)

    def _why_not(
        self, device: int, parts: Sequence[Part], seconds: NDArray[np.float64], ways: Ways, cost: float
    ) -> str:
        """Return why a device gets no layers."""
        if not np.isfinite(seconds[device]).any():
            return f"{show_bytes(parts[device].memory)} free is too little for any layer"
        if len(seconds) > EXPLAINED:
            return "a token would take longer with it"
        found = optimise(seconds, ways, self._objective, required=device)
        if found is None:
            return "it cannot take part in any split that fits"
        return f"a token would take {_milliseconds(found[1])} with it, not {_milliseconds(cost)}"

    @property
    def _ends(self) -> list[int]:
        return [0, *self._cuts, self._last + 1]

    def _seconds_of(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        """Return the time of every range between two cuts on every part; infinite where it is not possible."""
        ends = self._ends
        seconds = np.full((len(parts), len(ends), len(ends)), np.inf)
        for begin, end in combinations(range(len(ends)), 2):
            first, last = ends[begin], ends[end] - 1
            if self._manifest.split.refused_range(self._manifest, first, last):
                continue
            for i, part in enumerate(parts):
                if self._needs(part, first, last) <= part.memory and part.capacity.workers != 0:
                    seconds[i, begin, end] = self._seconds(part, first, last)
        return seconds

    def _ways(self, parts: Sequence[Part]) -> Ways:
        """Return the time from each part to each other one."""
        nodes = [part.capacity for part in parts]
        return Ways(
            np.array([[self._hop(one, other, self._row_bytes) for other in nodes] for one in nodes]),
            np.array([[self._hop(one, other, 0) for other in nodes] for one in nodes]),
        )

    def _hop(self, one: NodeCapacity, other: NodeCapacity, size: int) -> float:
        """Return the time of this many bytes from one node to another."""
        if one.node == other.node:
            return STAGE_SECONDS
        pair = ((one, other), (other, one))
        known = [latency for a, b in pair if (latency := a.latencies.get(b.node)) is not None]
        if not known:  # not farther than by way of the node that asks
            asking = self._own.latencies
            known = [asking.get(one.node, 0.0) + asking.get(other.node, 0.0)]
        speeds = [speed for a, b in pair if (speed := a.bandwidths.get(b.node)) is not None]
        return STAGE_SECONDS + max(known) + (size / min(speeds) if speeds else 0.0)

    def _hosts(self, parts: Sequence[Part], stages: int) -> list[Part]:
        """Return a part for each stage: every one once, then again where memory is left; same ones adjacent."""
        counts = [0] * len(parts)
        for _ in range(stages):
            free = [
                i for i, part in enumerate(parts) if part.capacity.workers is None or counts[i] < part.capacity.workers
            ]
            if not free:
                raise NotEnough(f"{stages} stages were asked for, but the devices have only {sum(counts)} workers.")
            unused = [i for i in free if not counts[i]]
            roomiest = max(free, key=lambda i: parts[i].memory / (counts[i] + 1))
            counts[unused[0] if unused else roomiest] += 1
        return [part for part, count in zip(parts, counts, strict=True) for _ in range(count)]

    def _split(self, hosts: Sequence[Part]) -> Sequence[Placed] | None:
        """Return the split whose slowest stage is fastest, or None when memory does not allow any.

        Dynamic programming over the allowed cuts: `best[c]` places the layers before `c` on the hosts so far.
        """
        ends = [*self._cuts, self._last + 1]
        best = {0: _Partial(0.0, 0, ())}
        before: Part | None = None
        for i, host in enumerate(hosts):
            is_last = i == len(hosts) - 1
            reached: dict[int, _Partial] = {}
            for begin, partial in best.items():
                # Stages of one part share its memory, and are adjacent.
                used = partial.used if before is host else 0
                for end in ends[-1:] if is_last else ends[:-1]:
                    if end <= begin:
                        continue
                    memory = used + self._needs(host, begin, end - 1)
                    if memory > host.memory or self._manifest.split.refused_range(self._manifest, begin, end - 1):
                        continue
                    slowest = max(partial.slowest, self._busy_seconds(host, begin, end - 1))
                    if end not in reached or slowest < reached[end].slowest:
                        placed = (*partial.placed, Placed(host, begin, end - 1))
                        reached[end] = _Partial(slowest, memory, placed)
            best, before = reached, host
        return best[self._last + 1].placed if self._last + 1 in best else None

    def _seconds(self, part: Part, first_layer: int, last_layer: int) -> float:
        """Return the time of one token: its layers' weights are read once, and of experts those that it uses."""
        size = self._footprint.read(first_layer, last_layer)
        if not self._keeps_experts(part, first_layer, last_layer):
            return size / (part.speed * part.threads)
        experts, host = self._footprint.used_experts(first_layer, last_layer), part.capacity
        return (size - experts) / part.speed + experts / (host.speed * host.threads)

    def _busy_seconds(self, part: Part, first_layer: int, last_layer: int) -> float:
        """Return the time for which a stage keeps the others waiting where they could all work at the same time.

        Of one session, that is while it reads the prompt, which needs no logits but those of the last token.
        """
        if self._objective == "throughput":
            return self._seconds(part, first_layer, last_layer)
        return self._footprint.weights(first_layer, last_layer) / (part.speed * part.threads)

    def _check_count(self, stages: int) -> None:
        if not self._cuts:
            raise CannotSplit(f"{self._manifest.name} runs whole on one device: {self._manifest.cuts_in_words}.")
        if not 1 <= stages <= self._manifest.most_stages:
            raise CannotSplit(
                f"{self._manifest.name} can be split into at most {self._manifest.most_stages} stages, not {stages}."
            )

    def _too_large(self, stages: int | None = None) -> Plan:
        needed = self._footprint.memory(0, self._last)
        split = f" in {stages} stages" if stages else ""
        have = ", ".join(f"{part.name} {show_bytes(part.memory)}" for part in self._parts)
        alone = "" if self._cuts else " This architecture cannot be split over devices."
        raise NotEnough(
            f"{self._manifest.name} needs {show_bytes(needed)}{split} with a context window of {self._n_ctx} tokens; "
            f"free within the owners' caps: {have}.{alone} Raise a cap (`ainet up --memory`), unload another model "
            "(`ainet unload`), or use a smaller model or context window.",
            needed=needed,
            free={part.name: part.memory for part in self._parts},
        )

    def _as_plan(self, placed: Sequence[Placed], why: str, left_out: Sequence[LeftOut] = ()) -> Plan:
        only_gpus = all(one.part.gpu for one in placed)
        if len(placed) > 1 and self._manifest.split.differs_on_gpu and any(one.part.gpu for one in placed):
            why += " On a GPU, its stages compute a little otherwise than the whole model."
        return Plan(
            model=self._manifest.digest,
            name=self._manifest.name,
            n_ctx=self._n_ctx,
            n_ubatch=max(self._n_ubatch, GPU_UBATCH) if only_gpus else self._n_ubatch,
            why=why,
            seconds=self._token_seconds(placed),
            left_out=list(left_out),
            stages=[self._stage(one, sum(other.part is one.part for other in placed)) for one in placed],
        )

    def _stage(self, placed: Placed, shares: int) -> PlannedStage:
        """Return a stage on a part that `shares` stages have in common."""
        part, first, last = placed
        keeps_experts = self._keeps_experts(part, first, last)
        memory = self._gpu_memory(part, first, last) if part.gpu else Memory(self._footprint.memory(first, last))
        return PlannedStage(
            node=part.node,
            name=part.capacity.name,
            first_layer=first,
            last_layer=last,
            memory=memory.host,
            gpu_memory=memory.gpu,
            threads=max(1, (part.capacity.threads if keeps_experts else part.threads) // shares),
            gpu=part.gpu,
            experts_on_host=keeps_experts,
            reason=self._reason(part, first, last),
            seconds=self._seconds(part, first, last),
        )

    def _reason(self, part: Part, first_layer: int, last_layer: int) -> str:
        how = "measured with this model" if part.measured else "as fast as it reads memory"
        seconds = _milliseconds(self._seconds(part, first_layer, last_layer))
        what = "free on its GPU" if part.gpu else "free"
        experts = ", experts on its processors" if self._keeps_experts(part, first_layer, last_layer) else ""
        return f"{seconds} a token ({how}), {show_bytes(part.memory)} {what}{experts}"

    def _token_seconds(self, placed: Sequence[Placed]) -> float:
        seconds = sum(self._seconds(*one) for one in placed)
        if len(placed) > 1:
            nodes = [one.part.capacity for one in placed]
            seconds += sum(self._hop(one, other, self._row_bytes) for one, other in pairwise(nodes))
            seconds += self._hop(nodes[-1], nodes[0], 0)
        return seconds


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
