"""The swarm's key."""

from __future__ import annotations

import getpass
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ainet.api import key as key_verbs
from ainet.cli.command import Command, Options, find_node, read, report
from ainet.cli.parser import only_json
from ainet.errors import UsageError

if TYPE_CHECKING:
    import argparse


def _export_key_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.description = (
        "Write the swarm's key, encrypted. The passphrase is asked for, or taken from AINET_PASSPHRASE."
    )
    parser.add_argument("file", metavar="FILE", help="where to; - is standard output")
    only_json(parser, kernel)


def _import_key_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.description = "Take over an exported key. The passphrase is asked for, or taken from AINET_PASSPHRASE."
    parser.add_argument("file", metavar="FILE", help="what `ainet export-key` wrote; - is standard input")
    only_json(parser, kernel)


def _export_key(options: Options) -> int:
    from ainet.files import write_private

    passphrase = _passphrase("Passphrase for the exported key: ", repeat=True)
    with find_node(options) as node:
        key = node.call(key_verbs.export_key, passphrase).key
    if options.file == "-":
        report(options, {"key": key}, lambda exported: exported["key"])
        return 0
    write_private(Path(options.file), key.encode())
    words = f"{options.file} holds the swarm's key. Whoever has it and the passphrase can add devices."
    report(options, {"file": str(Path(options.file).absolute())}, lambda _: words)
    return 0


def _import_key(options: Options) -> int:
    key = read(options.file)
    passphrase = _passphrase("Passphrase of the exported key: ", repeat=False)
    with find_node(options) as node:
        found = node.call(key_verbs.import_key, key, passphrase)
        report(options, found, lambda _: "This device can add and renew members now.")
    return 0


def _passphrase(prompt: str, *, repeat: bool) -> str:
    """Return the passphrase from the environment or the terminal; never from an argument that others could see."""
    named = os.environ.get("AINET_PASSPHRASE")
    if named:
        return named
    try:
        with warnings.catch_warnings():
            # Where it cannot be typed unseen, it is not asked for.
            warnings.simplefilter("error", getpass.GetPassWarning)
            typed = getpass.getpass(prompt)
            again = getpass.getpass("Once more: ") if repeat else typed
    except (EOFError, getpass.GetPassWarning, NotImplementedError) as exc:  # the last: a notebook that cannot ask
        raise UsageError(
            "There is nobody to ask for the passphrase: put it into the environment variable AINET_PASSPHRASE."
        ) from exc
    if again != typed:
        raise UsageError("The two passphrases differ.")
    return typed


COMMANDS = (
    Command("export-key", key_verbs.export_key.help, _export_key_options, _export_key),
    Command("import-key", key_verbs.import_key.help, _import_key_options, _import_key),
)
