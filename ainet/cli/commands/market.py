"""Selling to contacts, and what they sell."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from ainet.api import incentives, market
from ainet.cli.command import Command, find_node, report, verb_command
from ainet.cli.parser import count, number
from ainet.cli.tables import table
from ainet.economy.words import span
from ainet.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from ainet.api.incentives import Earnings, WantState
    from ainet.api.market import Offers, SellingState
    from ainet.cli.command import Options

OFF = "off"


def _sell_options(parser: argparse.ArgumentParser, _kernel: bool) -> None:
    parser.description = (
        "Let contacts have answers of this device: what it owes them, and beyond that an allowance that refills each "
        "day. Your own questions come first, always."
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", help="what is sold (default: your model), or `off`")
    parser.add_argument(
        "--max-load", metavar="PART", default="50%", help="part of the time that others may have (50%%)"
    )
    parser.add_argument("--hours", metavar="FROM-TO", default="always", help="hours of the day, such as 22-7")
    price = "auto: by load (default), or by what the work is multiplied: 1 is minute for minute"
    parser.add_argument("--price", metavar="PRICE", default="auto", help=price)
    allow = "time of this device that each contact may have in a day beyond what it gave (30m)"
    parser.add_argument("--allow", metavar="TIME", default="30m", help=allow)
    strangers = "also let devices of which nothing is known have answers: all together 10 minutes of this device a day"
    parser.add_argument("--strangers", action="store_true", help=strangers)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _sell(options: Options) -> int:
    is_off = OFF in options.models
    if is_off and len(options.models) > 1:
        raise UsageError("`sell off` sells nothing more: it takes no models.")
    with find_node(options) as node:
        if is_off:
            found = node.call(market.stop_selling)
        else:
            names = ("models", "max_load", "hours", "price", "allow", "strangers")
            found = node.call(market.sell, **{name: getattr(options, name) for name in names})
    report(options, found, selling_words)
    return 0


def selling_words(found: SellingState) -> str:
    """Return what this device sells, for people."""
    going = f" {found.sessions} sessions go on to their end." if found.sessions else ""
    going += f" {found.waiting} wait for a place." if found.waiting else ""
    if not found.is_on:
        return found.problem or f"This device sells nothing.{going} `ainet sell` lets contacts have answers of it."
    rows = [(one.name, f"{one.price:.2f}", f"{one.tokens_per_s:.1f}", one.reason) for one in found.models]
    terms = f"{span(found.allow_s)} a day for each contact, at most {found.max_load:.0%} of the time"
    if found.strangers_s:
        terms += f", {span(found.strangers_s)} a day for all strangers together"
    hours = "" if found.hours == "always" else f", from {found.hours.replace('-', ' to ')} o'clock"
    note = f"\n{found.note}" if found.note else ""
    listed = table(("model", "price", "tokens/s", "why"), rows)
    return f"{listed}\n{terms}{hours}. Your own questions come first.{going}{note}"


def offers_words(found: Offers, options: Options | None = None) -> str:
    """Return what contacts sell, for people."""
    lines = []
    if found.offers:
        rows = [
            (
                one.seller,
                one.model,
                f"{one.price:.2f}",
                "at once" if one.starts_in_s < 1 else f"in {span(one.starts_in_s)}",
                f"{one.tokens_per_s:.1f}",
                f"{one.trust:.0%}",
                f"{span(one.left_s)} of {span(one.daily_s)} a day",
            )
            for one in found.offers
        ]
        lines.append(table(("from", "model", "price", "starts", "tokens/s", "trust", "left"), rows))
    if options is not None and options.why:
        lines += [f"{one.seller} asks {one.price:.2f} for {one.model}: {one.reason}." for one in found.offers]
        trusted = dict.fromkeys((one.seller, one.trust, one.trust_reason) for one in found.offers)
        lines += [f"{seller} is trusted to {trust:.0%}: {reason}." for seller, trust, reason in trusted]
    lines += [f"{one.seller}: {one.reason}" for one in found.others]
    return "\n".join(lines) or "There are no contacts. `ainet introduce` makes the first one."


def _want_options(parser: argparse.ArgumentParser, _kernel: bool) -> None:
    parser.description = (
        "Promise a bonus, as time of this device, to whoever first answers 20 questions of yours with a model, right "
        "and fast enough. Contacts learn of it when they are asked for prices."
    )
    parser.add_argument("model", metavar="MODEL", help="the model's name")
    parser.add_argument("--speed", metavar="N", type=number, default=0.0, help="tokens a second, at least (0)")
    parser.add_argument("--bonus", metavar="TIME", default="1h", help="time of this device (1h)")
    parser.add_argument("--until", metavar="DATE", help="the last day, such as 2027-03-31 (default: in four weeks)")
    parser.add_argument("--no", action="store_true", help="take the promise back")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _want(options: Options) -> int:
    until = options.until or (datetime.date.today() + datetime.timedelta(weeks=4)).isoformat()
    with find_node(options) as node:
        if options.no:
            found = node.call(incentives.want_no_more, options.model)
        else:
            found = node.call(incentives.want, options.model, options.speed, options.bonus, until)
    report(options, found, wants_words)
    return 0


def wants_words(found: WantState) -> str:
    """Return what this device promises, for people."""
    rows = [
        (one.model, f"{one.speed:g}", span(one.seconds), one.until, f"{one.answers} of {one.needed}")
        for one in found.wants
    ]
    return table(("model", "tokens/s", "bonus", "until", "answers"), rows) if rows else "You promise nothing."


_WHY: dict[incentives.MissedReason, str] = {
    "model": "for {}, which is not sold here",
    "length": "of {}: longer than what is sold",
    "hour": "at {}, when nothing is sold",
    "place": "when all places were taken",
    "allowance": "of contacts that had had their allowance",
}


def earn_words(found: Earnings, _: Options | None = None) -> str:
    """Return what more would have been used, and what is promised, for people."""
    of = "today" if found.days == 1 else f"in the last {found.days} days"
    if found.missed:
        lines = [f"Not answered {of}:"]
        lines += [
            f"  {one.times} question{'' if one.times == 1 else 's'} {_WHY[one.reason].format(one.what)}"
            for one in found.missed
        ]
    else:
        lines = [f"Nothing was asked for in vain {of}."]
    for one in found.wanted:
        speed = f" with {one.speed:g} tokens/s" if one.speed else ""
        lines.append(f"{one.peer} gives {span(one.seconds)} for {one.model}{speed}, until {one.until}.")
    return "\n".join(lines)


COMMANDS: tuple[Command, ...] = (
    Command("sell", market.sell.help, _sell_options, _sell),
    verb_command(market.selling, lambda found, _: selling_words(found)),
    verb_command(
        market.offers,
        offers_words,
        description="Ask contacts what they sell now. A price of 1 is minute for minute of the device that works.",
    ),
    Command("want", incentives.want.help, _want_options, _want),
    verb_command(incentives.earn, earn_words, days=count),
)
