"""A subcommand: its options, once for the command line and for the magics, and what it does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.client.client import NodeClient
from ainet.config import default_data_dir
from ainet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Parameters
    ----------
    name
        What is typed.
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
    return NodeClient.find(data_dir(options))


def report(options: Options, found: Any, words: Callable[[Any], str]) -> None:
    """Print what was found: as JSON, or in words."""
    if options.json:
        print_json(found)
    else:
        print(words(found))


def print_json(found: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(found, ensure_ascii=False))


def read(name: str) -> str:
    """Return what a file holds, or standard input for ``-``; raises `UsageError` when it cannot be read."""
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{name} cannot be read: {exc}.") from exc
