"""Subcommands of the magics alone: they concern the kernel's own conversation and variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from ainet.api import context
from ainet.cli.command import Command, Options
from ainet.cli.commands.ask import ask_options
from ainet.cli.parser import count, no_options
from ainet.errors import UsageError

if TYPE_CHECKING:
    import argparse


def _client_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the size of the cluster."""
    parser.add_argument("--workers", metavar="N", type=count, help="how many workers (default: all that are lent)")


def _in_a_kernel(options: Options) -> int:
    raise UsageError(f"`{options.command}` needs a kernel: %ainet {options.command}")


def _last_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what is shown."""
    parser.add_argument("--prompt", action="store_true", help="show what the model was asked, where, and why so")


def _remember_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what becomes of what is done in the notebook."""
    parser.add_argument("mode", nargs="?", choices=get_args(context.RememberMode), default="status")


def remember_words(state: context.Remembering) -> str:
    """Return whether a notebook is remembered, for people."""
    what = f"{state.items} cells and conversations of it are remembered" if state.items else "nothing of it is kept"
    does = "What is done here is remembered" if state.on else "What is done here is not remembered"
    return f"{does}; {what}. It stays on this device: %ainet remember forget deletes it."


COMMANDS = (
    Command("remember", "remember the cells and conversations of this notebook", _remember_options, _in_a_kernel),
    Command("fix", "ask what is wrong with the cell that failed last", ask_options, _in_a_kernel),
    Command("last", "show the last answer again, or how it was asked", _last_options, _in_a_kernel),
    Command("new", "begin a new conversation", no_options, _in_a_kernel),
    Command("client", "return a dask Client with workers that members lend", _client_options, _in_a_kernel),
)
