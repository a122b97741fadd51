"""Notebooks that several devices edit."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ainet.api import notebooks
from ainet.cli.command import Command, find_node, report, verb_command
from ainet.cli.parser import only_json
from ainet.cli.tables import table

if TYPE_CHECKING:
    import argparse

    from ainet.api.notebooks import ListedNotebook, OpenedNotebook
    from ainet.cli.command import Options


def _share_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
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


def _share(options: Options) -> int:
    # Jupyter's servers tell their kernels which notebook they belong to.
    path = options.notebook or (os.environ.get("JPY_SESSION_NAME") if options.in_kernel else None)
    with contextlib.suppress(OSError, ValueError):  # a path that cannot be looked at: the node says so
        if path is not None and Path(path).exists():
            path = str(Path(path).absolute())
    with find_node(options) as node:
        if options.list or path is None:
            report(options, node.call(notebooks.notebooks), _notebooks)
            return 0
        shared = node.call(notebooks.share, path, options.name, options.read_only, options.audience)
    words = f"{shared.path} is shared with {', '.join(shared.audience)}. There: ainet open {shared.name}"
    report(options, shared, lambda _: words)
    return 0


def _notebooks(found: list[ListedNotebook]) -> str:
    if not found:
        return "No notebooks are shared. `ainet share NOTEBOOK` shares one."
    rows = [
        (
            one.name,
            "this device" if one.own else one.by,
            ", ".join(one.audience),
            "read" if one.read_only else "edit",
            one.path,
        )
        for one in found
    ]
    return table(("notebook", "shared by", "with", "others may", "file here"), rows)


def _opened(opened: OpenedNotebook, _: Options) -> str:
    undone = "Your changes are undone: it is shared for reading. Copy it to change it."
    may = undone if opened.read_only else "Changes go both ways."
    return f"{opened.name} is {opened.path} here. {may}"


COMMANDS: tuple[Command, ...] = (
    Command("share", notebooks.share.help, _share_options, _share),
    verb_command(
        notebooks.unshare, lambda shared, _: f"{shared.name} is shared no more. The others keep their copies."
    ),
    verb_command(
        notebooks.open_notebook,
        _opened,
        name="open",
        description="Open a notebook that another device shares, as a file of this Jupyter server.",
    ),
)
