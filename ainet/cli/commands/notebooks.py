"""Notebooks that several devices edit."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.cli import tables
from ainet.cli.command import Command, Options, find_node, report
from ainet.cli.parser import only_json

if TYPE_CHECKING:
    import argparse


def _share_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the notebook."""
    parser.description = "Share a notebook, live. Without one, list what is shared."
    default = "this one" if kernel else "none: list what is shared"
    parser.add_argument("notebook", metavar="NOTEBOOK", nargs="?", help=f"its path ({default})")
    parser.add_argument("--name", help="what the others call it (default: the file's name)")
    parser.add_argument(
        "--with",
        dest="audience",
        metavar="NAME",
        action="append",
        default=[],
        help="a member, a contact, or `swarm` for all members (default); may be repeated",
    )
    parser.add_argument("--read-only", action="store_true", help="let the others read it only")
    if kernel:
        parser.add_argument("--list", action="store_true", help="list what is shared")
    else:
        parser.set_defaults(list=False)
    only_json(parser, kernel)


def _unshare_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the share."""
    parser.add_argument("name", metavar="NAME", help="its name")
    only_json(parser, kernel)


def _open_notebook_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the share and the file."""
    parser.description = "Open a notebook that another device shares, as a file of this Jupyter server."
    parser.add_argument("name", metavar="NAME", help="its name")
    parser.add_argument("--as", dest="path", metavar="PATH", help="the file (default: NAME.ipynb)")
    only_json(parser, kernel)


def _share(options: Options) -> int:
    # Jupyter's servers tell their kernels which notebook they belong to.
    path = options.notebook or (os.environ.get("JPY_SESSION_NAME") if options.in_kernel else None)
    with contextlib.suppress(OSError, ValueError):  # a path that cannot be looked at: the node says so
        if path is not None and Path(path).exists():
            path = str(Path(path).absolute())
    with find_node(options) as node:
        if options.list or path is None:
            report(options, node.notebooks(), tables.notebooks)
            return 0
        shared = node.share(path, options.name, read_only=options.read_only, audience=options.audience)

    def show(shared: dict[str, Any]) -> str:
        return f"{shared['path']} is shared with {', '.join(shared['with'])}. There: ainet open {shared['name']}"

    report(options, shared, show)
    return 0


def _unshare(options: Options) -> int:
    with find_node(options) as node:
        report(
            options, node.unshare(options.name), "{name} is shared no more. The others keep their copies.".format_map
        )
    return 0


def _open(options: Options) -> int:
    with find_node(options) as node:
        opened = node.open_notebook(options.name, options.path)
    undone = "Your changes are undone: it is shared for reading. Copy it to change it."
    may = undone if opened["read_only"] else "Changes go both ways."
    report(options, opened, lambda opened: f"{opened['name']} is {opened['path']} here. {may}")
    return 0


COMMANDS = (
    Command("share", "share a notebook, live", _share_options, _share),
    Command("unshare", "stop sharing a notebook", _unshare_options, _unshare),
    Command("open", "open a notebook that another device shares", _open_notebook_options, _open),
)
