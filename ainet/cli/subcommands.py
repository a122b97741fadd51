"""All subcommands, and the parser that knows them."""

from __future__ import annotations

import argparse
from pathlib import Path

from ainet.cli.commands import (
    access_keys,
    ask,
    contacts,
    context,
    economy,
    kernel,
    key,
    ledger,
    market,
    models,
    node,
    notebooks,
    quantise,
    swarm,
)
from ainet.cli.parser import Parser
from ainet.version import __version__

#: In the order in which help shows them.
COMMANDS = tuple(
    command
    for feature in (
        node,
        ask,
        models,
        quantise,
        context,
        economy,
        market,
        ledger,
        swarm,
        notebooks,
        contacts,
        key,
        access_keys,
    )
    for command in feature.COMMANDS
)


def build_parser(prog: str, *, in_kernel: bool) -> Parser:
    """Return the parser of ``ainet`` (or ``%ainet``, with the subcommands that need a kernel)."""
    common = Parser(add_help=False)
    common.add_argument(
        "--data-dir",
        metavar="DIR",
        type=lambda text: Path(text).expanduser().absolute(),
        default=argparse.SUPPRESS,
        help="the node's data directory (default: AINET_DATA_DIR, or ainet in Jupyter's data directory)",
    )
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = Parser(prog=prog, description="The node of this device.", parents=[common])
    parser.set_defaults(command="status", json=False, run=node.STATUS.run, in_kernel=in_kernel)
    parser.add_argument("--version", action="version", version=f"ainet {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=not in_kernel)
    for command in (*COMMANDS, *kernel.COMMANDS) if in_kernel else COMMANDS:
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=_sentence(command.help), parents=[common]
        )
        command.add_options(subparser, in_kernel)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
