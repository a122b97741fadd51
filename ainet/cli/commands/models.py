"""Asking models, and what becomes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.api import models
from ainet.api.generate import Message, Progress, Text
from ainet.api.models import ModelSettings
from ainet.cli.command import Command, Options, find_node, print_json, read, report
from ainet.cli.parser import count, number, only_json
from ainet.cli.progress import ProgressLine
from ainet.cli.tables import bytes_or_dash, shortened, table
from ainet.cli.terminal import check_text, escaped, read_input, say
from ainet.client.answer import Answer, layer_range
from ainet.client.client import whole_path
from ainet.errors import AinetError, UsageError
from ainet.units import show_bytes

if TYPE_CHECKING:
    import argparse

    from ainet.api.models import ListedModel, Plan

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
    "json_schema_loose",
)


#: Columns that a table of models may have.
WIDTH = 100
#: Of options whose value is a text, since a shell's and a magic's line cannot hold the end of a line.
ESCAPES = "; \\n, \\t, \\u2026 and \\\\ mean what they do in Python"


def _ask_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
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
    if kernel:
        parser.add_argument("--to", metavar="VAR", help="also put the text of the answer into this variable")
    only_json(parser, kernel)


def _plan_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what is planned for."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="the model (default: the node's)")
    parser.add_argument("--stages", metavar="N", type=count, help="split the model into that many stages")
    parser.add_argument(
        "--what-if", metavar="FILE", help="plan for the devices that this file (JSON) describes, not for those here"
    )
    only_json(parser, kernel)


def _unload_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="the model (default: all)")
    only_json(parser, kernel)


def sampling(options: Options) -> dict[str, Any]:
    """Return `ask`'s options as `NodeClient.generate` takes them."""
    found = {name: getattr(options, name) for name in SAMPLING}
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
        say(answer.footer(), to=sys.stderr)
    return 130 if interrupted else 0


def what_if(options: Options) -> list[dict[str, Any]] | None:
    """Return the devices that `plan --what-if` names, if it does."""
    if options.what_if is None:
        return None
    try:
        found = json.loads(Path(options.what_if).expanduser().read_text())
        return list(found["devices"])
    except OSError as exc:
        raise UsageError(f"{options.what_if} cannot be read: {exc.strerror}.") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise UsageError(
            f"{options.what_if} does not describe devices; it must be JSON: " + '{"devices": [{"name": …}, …]}.'
        ) from exc


def plan_words(found: Plan) -> str:
    """Return a plan for people."""
    rows = [
        (stage.name, layer_range(stage.first_layer, stage.last_layer), show_bytes(stage.memory), stage.reason)
        for stage in found.stages
    ]
    seconds = found.seconds
    predicted = f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    heading = f"{found.name}, {found.n_ctx} tokens of context, about {predicted} a token"
    left_out = [f"Without {one.name}: {one.reason}." for one in found.left_out]
    return "\n".join([heading, "", table(("node", "layers", "memory", "reason"), rows), "", found.why, *left_out])


def _plan(options: Options) -> int:
    with find_node(options) as node:
        report(options, node.plan(options.model, options.stages, what_if(options)), plan_words)
    return 0


def model_words(found: list[ListedModel]) -> str:
    """Return the models for people; the members that have one make a column when there are any."""
    if not found:
        return "No models were found. Name a GGUF file by its path, or one on Hugging Face as hf:org/repo/file.gguf."
    headings = ["model", "size", "architecture", "kind", "layers", "cuts", "where"]
    rows: list[list[object]] = [
        [
            entry.name,
            bytes_or_dash(entry.size),
            shortened(entry.architecture or "", 12),
            entry.quantisation,
            entry.layers,
            "damaged" if entry.error else (entry.cuts or "").partition(":")[0].replace("multiples of ", "×"),
            shortened(entry.where.partition(" (")[0], 20),
        ]
        for entry in found
    ]
    if _width(table(headings, rows)) > WIDTH:  # names are wanted whole, to be typed
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    longest = max(len(entry.name) for entry in found)
    if (too_much := _width(table(headings, rows)) - WIDTH) > 0:
        rows = [[shortened(str(name), longest - too_much), *rest] for name, *rest in rows]
    doubtful = any(entry.error or (entry.cuts or "").startswith("no:") for entry in found)
    reasons = "\n\nWhy, and all else about one: ainet models NAME" if doubtful else ""
    return table(headings, rows) + reasons


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def model_details(entry: ListedModel) -> str:
    """Return all that is known of a model."""
    settings = entry.settings or ModelSettings()
    parameters = ", ".join(f"{name} {json.dumps(value)}" for name, value in settings.parameters.items())
    lines = [
        ("file", entry.path),
        ("where", entry.where),
        ("members", ", ".join(entry.members)),
        ("size", bytes_or_dash(entry.size)),
        ("architecture", entry.architecture),
        ("quantisation", entry.quantisation),
        ("licence", entry.licence),
        ("layers", entry.layers),
        ("can be cut", entry.cuts),
        ("error", entry.error),
        ("digest", entry.digest),
        ("parameters", parameters),
        *(("note", note) for note in settings.notes),
        ("instructions", settings.system),
        ("template", settings.template),
    ]
    return "\n".join([entry.name, *(f"  {name:13} {_indented(str(value))}" for name, value in lines if value)])


def _indented(text: str) -> str:
    return text.strip("\n").replace("\n", "\n" + " " * 16)


def _models_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="tell all about this one")
    only_json(parser, kernel)


def _models(options: Options) -> int:
    with find_node(options) as node:
        found = node.call(models.models, whole_path(options.model) if options.model else None)
    report(options, found, model_words if options.model is None else lambda found: model_details(found[0]))
    return 0


def _unload(options: Options) -> int:
    with find_node(options) as node:
        unloaded = node.unload(options.model)
    if options.json:
        print_json({"unloaded": unloaded})
    else:
        say(f"Unloaded: {', '.join(unloaded)}." if unloaded else "Nothing was loaded.")
    return 0


COMMANDS = (
    Command("ask", "ask a model", _ask_options, _ask),
    Command("plan", models.plan.help, _plan_options, _plan),
    Command("models", models.models.help, _models_options, _models),
    Command("unload", models.unload.help, _unload_options, _unload),
)
