"""Text for a terminal: what a model or another device said is shown, and nothing in it is carried out."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from ainet.errors import UsageError
from ainet.printable import visible

if TYPE_CHECKING:
    from typing import TextIO

_NAMED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_ESCAPE = re.compile(r"\\([ntr\\]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})")


def fitting(text: str, stream: TextIO) -> str:
    """Return what the stream can show of a text: on a terminal without commands, and with its letters alone.

    What is piped or redirected stays as it is, but for letters that the stream's encoding lacks.
    """
    if stream.isatty():
        text = visible(text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def say(text: object = "", *, end: str = "\n", to: TextIO | None = None) -> None:
    """Print a text on standard output, or elsewhere, at once."""
    stream = sys.stdout if to is None else to
    print(fitting(str(text), stream), end=end, file=stream, flush=True)


def read_input() -> str:
    """Return all of standard input; raises `UsageError` where it is not text."""
    if not hasattr(sys.stdin, "buffer"):  # a notebook's, which has text alone
        return sys.stdin.read()
    raw = sys.stdin.buffer.read()
    encoding = sys.stdin.encoding
    try:
        return raw.decode(encoding).removeprefix("\N{BYTE ORDER MARK}")
    except UnicodeDecodeError as exc:
        raise UsageError(
            f"Standard input is not {encoding.upper()} text: byte 0x{raw[exc.start]:02x} at position {exc.start}. "
            "Convert it first, for example with `iconv`."
        ) from exc


def check_text(what: str, text: str) -> None:
    """Raise `UsageError` for an argument with bytes that are no text; Python has put half surrogate pairs there."""
    at = next((n for n, letter in enumerate(text) if 0xDC80 <= ord(letter) <= 0xDCFF), None)
    if at is not None:
        raise UsageError(f"{what} is not UTF-8 text: byte 0x{ord(text[at]) - 0xDC00:02x} at position {at}.")


def escaped(text: str) -> str:
    r"""Return the value of an option, in which ``\n``, ``\t``, ``\u2026`` and ``\\`` mean what they do in Python.

    A backslash before anything else is a backslash.
    """
    check_text("The value", text)
    found = _ESCAPE.sub(lambda match: _NAMED.get(match[1]) or chr(int(match[1][1:], 16)), text)
    try:
        return found.encode("utf-16", "surrogatepass").decode("utf-16")  # pairs of surrogates are one letter
    except UnicodeDecodeError as exc:
        raise UsageError(f"{text!r} names half of a surrogate pair.") from exc
