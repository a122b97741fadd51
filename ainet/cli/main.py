"""The ``ainet`` command."""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import TYPE_CHECKING

from ainet.cli.parser import HelpShown
from ainet.cli.subcommands import build_parser
from ainet.cli.terminal import say
from ainet.errors import AinetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns
    -------
    int
        0: done, 1: failed (a message is on standard error), 2: wrong usage, 130: interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack letters
    try:
        options = build_parser("ainet", in_kernel=False).parse_args(given)
        status: int = options.run(options)
    except HelpShown:
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; Python must not complain at exit that it cannot flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UnicodeEncodeError as exc:  # bytes of an argument that are no text, which a request cannot hold
        say(f"ainet: an argument is not UTF-8 text: {exc.object!a:.60}.", to=sys.stderr)
        return 2
    except Exception as exc:
        if "--debug" in given:
            traceback.print_exc()
        elif isinstance(exc, AinetError):
            say(f"ainet: {exc.message}", to=sys.stderr)
        else:
            say(f"ainet: {type(exc).__name__}: {exc} (--debug shows where)", to=sys.stderr)
        return 2 if isinstance(exc, UsageError) else 1
    return status


if __name__ == "__main__":
    sys.exit(main())
