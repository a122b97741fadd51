"""Subcommands of the magics alone: they concern the kernel's own conversation and variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ainet.cli.command import Command, Options
from ainet.cli.parser import count, no_options
from ainet.errors import UsageError

if TYPE_CHECKING:
    import argparse


def _client_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the size of the cluster."""
    parser.add_argument("--workers", metavar="N", type=count, help="how many workers (default: all that are lent)")


def _in_a_kernel(options: Options) -> int:
    raise UsageError(f"`{options.command}` needs a kernel: %ainet {options.command}")


COMMANDS = (
    Command("new", "begin a new conversation", no_options, _in_a_kernel),
    Command("client", "return a dask Client with workers that members lend", _client_options, _in_a_kernel),
)
