"""A subcommand: its options, once for the command line and for the magics, and what it does."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from ainet.api.verb import Option
from ainet.cli.terminal import read_input, say
from ainet.client.client import NodeClient
from ainet.config import default_data_dir
from ainet.errors import UsageError

if TYPE_CHECKING:
    from ainet.api.verb import R, Verb


Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Parameters
    ----------
    name
        The word to type.
    help
        One line about it.
    add_options
        Adds its options to a parser; the flag says whether a kernel is there.
    run
        Does it and returns the exit status.
    """

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser, bool], None]
    run: Callable[[Options], int]


def verb_command(
    verb: Verb[..., R],
    words: Callable[[R, Options], str],
    *,
    name: str | None = None,
    description: str | None = None,
    **types: Callable[[str], Any],
) -> Command:
    """Return the subcommand for a verb; its options are the fields of the verb's request.

    Parameters
    ----------
    words
        Returns what was answered in words, for people; programs get it as JSON.
    name
        The word to type, where it is not the verb's name.
    description
        More than the verb's one line.
    types
        The functions that read the values of options, by the names of fields.
    """

    def add_options(parser: argparse.ArgumentParser, _kernel: bool) -> None:
        if description is not None:
            parser.description = description
        add_fields(parser, verb, types)
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")

    def run(options: Options) -> int:
        with find_node(options) as node:
            given = {name: getattr(options, name) for name in fields_of(verb)}
            report(options, node.call(verb, **given), lambda found: words(found, options))
        return 0

    return Command(name or verb.name.replace("_", "-"), verb.help, add_options, run)


def fields_of(verb: Verb[..., Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a verb's request by their names."""
    return {field.name: field for field in dataclasses.fields(verb.request)}  # type: ignore[arg-type]


def add_fields(parser: argparse.ArgumentParser, verb: Verb[..., Any], types: dict[str, Callable[[str], Any]]) -> None:
    """Add the fields of a verb's request: arguments where they must be given, options where they have a default."""
    hints = get_type_hints(verb.request, include_extras=True)
    for name, field in fields_of(verb).items():
        option = next(one for one in hints[name].__metadata__ if isinstance(one, Option))
        kind = next(one for one in (*get_args(hints[name]), hints[name]) if not isinstance(one, Option))
        if field.default is dataclasses.MISSING:
            parser.add_argument(name, metavar=option.metavar, type=types.get(name, str), help=option.help)
        elif kind is bool:
            parser.add_argument(f"--{option.flag or name}", dest=name, action="store_true", help=option.help)
        else:
            parser.add_argument(
                f"--{option.flag or name.replace('_', '-')}",
                dest=name,
                metavar=option.metavar,
                type=types.get(name, str),
                choices=get_args(kind) if get_origin(kind) is Literal else None,
                default=field.default,
                help=option.help,
            )


def data_dir(options: Options) -> Path:
    """Return the data directory that was named, or the default one.

    Raises
    ------
    UsageError
        It is no directory.
    """
    named: Path | None = getattr(options, "data_dir", None)
    path = named or default_data_dir().absolute()
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, not a data directory. Name another one (--data-dir, AINET_DATA_DIR).")
    return path


def find_node(options: Options) -> NodeClient:
    """Return a client of the node that the options name."""
    return NodeClient.running(data_dir(options))


def report(options: Options, found: Any, words: Callable[[Any], str]) -> None:
    """Print what was found: as JSON, or in words."""
    if options.json:
        print_json(found)
    else:
        say(words(found))


def print_json(found: Any) -> None:
    """Print one line of JSON."""
    say(json.dumps(msgspec.to_builtins(found), ensure_ascii=False))


def read(name: str) -> str:
    """Return what a file holds, or standard input for ``-``; raises `UsageError` when it cannot be read."""
    if name == "-":
        return read_input()
    try:
        return Path(name).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{name} cannot be read: {exc}.") from exc
