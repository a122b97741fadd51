"""What devices do for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.api import economy
from ainet.cli.command import Command, verb_command
from ainet.cli.parser import count
from ainet.cli.tables import table
from ainet.units import show_bytes, show_seconds

if TYPE_CHECKING:
    from ainet.api.economy import Usage, UsageSum
    from ainet.cli.command import Options


def usage_words(found: Usage, _: Options | None = None) -> str:
    """Return what devices did, for people."""
    lines = [f"{found.problem}\n"] if found.problem else []
    of = "today" if found.days == 1 else f"in the last {found.days} days"
    if not found.sums:
        lines.append(f"Nothing was done {of}.")
    else:
        columns = _COLUMNS[found.by]
        # Columns in which there is nothing are left out.
        shown = [one for one in _AMOUNTS if any(amount(one, each) for each in found.sums)]
        rows = [(*(_key(name, each) for name in columns), *(_shown(one, each) for one in shown)) for each in found.sums]
        lines.append(table([*columns, *shown], rows))
    if found.away:
        lines.append(f"What {', '.join(found.away)} did since it was here last is told when it returns.")
    return "\n".join(lines)


_COLUMNS: dict[economy.UsageBy, tuple[str, ...]] = {
    "peer": ("worked", "for"),
    "model": ("model",),
    "day": ("day",),
}
_FIELDS = {"for": "asked"}
#: Headings, and where their amounts stand.
_AMOUNTS = {
    "time": "seconds",
    "answers": "answers",
    "tokens read": "prompt_tokens",
    "tokens written": "generated_tokens",
    "layer tokens": "layer_tokens",
    "sent": "sent",
    "handed on": "relayed",
    "kept": "kept",
}


def amount(heading: str, one: UsageSum) -> float:
    """Return the amount under a heading."""
    return float(getattr(one, _AMOUNTS[heading]))


def _key(heading: str, one: UsageSum) -> str:
    return getattr(one, _FIELDS.get(heading, heading)) or "–"


def _shown(heading: str, one: UsageSum) -> str:
    found = amount(heading, one)
    if heading == "time":
        return show_seconds(found)
    return show_bytes(found) if heading in ("sent", "handed on", "kept") else f"{found:.0f}"


COMMANDS: tuple[Command, ...] = (
    verb_command(
        economy.usage,
        usage_words,
        days=count,
        description="Show what your devices did, in tokens and in time of the device that worked, and for whom.",
    ),
)
