"""Asking a model, with or without what the owner's files say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.api import context
from ainet.api.generate import Message, Progress, Text
from ainet.cli.command import Command, Options, find_node, print_json, read, report
from ainet.cli.parser import count, number, only_json, seconds
from ainet.cli.progress import ProgressLine
from ainet.cli.terminal import check_text, escaped, read_input, say
from ainet.client.answer import Answer
from ainet.client.cited import below_words, is_elsewhere, source_words
from ainet.errors import AinetError, UsageError

if TYPE_CHECKING:
    import argparse

#: Names of `ask`'s options that go to the node as they are.
SAMPLING = (
    "model",
    "stages",
    "private",
    "seller",
    "budget",
    "strangers",
    "raw",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "max_tokens",
    "stop",
    "json_schema_loose",
)
#: All that was added.
AUTO = "auto"
#: Of options whose value is a text, since a shell's and a magic's line cannot hold the end of a line.
ESCAPES = "; \\n, \\t, \\u2026 and \\\\ mean what they do in Python"


def ask_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add the question and how it is answered."""
    parser.add_argument("text", metavar="TEXT", nargs="*", help="the question")
    parser.add_argument("--model", metavar="NAME", help="name, path or hf:org/repo/file of the model")
    parser.add_argument("--stages", metavar="N", type=count, help="split the model into that many stages")
    parser.add_argument("--temperature", metavar="T", type=number, help="0 always takes the likeliest token")
    parser.add_argument("--top-k", metavar="K", type=int, help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", metavar="P", type=number, help="draw from the likeliest tokens of probability P")
    parser.add_argument("--min-p", metavar="P", type=number, help="least probability, relative to the likeliest token")
    parser.add_argument("--repeat-penalty", metavar="R", type=number, help="above 1: repeats become less likely")
    often = "above 0: a token becomes less likely with each time that it was said"
    parser.add_argument("--frequency-penalty", metavar="P", type=number, help=often)
    parser.add_argument("--presence-penalty", metavar="P", type=number, help="the same, once, if it was said at all")
    parser.add_argument("--seed", metavar="N", type=int, help="the same seed draws the same tokens")
    parser.add_argument("--max-tokens", metavar="N", type=count, help="most tokens of the answer (default: 256)")
    parser.add_argument(
        "--stop", metavar="TEXT", type=escaped, action="append", help=f"end before this text{ESCAPES}; may be repeated"
    )
    parser.add_argument("--grammar", metavar="FILE", help="GBNF grammar that the answer must follow")
    parser.add_argument("--json-schema", metavar="FILE", help="JSON schema that the answer must follow")
    loose = "pass over what cannot be promised of the schema, and say what"
    parser.add_argument("--json-schema-loose", action="store_const", const=True, help=loose)
    parser.add_argument(
        "--system", metavar="TEXT", type=escaped, help=f"instructions that precede the conversation{ESCAPES}"
    )
    # None, so that an option that was not given does not override the node's default.
    parser.add_argument("--raw", action="store_const", const=True, help="continue TEXT as it is: no chat template")
    parser.add_argument(
        "--context",
        metavar="WHERE",
        help=f"let passages of your documents go along: {AUTO} (of all that were added), a folder or file, "
        "DEVICE: or DEVICE:PATH, or none",
    )
    parser.add_argument(
        "--private",
        action="store_const",
        const=True,
        help="let no other device see the question or the answer: first and last layers stay here",
    )
    parser.add_argument(
        "--from",
        dest="seller",
        metavar="NAME",
        help="buy the answer from this contact, who then reads the conversation; anyone: from the best one",
    )
    budget = "most time of the device that works, such as 20m (half an hour, where nothing is said); with --from"
    parser.add_argument("--budget", metavar="TIME", type=seconds, help=budget)
    strangers = "also ask devices on the local network of which nothing is known; with --from anyone, or HOST:PORT"
    parser.add_argument("--strangers", action="store_true", help=strangers)
    parser.add_argument("--quote", action="store_true", help="show the passages that answer, and ask no model")
    if kernel:
        parser.add_argument(
            "--cells", metavar="N", type=count, help="let the last N cells go along, with what they returned"
        )
        parser.add_argument("--to", metavar="VAR", help="also put the text of the answer into this variable")
    only_json(parser, kernel)


def sampling(options: Options) -> dict[str, Any]:
    """Return `ask`'s options as `NodeClient.generate` takes them."""
    if options.strangers and options.seller is None:
        raise UsageError("`--strangers` says who may be asked: write `--from anyone`, or `--from HOST:PORT`, with it.")
    if options.budget is not None and options.seller is None:
        raise UsageError(
            "`--budget` is for what is bought: write whom to ask with it, `--from NAME` or `--from anyone`."
        )
    found = {name: getattr(options, name) for name in SAMPLING}
    found["context"] = where(options)
    if options.grammar is not None:
        found["grammar"] = read(options.grammar)
    if options.json_schema is not None:
        try:
            found["json_schema"] = json.loads(
                read(options.json_schema), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
            )
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"{options.json_schema} is not JSON: {exc}.") from exc
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def conversation(options: Options, question: str) -> list[Message]:
    """Return the messages of a single question."""
    system = [Message("system", options.system)] if options.system else []
    return [*system, Message("user", question)]


def _ask(options: Options) -> int:
    question = " ".join(options.text)
    check_text("The question", question)
    if not options.text or question == "-":
        if sys.stdin.isatty():
            raise UsageError("ask what? Write the question behind `ainet ask`, or send it to its standard input.")
        question = read_input()
    if options.quote:
        report(options, quoted(options, question), quote_words)
        return 0
    given = sampling(options)
    answer = Answer()
    progress = ProgressLine()
    interrupted = False
    progress.begin()
    with find_node(options) as node:
        events = node.generate(conversation(options, question), **given)
        try:
            for event in events:
                answer.add(event)
                if isinstance(event, Progress):
                    progress.show(event, amid=bool(answer.text))
                elif isinstance(event, Text) and not options.json:
                    progress.clear()
                    say(event.text, end="")
        except KeyboardInterrupt:
            interrupted = True
            answer.cut_off()
        except AinetError:
            if answer.text and not options.json:
                say()
            raise
        finally:
            events.close()
            progress.clear()
    if options.json:
        print_json(answer.to_dict())
    else:
        say()
        if answer.passages:
            say(f"\n{below_words(answer)}")
        say(answer.footer(), to=sys.stderr)
    return 130 if interrupted else 0


def where(options: Options) -> str | None:
    """Return whose passages go along, as the node takes it: ``auto``, a whole path, or None."""
    given: str | None = options.context
    if given in (None, "none"):
        return None
    if given == AUTO:
        return AUTO
    if is_elsewhere(given):
        return given
    path = Path(given).expanduser()
    if not path.exists():
        raise UsageError(f"{given} is no folder or file. For all your documents, write --context {AUTO}.")
    return str(path.resolve())


def quoted(options: Options, question: str) -> context.PassagesFor:
    """Return the passages that answer a question; for `ask --quote`."""
    place = where(options)
    with find_node(options) as node:
        return node.call(context.quote, question, None if place == AUTO else place)


def quote_words(found: context.PassagesFor) -> str:
    """Return passages for people."""
    if not found.results:
        return "\n".join(["Nothing in your documents answers that.", *context.unasked_words(found.unasked)])
    return "\n\n".join([*source_words(found.results, whole=True), *context.unasked_words(found.unasked)])


COMMANDS = (Command("ask", "ask a model", ask_options, _ask),)
