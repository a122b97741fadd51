"""Which devices take which layers, in which order: the best of all possibilities.

Devices form a ring: each computes its layers and passes the result on, the last one to the first. Dynamic programming
over sets of devices (Held and Karp, "A Dynamic Programming Approach to Sequencing Problems", 1962), with the layers
placed so far as a further dimension; what cannot become better than the best known placement is not followed up.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: What shall be small: the time of one token, or that of the slowest stage or way, which bounds the tokens of many
#: sessions.
Objective = Literal["latency", "throughput"]
#: More devices than these are not considered at once: 12 take some seconds.
MAX_DEVICES = 12
#: Relative difference that counts as none.
EQUAL = 1e-9


class Share(NamedTuple):
    """A device and its layers, as indices of allowed cuts: from the cut `begin` to the cut `end`."""

    device: int
    begin: int
    end: int


class Ways(NamedTuple):
    """The time (s) from one device to the next, of shape (devices, devices): of hidden states, and of a token."""

    hidden: NDArray[np.float64]
    token: NDArray[np.float64]

    @property
    def busy(self) -> NDArray[np.float64]:
        """The time (s) for which hidden states take up each way, so that others must wait."""
        return np.maximum(self.hidden - self.token, 0.0)


class _Reached(NamedTuple):
    """The best cost of placing the layers before each cut, and how it came about."""

    costs: NDArray[np.float64]
    begins: NDArray[np.int16]
    before: NDArray[np.int16]  # the device that has the layers before, by its cut `begin`


def optimise(
    seconds: NDArray[np.float64],
    ways: Ways,
    objective: Objective = "latency",
    required: int | None = None,
) -> tuple[list[Share], float] | None:
    """Return the best placement and its cost (s), or None if there is none.

    Parameters
    ----------
    seconds
        Shape (devices, cuts, cuts): the time that a device takes for the layers between two cuts; infinite where they
        do not fit, or may not be cut out. The first cut is before all layers, the last one after them.
    ways
        From one device to the next; the last one sends a token to the first.
    objective
        The quantity to be made small.
    required
        A device that must take part.
    """
    n, n_cuts, _ = seconds.shape
    last = n_cuts - 1
    left = _least(seconds) if objective == "latency" else np.zeros(n_cuts)
    best: tuple[list[Share], float] | None = None
    for first in range(n):
        alone = np.full(n_cuts, np.inf)
        alone[1:] = seconds[first, 0, 1:]
        start = _Reached(alone, np.zeros(n_cuts, np.int16), np.full(n_cuts, -1, np.int16))
        level: dict[tuple[int, int], _Reached] = {(1 << first, first): start}
        reached = dict(level)
        while level:
            for (mask, device), state in level.items():
                closing = ways.token[device, first] if objective == "latency" and device != first else 0.0
                cost = float(state.costs[last]) + closing
                counts = required is None or mask >> required & 1
                if counts and cost < (best[1] * (1 - EQUAL) if best is not None else np.inf):
                    best = _trace(reached, mask, device, last), cost
            bound = best[1] if best is not None else np.inf
            level = _next_level(level, seconds, ways, objective, left=left, bound=bound)
            reached |= level
    return best


def _least(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least that the layers after each cut cost, if ways took no time and a device could be used again."""
    best = seconds.min(axis=0)
    least = np.full(len(best), np.inf)
    least[-1] = 0.0
    for cut in range(len(best) - 2, -1, -1):
        least[cut] = (best[cut] + least).min()
    return least


def _next_level(
    level: dict[tuple[int, int], _Reached],
    seconds: NDArray[np.float64],
    ways: Ways,
    objective: Objective,
    *,
    left: NDArray[np.float64],
    bound: float,
) -> dict[tuple[int, int], _Reached]:
    """Add one device to each set of devices."""
    hops, join = (ways.hidden, np.add) if objective == "latency" else (ways.busy, np.maximum)
    by_mask: dict[int, list[int]] = {}
    for mask, device in level:
        by_mask.setdefault(mask, []).append(device)
    found: dict[tuple[int, int], _Reached] = {}
    for mask, devices in by_mask.items():
        costs = np.stack([level[mask, device].costs for device in devices])
        costs[:, -1] = np.inf  # those are complete
        for device in range(len(seconds)):
            if mask >> device & 1:
                continue
            coming = join(costs, hops[devices, device][:, None])
            which = coming.argmin(axis=0)
            total = join(coming[which, np.arange(len(which))][:, None], seconds[device])
            begins = total.argmin(axis=0)
            reached = total[begins, np.arange(len(begins))]
            reached[reached + left >= bound] = np.inf
            if np.isfinite(reached).any():
                before = np.array(devices, np.int16)[which[begins]]
                found[mask | 1 << device, device] = _Reached(reached, begins.astype(np.int16), before)
    return found


def _trace(reached: dict[tuple[int, int], _Reached], mask: int, device: int, cut: int) -> list[Share]:
    shares: list[Share] = []
    while device >= 0:
        state = reached[mask, device]
        begin, before = int(state.begins[cut]), int(state.before[cut])
        shares.append(Share(device, begin, cut))
        mask ^= 1 << device
        device, cut = before, begin
    return shares[::-1]


def nearest(devices: Sequence[tuple[float, int]]) -> list[int]:
    """Return the numbers of at most `MAX_DEVICES` devices of (speed, memory): the fastest, and the roomiest."""
    order = sorted(range(len(devices)), key=lambda i: devices[i], reverse=True)
    roomy = sorted(range(len(devices)), key=lambda i: devices[i][1], reverse=True)
    chosen: list[int] = []
    for one in chain.from_iterable(zip(order, roomy, strict=True)):
        if one not in chosen and len(chosen) < MAX_DEVICES:
            chosen.append(one)
    return sorted(chosen)
