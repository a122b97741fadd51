"""Usage, added up as people look at it."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from ainet.api.economy import UsageDay, UsageSum
from ainet.economy.usage import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ainet.api.economy import UsageBy
    from ainet.economy.usage import ProvidedRow


def sums(rows: Sequence[ProvidedRow], by: UsageBy, names: Mapping[str, str]) -> list[UsageSum]:
    """Return rows added up by who worked for whom, by model or by day.

    Parameters
    ----------
    names
        By node id.
    """
    groups: dict[tuple[str, ...], list[ProvidedRow]] = defaultdict(list)
    keys: dict[UsageBy, Callable[[ProvidedRow], tuple[str, ...]]] = {
        "peer": lambda one: (one.provider, one.row.requester),
        "model": lambda one: (one.row.model,),
        "day": lambda one: (_day(one.row.hour),),
    }
    for one in rows:
        groups[keys[by](one)].append(one)
    found = [_sum(key, its, by, names) for key, its in groups.items()]
    if by == "day":
        return sorted(found, key=lambda one: one.day or "")
    return sorted(found, key=lambda one: (-one.seconds, -one.generated_tokens, one.worked or "", one.model or ""))


def days_of(rows: Sequence[ProvidedRow], names: Mapping[str, str]) -> list[UsageDay]:
    """Return how long each device worked on each day."""
    groups: dict[tuple[str, str], list[ProvidedRow]] = defaultdict(list)
    for one in rows:
        groups[_day(one.row.hour), _name(one.provider, names)].append(one)
    return [
        UsageDay(
            day=day,
            device=device,
            seconds=sum(one.row.microseconds for one in its) / 1e6,
            tokens=sum(one.row.generated for one in its),
        )
        for (day, device), its in sorted(groups.items())
    ]


def _sum(key: tuple[str, ...], rows: Sequence[ProvidedRow], by: UsageBy, names: Mapping[str, str]) -> UsageSum:
    def total(field: str, *kinds: str) -> int:
        return sum(getattr(one.row, field) for one in rows if not kinds or one.row.kind in kinds)

    kept: dict[tuple[str, str], int] = {}
    for one in rows:  # of the hours, the last one counts
        if one.row.kind == "storage":
            kept[one.provider, one.row.requester] = one.row.size
    return UsageSum(
        worked=_name(key[0], names) if by == "peer" else None,
        asked=_name(key[1], names) if by == "peer" else None,
        model=key[0] if by == "model" else None,
        day=key[0] if by == "day" else None,
        answers=total("answers"),
        prompt_tokens=total("prompt", "answer"),
        generated_tokens=total("generated"),
        seconds=total("microseconds") / 1e6,
        layer_tokens=total("layer_tokens"),
        sent=total("size", "transfer"),
        relayed=total("size", "relay"),
        kept=sum(kept.values()),
    )


def _name(node: str, names: Mapping[str, str]) -> str:
    return names.get(node) or node[:8]


def _day(hour: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(hour * HOUR))
