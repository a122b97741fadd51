"""Placement: which layers run on which node, and why."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ainet.api.models import LeftOut, Plan, PlannedStage
from ainet.errors import CannotSplit, NotEnough
from ainet.placement.footprint import SESSIONS, STAGE_SECONDS, Footprint
from ainet.placement.optimiser import Objective, Ways, nearest, optimise
from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ainet.models.manifest import Manifest
    from ainet.placement.capacity import NodeCapacity

#: At most this many devices that are left out have their cost named.
EXPLAINED = 6


class Placed(NamedTuple):
    """Layers on a node."""

    capacity: NodeCapacity
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
    capacities
        The capacities of the nodes, the asking node first.
    n_ctx, n_ubatch
        Context window and chunk, in tokens.
    objective
        Whether one session shall be fast (``latency``), or many together (``throughput``).
    row_bytes
        Bytes of one hidden state on its way; None: in float32.
    sessions, exact
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
    ) -> None:
        self._manifest = manifest
        self._row_bytes = 4 * manifest.n_embd if row_bytes is None else row_bytes
        self._capacities = list(capacities)
        self._n_ctx = n_ctx
        self._n_ubatch = n_ubatch
        self._objective = objective
        self._footprint = Footprint(manifest, n_ctx=n_ctx, n_ubatch=n_ubatch, sessions=sessions, exact=exact)
        self._cuts = manifest.cuts
        self._last = manifest.n_layers - 1

    @property
    def whole_memory(self) -> int:
        """Bytes that the whole model takes on one node."""
        return self._footprint.memory(0, self._last)

    def fits(self, capacity: NodeCapacity) -> bool:
        """Whether the whole model fits on the node."""
        return capacity.memory >= self.whole_memory and capacity.workers != 0

    def seconds(self, capacity: NodeCapacity) -> float:
        """Return the time of a token of the whole model on the node."""
        return self._seconds(capacity, 0, self._last)

    def plan(self, stages: int | None = None) -> Plan:
        """Place the model: whole where it fits, else over the fewest nodes; `stages` forces a number.

        Raises
        ------
        CannotSplit
            If the architecture does not allow this number of stages.
        NotEnough
            If the nodes have too little memory, with the numbers.
        """
        if stages is None:
            return self._whole() or self._best()
        if stages == 1:
            return self._whole() or self._too_large()
        self._check_count(stages)
        capacities = sorted(self._capacities, key=lambda capacity: capacity.memory, reverse=True)
        while capacities:
            placed = self._split(
                self._hosts([capacity for capacity in self._capacities if capacity in capacities], stages)
            )
            if placed is not None:
                why = f"{stages} stages were asked for; each gets layers in proportion to its speed."
                return self._as_plan(placed, why)
            capacities.pop()  # the one with the least memory is in the way
        return self._too_large(stages)

    def _whole(self) -> Plan | None:
        """Place the whole model on this device, else where a token takes the least time; None where it fits nowhere."""
        own = self._capacities[0]
        able = [capacity for capacity in self._capacities if self.fits(capacity)]
        if not able:
            return None
        best = own if own in able else min(able, key=self._whole_seconds)
        if best is own:
            return self._as_plan([Placed(own, 0, self._last)], "The whole model fits on this device.")
        left_out = [
            LeftOut(capacity.name, f"a token would take {_milliseconds(self._whole_seconds(capacity))} from there")
            for capacity in able
            if capacity is not best
        ]
        fastest = ", where a token takes the least time" if left_out else ""
        why = f"The whole model fits on {best.name}{fastest}, but not on this device."
        return self._as_plan([Placed(best, 0, self._last)], why, left_out)

    def _whole_seconds(self, capacity: NodeCapacity) -> float:
        """Return the time of a token of the whole model on the node, and on its way to this one."""
        return self.seconds(capacity) + self._hop(capacity, self._capacities[0], 0)

    def _best(self) -> Plan:
        """Split the model in the best of all ways."""
        capacities = [
            self._capacities[i] for i in nearest([(one.speed * one.threads, one.memory) for one in self._capacities])
        ]
        seconds, ways = self._seconds_of(capacities), self._ways(capacities)
        found = optimise(seconds, ways, self._objective)
        if found is None:
            return self._too_large()
        ends = self._ends
        shares, cost = found
        placed = [Placed(capacities[one.device], ends[one.begin], ends[one.end] - 1) for one in shares]
        used = {one.device for one in shares}
        left_out = [
            LeftOut(capacities[i].name, self._why_not(i, seconds, ways, cost))
            for i in range(len(capacities))
            if i not in used
        ]
        is_latency = self._objective == "latency"
        what = "a token takes the least time" if is_latency else "the slowest stage or way is the fastest"
        devices = "device" if len(placed) == 1 else "devices"
        why = f"This device cannot hold the whole model; with these {len(placed)} {devices} {what}."
        return self._as_plan(placed, why, left_out)

    def _why_not(self, device: int, seconds: NDArray[np.float64], ways: Ways, cost: float) -> str:
        """Return why a device gets no layers."""
        if not np.isfinite(seconds[device]).any():
            return f"{show_bytes(self._capacities[device].memory)} free is too little for any layer"
        if len(seconds) > EXPLAINED:
            return "a token would take longer with it"
        found = optimise(seconds, ways, self._objective, required=device)
        if found is None:
            return "it cannot take part in any split that fits"
        return f"a token would take {_milliseconds(found[1])} with it, not {_milliseconds(cost)}"

    @property
    def _ends(self) -> list[int]:
        return [0, *self._cuts, self._last + 1]

    def _seconds_of(self, capacities: Sequence[NodeCapacity]) -> NDArray[np.float64]:
        """Return the time of every range between two cuts on every node; infinite where it is not possible."""
        ends = self._ends
        seconds = np.full((len(capacities), len(ends), len(ends)), np.inf)
        for begin, end in combinations(range(len(ends)), 2):
            first, last = ends[begin], ends[end] - 1
            if self._manifest.split.refused_range(self._manifest, first, last):
                continue
            memory = self._footprint.memory(first, last)
            for i, capacity in enumerate(capacities):
                if memory <= capacity.memory and capacity.workers != 0:
                    seconds[i, begin, end] = self._seconds(capacity, first, last)
        return seconds

    def _ways(self, capacities: Sequence[NodeCapacity]) -> Ways:
        """Return the time from each node to each other one."""
        return Ways(
            np.array([[self._hop(one, other, self._row_bytes) for other in capacities] for one in capacities]),
            np.array([[self._hop(one, other, 0) for other in capacities] for one in capacities]),
        )

    def _hop(self, one: NodeCapacity, other: NodeCapacity, size: int) -> float:
        """Return the time of this many bytes from one node to another."""
        if one.node == other.node:
            return STAGE_SECONDS
        pair = ((one, other), (other, one))
        known = [latency for a, b in pair if (latency := a.latencies.get(b.node)) is not None]
        if not known:  # not farther than by way of the node that asks
            asking = self._capacities[0].latencies
            known = [asking.get(one.node, 0.0) + asking.get(other.node, 0.0)]
        speeds = [speed for a, b in pair if (speed := a.bandwidths.get(b.node)) is not None]
        return STAGE_SECONDS + max(known) + (size / min(speeds) if speeds else 0.0)

    def _hosts(self, capacities: Sequence[NodeCapacity], stages: int) -> list[NodeCapacity]:
        """Return a node for each stage: every node once, then again where memory is left; same nodes adjacent."""
        counts = [0] * len(capacities)
        for _ in range(stages):
            free = [
                i for i, capacity in enumerate(capacities) if capacity.workers is None or counts[i] < capacity.workers
            ]
            if not free:
                raise NotEnough(f"{stages} stages were asked for, but the devices have only {sum(counts)} workers.")
            unused = [i for i in free if not counts[i]]
            roomiest = max(free, key=lambda i: capacities[i].memory / (counts[i] + 1))
            counts[unused[0] if unused else roomiest] += 1
        return [capacity for capacity, count in zip(capacities, counts, strict=True) for _ in range(count)]

    def _split(self, hosts: Sequence[NodeCapacity]) -> Sequence[Placed] | None:
        """Return the split whose slowest stage is fastest, or None when memory does not allow any.

        Dynamic programming over the allowed cuts: `best[c]` places the layers before `c` on the hosts so far.
        """
        ends = [*self._cuts, self._last + 1]
        best = {0: _Partial(0.0, 0, ())}
        before: NodeCapacity | None = None
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
                    slowest = max(partial.slowest, self._busy_seconds(host, begin, end - 1))
                    if end not in reached or slowest < reached[end].slowest:
                        placed = (*partial.placed, Placed(host, begin, end - 1))
                        reached[end] = _Partial(slowest, memory, placed)
            best, before = reached, host
        return best[self._last + 1].placed if self._last + 1 in best else None

    def _seconds(self, capacity: NodeCapacity, first_layer: int, last_layer: int) -> float:
        """Return the time of one token: its layers' weights are read once."""
        return self._footprint.read(first_layer, last_layer) / (capacity.speed * capacity.threads)

    def _busy_seconds(self, capacity: NodeCapacity, first_layer: int, last_layer: int) -> float:
        """Return the time for which a stage keeps the others waiting where they could all work at the same time.

        Of one session, that is while it reads the prompt, which needs no logits but those of the last token.
        """
        if self._objective == "throughput":
            return self._seconds(capacity, first_layer, last_layer)
        return self._footprint.weights(first_layer, last_layer) / (capacity.speed * capacity.threads)

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
        have = ", ".join(f"{capacity.name} {show_bytes(capacity.memory)}" for capacity in self._capacities)
        alone = "" if self._cuts else " This architecture cannot be split over devices."
        raise NotEnough(
            f"{self._manifest.name} needs {show_bytes(needed)}{split} with a context window of {self._n_ctx} tokens; "
            f"free within the owners' caps: {have}.{alone} Raise a cap (`ainet up --memory`), unload another model "
            "(`ainet unload`), or use a smaller model or context window.",
            needed=needed,
            free={capacity.name: capacity.memory for capacity in self._capacities},
        )

    def _as_plan(self, placed: Sequence[Placed], why: str, left_out: Sequence[LeftOut] = ()) -> Plan:
        shares = {
            capacity.node: sum(other.node == capacity.node for other, _, _ in placed) for capacity, _, _ in placed
        }
        return Plan(
            model=self._manifest.digest,
            name=self._manifest.name,
            n_ctx=self._n_ctx,
            n_ubatch=self._n_ubatch,
            why=why,
            seconds=self._token_seconds(placed),
            left_out=list(left_out),
            stages=[
                PlannedStage(
                    node=capacity.node,
                    name=capacity.name,
                    first_layer=first,
                    last_layer=last,
                    memory=self._footprint.memory(first, last),
                    threads=max(1, capacity.threads // shares[capacity.node]),
                    gpu=capacity.gpu,
                    reason=self._reason(capacity, first, last),
                    seconds=self._seconds(capacity, first, last),
                )
                for capacity, first, last in placed
            ],
        )

    def _reason(self, capacity: NodeCapacity, first_layer: int, last_layer: int) -> str:
        how = "measured with this model" if capacity.measured else "as fast as it reads memory"
        seconds = _milliseconds(self._seconds(capacity, first_layer, last_layer))
        return f"{seconds} a token ({how}), {show_bytes(capacity.memory)} free"

    def _token_seconds(self, placed: Sequence[Placed]) -> float:
        seconds = sum(self._seconds(*one) for one in placed)
        if len(placed) > 1:
            seconds += sum(self._hop(one.capacity, other.capacity, self._row_bytes) for one, other in pairwise(placed))
            seconds += self._hop(placed[-1].capacity, placed[0].capacity, 0)
        return seconds


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
