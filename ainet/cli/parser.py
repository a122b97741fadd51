"""Parsing what was typed, for the command line and for the magics alike, and options that several subcommands have."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, NoReturn

from ainet.errors import Refused, UsageError
from ainet.units import parse_days, parse_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence


_Subparsers = argparse._SubParsersAction


class HelpShown(Exception):
    """``--help`` or ``--version`` was given and answered."""


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of ending the process, which may be a kernel."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    @property
    def subparsers(self) -> dict[str, Parser]:
        """The parsers of the subcommands by their names; none where there are no subcommands."""
        return next((dict(action.choices) for action in self._actions if isinstance(action, _Subparsers)), {})

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the options; what is not understood is an error of the subcommand, whose usage is shown."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: Parser = getattr(options, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown


def count(text: str) -> int:
    """Return a number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def number(text: str) -> float:
    """Return a number that is one: not infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def seconds(text: str) -> float:
    """Return a time of at most a day in seconds."""
    try:
        return parse_seconds(text)
    except UsageError as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc


def days(text: str) -> float:
    """Return a time of hours or days in seconds."""
    try:
        return parse_days(text)
    except UsageError as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc


def ticket(text: str) -> str:
    """Return the text of a ticket, if it is one and was copied whole."""
    from ainet.pairing.tickets import Ticket

    try:
        Ticket.parse(text)
    except Refused as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc
    return text


def no_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add none."""


def only_json(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the output for programs alone."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_lan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lan", action="store_true", help="do what `ainet up --lan` does, now and at each start")
