"""Balances with other owners' devices, the ledger behind them, and gifts."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from ainet.api import ledger
from ainet.cli.command import Command, find_node, print_json, report, verb_command
from ainet.cli.parser import count
from ainet.cli.tables import table
from ainet.cli.terminal import say
from ainet.economy.words import span

if TYPE_CHECKING:
    import argparse

    from ainet.api.ledger import Balances, Given, LedgerEntry, LedgerRows, PairBalance, Verified
    from ainet.cli.command import Options


def balance_words(found: Balances, options: Options | None = None) -> str:
    """Return the accounts with all contacts, a sentence each."""
    lines = [found.problem] if found.problem else []
    for one in found.accounts:
        lines.append(_account_words(one))
        if options is not None and options.why:
            lines.append(_why(one))
    if found.strangers_s:
        left = _amount(found.strangers_left_s, round(found.strangers_left_s))
        lines.append(f"Strangers may have {left} now, of {span(found.strangers_s)} a day, all together.")
    return "\n".join(lines) or "Nothing was bought or sold yet. `ainet offers` shows what contacts sell."


def _account_words(one: PairBalance) -> str:
    had = _amount(one.had_s, one.had)
    gave = _amount(one.gave_s, one.gave)
    left = _amount(one.left_s, one.left)
    words = f"You had {had} of {one.peer}, and {one.peer} {gave} of yours; it may have {left} now."
    return f"{words} {one.lost:,} credits were not acknowledged." if one.lost else words


def _why(one: PairBalance) -> str:
    """Return how it comes that a contact may have what it may have."""
    parts = [
        ("it could save up", _amount(one.most_s, round(one.most_s))),
        ("it had", f"{one.gave:,} credits"),
        ("and did not acknowledge", f"{one.lost:,}"),
        ("it gave", f"{one.had:,}"),
        ("you gave it", f"{one.gifts_given:,}"),
        ("need not be given back, as time went by", f"{one.forgiven:,}"),
    ]
    words = "; ".join(f"{what} {amount}" for what, amount in parts if amount not in ("0", "nothing"))
    return f"  why: {words}."


def _amount(seconds: float, credits_: int) -> str:
    if not credits_:
        return "nothing"
    return span(seconds) if seconds else f"{credits_:,} credits"


def rows_words(found: LedgerRows) -> str:
    """Return rows of the ledger as a table."""
    lines = [found.problem] if found.problem else []
    if not found.rows:
        return "\n".join([*lines, "Nothing was bought, sold or given in this time."])
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.time)),
            one.peer,
            _what(one),
            one.model,
            f"{one.prompt_tokens} + {one.generated_tokens}" if one.prompt_tokens is not None else None,
            f"{one.price:.2f}" if one.price is not None else None,
            f"{one.credits:,}",
            f"{one.lost:,}" if one.lost else None,
        )
        for one in found.rows
    ]
    return "\n".join([*lines, table(("time", "with", "what", "model", "tokens", "price", "credits", "lost"), rows)])


def _what(one: LedgerEntry) -> str:
    if one.kind == "session":
        return "bought" if one.is_own else "sold"
    if one.kind == "recovered":
        return "known again"
    words = f"{one.kind} {'given' if one.is_own else 'received'}"
    return f"{words} for {one.note}" if one.note else words


def verified_words(found: Verified) -> str:
    """Return what a check has found, for people."""
    lines = [f"{f'Row {one.row}' if one.row else 'The ledger'}: {one.words}." for one in found.problems]
    if not lines:
        lines = [f"Everything agrees: {found.rows} rows, every signature and every sum."]
    if found.compared:
        lines.append(f"Compared with {', '.join(found.compared)}.")
    if found.unreached:
        lines.append(f"Not reached: {', '.join(found.unreached)}.")
    return "\n".join(lines)


def given_words(found: Given, _: Options) -> str:
    return f"{found.peer} may have {span(found.seconds)} more of this device."


def _ledger_options(parser: argparse.ArgumentParser, _kernel: bool) -> None:
    parser.description = "Show what was bought, sold and given; check every row of it; or export it."
    parser.add_argument(
        "action", choices=("show", "verify", "export"), nargs="?", default="show", help="(default: show)"
    )
    parser.add_argument("--days", metavar="N", type=count, default=30, help="of this number of days (default: 30)")
    parser.add_argument("--csv", action="store_true", help="export as CSV instead of JSON lines")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _ledger(options: Options) -> int:
    with find_node(options) as node:
        if options.action == "verify":
            verified = node.call(ledger.verify)
            report(options, verified, verified_words)
            return 1 if verified.problems else 0
        found = node.call(ledger.ledger, options.days)
    if options.action == "export":
        say(_exported(found.rows, as_csv=options.csv), end="")
        if found.problem:
            say(found.problem, to=sys.stderr)
    elif options.json:
        print_json(found)
    else:
        say(rows_words(found))
    return 0


def _exported(rows: list[LedgerEntry], *, as_csv: bool) -> str:
    """Return rows as CSV with a heading, or as JSON lines."""
    plain = [msgspec.to_builtins(one) for one in rows]
    if not as_csv:
        return "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in plain)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(ledger.LedgerEntry)])
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


COMMANDS: tuple[Command, ...] = (
    verb_command(ledger.balance, balance_words),
    Command("ledger", ledger.ledger.help, _ledger_options, _ledger),
    verb_command(ledger.give, given_words),
)
