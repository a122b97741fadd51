"""The options of the subcommands: one definition for the command line and for the magics.

Each function adds those of the subcommand that it is named after; `kernel` says whether a kernel is there.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, NoReturn

from ainet.errors import Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Names of `ask`'s options that go to the node as they are.
SAMPLING = (
    "model",
    "stages",
    "raw",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "seed",
    "max_tokens",
    "stop",
)


class HelpShown(Exception):
    """``--help`` or ``--version`` was given and answered."""


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of ending the process, which may be a kernel."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

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
        """Raise `UsageError`."""
        raise UsageError(f"{message}\n{self.format_usage().strip()}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raise `HelpShown`."""
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


def ticket(text: str) -> str:
    """Return the text of a ticket, if it is one and was copied whole."""
    from ainet.pairing.tickets import Ticket

    try:
        Ticket.parse(text)
    except Refused as exc:
        raise argparse.ArgumentTypeError(exc.message) from exc
    return text


def none(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add none."""


def only_json(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the output for programs alone."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def up(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what the owner decides for this node."""
    parser.description = "Start the node. Options are kept for the next start."
    parser.add_argument("--name", help="name of this device in the swarm")
    parser.add_argument("--listen", metavar="ADDR", help="address on which members may connect (default: 127.0.0.1)")
    parser.add_argument(
        "--lan",
        action=argparse.BooleanOptionalAction,
        help="accept members from the local networks, and look for them there",
    )
    parser.add_argument("--memory", metavar="SIZE", help="most memory that stages may use, such as 4GB")
    parser.add_argument("--threads", metavar="N", type=count, help="most threads that stages may use")
    parser.add_argument("--disk", metavar="SIZE", help="most disk space for tensors and shards")
    boolean = argparse.BooleanOptionalAction
    parser.add_argument("--gpu", action=boolean, help="let llama.cpp use a GPU that it was built for")
    parser.add_argument("--lend", action=boolean, help="let members borrow a Dask worker")
    if not kernel:
        parser.add_argument("--foreground", action="store_true", help="stay, for service managers; Ctrl-C stops it")
    else:
        parser.set_defaults(foreground=False)
    only_json(parser, kernel)


def logs(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add how much of the log is shown."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what is added")
    parser.add_argument("-n", "--lines", metavar="N", type=count, default=50, help="how many lines (default: 50)")
    only_json(parser, kernel)


def ask(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the question and how it is answered."""
    parser.add_argument("text", metavar="TEXT", nargs="*", help="the question")
    parser.add_argument("--model", metavar="NAME", help="name, path or hf:org/repo/file of the model")
    parser.add_argument("--stages", metavar="N", type=count, help="split the model into that many stages")
    parser.add_argument("--temperature", metavar="T", type=number, help="0 always takes the likeliest token")
    parser.add_argument("--top-k", metavar="K", type=int, help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", metavar="P", type=number, help="draw from the likeliest tokens of probability P")
    parser.add_argument("--min-p", metavar="P", type=number, help="least probability, relative to the likeliest token")
    parser.add_argument("--repeat-penalty", metavar="R", type=number, help="above 1: repeats become less likely")
    parser.add_argument("--seed", metavar="N", type=int, help="the same seed draws the same tokens")
    parser.add_argument("--max-tokens", metavar="N", type=count, help="most tokens of the answer (default: 256)")
    parser.add_argument("--stop", metavar="TEXT", action="append", help="end before this text; may be repeated")
    parser.add_argument("--grammar", metavar="FILE", help="GBNF grammar that the answer must follow")
    parser.add_argument("--json-schema", metavar="FILE", help="JSON schema that the answer must follow")
    parser.add_argument("--system", metavar="TEXT", help="instructions that precede the conversation")
    # None, so that an option that was not given does not override the node's default.
    parser.add_argument("--raw", action="store_const", const=True, help="continue TEXT as it is: no chat template")
    if kernel:
        parser.add_argument("--to", metavar="VAR", help="also put the text of the answer into this variable")
    only_json(parser, kernel)


def plan(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what is planned for."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="the model (default: the node's)")
    parser.add_argument("--stages", metavar="N", type=count, help="split the model into that many stages")
    parser.add_argument(
        "--what-if", metavar="FILE", help="plan for the devices that this file (JSON) describes, not for those here"
    )
    only_json(parser, kernel)


def invite(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add where the ticket is valid, and how long."""
    parser.add_argument("--listen", metavar="ADDR", help="where to wait for the other device (default: 127.0.0.1)")
    _lan(parser)
    parser.add_argument("--minutes", metavar="N", type=number, default=10.0, help="how long (default: 10)")
    only_json(parser, kernel)


def join(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the ticket and a name."""
    parser.add_argument("ticket", metavar="TICKET", type=ticket, help="what `ainet invite` printed on the other device")
    parser.add_argument("--name", help="name of this device in the swarm")
    _lan(parser)
    only_json(parser, kernel)


def settings(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the key and its value."""
    parser.description = "Show the settings that all members of the swarm share, or change one for all of them."
    parser.add_argument("key", metavar="KEY", nargs="?", help="model: the model that is used when none is named")
    parser.add_argument("value", metavar="VALUE", nargs="?", help="its new value")
    parser.add_argument("--unset", action="store_true", help="take the setting back")
    only_json(parser, kernel)


def share(parser: argparse.ArgumentParser, kernel: bool) -> None:
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


def unshare(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the share."""
    parser.add_argument("name", metavar="NAME", help="its name")
    only_json(parser, kernel)


def open_notebook(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the share and the file."""
    parser.description = "Open a notebook that another device shares, as a file of this Jupyter server."
    parser.add_argument("name", metavar="NAME", help="its name")
    parser.add_argument("--as", dest="path", metavar="PATH", help="the file (default: NAME.ipynb)")
    only_json(parser, kernel)


def accept(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the ticket."""
    parser.description = "Become contacts with a device of another owner: each pins the other's key."
    parser.add_argument("ticket", metavar="TICKET", type=ticket, help="what `ainet introduce` printed there")
    _lan(parser)
    only_json(parser, kernel)


def forget(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the contact."""
    parser.add_argument("name", metavar="NAME", help="name or node id of the contact")
    only_json(parser, kernel)


def connect(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the address."""
    parser.description = "Connect to a member at an address that this node does not know yet, and remember it."
    parser.add_argument("address", metavar="ADDRESS", help="host:port, or the https:// address of a Jupyter server")
    only_json(parser, kernel)


def remove(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the member."""
    parser.add_argument("name", metavar="NAME", help="name or node id of the member")
    only_json(parser, kernel)


def _lan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lan", action="store_true", help="do what `ainet up --lan` does, now and at each start")


def unload(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the model."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="the model (default: all)")
    only_json(parser, kernel)


def export_key(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the destination."""
    parser.description = (
        "Write the swarm's key, encrypted. The passphrase is asked for, or taken from AINET_PASSPHRASE."
    )
    parser.add_argument("file", metavar="FILE", help="where to; - is standard output")
    only_json(parser, kernel)


def import_key(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the source."""
    parser.description = "Take over an exported key. The passphrase is asked for, or taken from AINET_PASSPHRASE."
    parser.add_argument("file", metavar="FILE", help="what `ainet export-key` wrote; - is standard input")
    only_json(parser, kernel)


def client(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the size of the cluster."""
    parser.add_argument("--workers", metavar="N", type=count, help="how many workers (default: all that are lent)")
