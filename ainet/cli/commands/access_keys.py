"""Keys of the model API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ainet.api import access_keys as verbs
from ainet.cli.command import Command, Options, find_node, report
from ainet.cli.parser import count, days, only_json
from ainet.cli.tables import table
from ainet.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from ainet.api.access_keys import AccessKey, NewKey

ACTIONS = ("list", "create", "revoke")


def _options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.description = (
        "Give programs and people keys that open the model API (OpenAI's, at /ainet/v1) and nothing else: no "
        "notebooks, no files, no documents of yours. A key is shown once, and kept as a hash."
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument("name", metavar="NAME", nargs="?", help="what the key is called")
    parser.add_argument(
        "--models", metavar="NAMES", help="the models that it opens, with commas between (default: all)"
    )
    parser.add_argument(
        "--tokens-per-day", metavar="N", type=count, help="most tokens of prompts and answers in a day (default: any)"
    )
    parser.add_argument("--expires", metavar="TIME", type=days, help="after which time it opens nothing, such as 30d")
    parser.add_argument("--may-buy", action="store_true", help="let it ask for answers that are bought of contacts")
    only_json(parser, kernel)


def _keys(options: Options) -> int:
    if options.action != "list" and options.name is None:
        raise UsageError(f"Name the key: ainet keys {options.action} NAME.")
    with find_node(options) as node:
        if options.action == "create":
            names = [one.strip() for one in (options.models or "").split(",") if one.strip()]
            made = node.call(
                verbs.create_access_key,
                options.name,
                models=names,
                tokens_per_day=options.tokens_per_day,
                expires_in=options.expires,
                may_buy=options.may_buy,
            )
            report(options, made, created)
        elif options.action == "revoke":
            gone = node.call(verbs.revoke_access_key, options.name)
            report(options, gone, lambda key: f"{key.name} opens nothing any more.")
        else:
            report(options, node.call(verbs.access_keys), listed)
    return 0


def created(made: NewKey) -> str:
    """Return a new key in words."""
    return (
        f"{made.key}\n\nThis key of {made.opens.name} opens {_opened(made.opens)}, and is not shown again. "
        "Programs take it as their API key."
    )


def listed(keys: list[AccessKey]) -> str:
    """Return all keys as a table."""
    if not keys:
        return "There are no keys. `ainet keys create NAME` makes one."
    rows = [
        (
            key.name,
            ", ".join(key.models) or "all models",
            f"{key.used_today} of {key.tokens_per_day}" if key.tokens_per_day is not None else f"{key.used_today}",
            "yes" if key.may_buy else "no",
            _day(key.expires, "never"),
            _day(key.last_used, "never"),
        )
        for key in keys
    ]
    return table(("key", "opens", "tokens today", "may buy", "expires", "last used"), rows)


def _opened(key: AccessKey) -> str:
    parts = [", ".join(key.models) if key.models else "all models"]
    if key.tokens_per_day is not None:
        parts.append(f"for {key.tokens_per_day} tokens a day")
    if key.expires is not None:
        parts.append(f"until {_day(key.expires, '')}")
    return " ".join(parts)


def _day(moment: float | None, never: str) -> str:
    return never if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


COMMANDS = (Command("keys", "give programs keys to the model API, or show which there are", _options, _keys),)
