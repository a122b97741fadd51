"""Models: which there are, where their layers go, and their end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainet.api import models
from ainet.api.models import ModelSettings
from ainet.cli.command import Command, Options, find_node, print_json, report
from ainet.cli.parser import count, only_json
from ainet.cli.tables import bytes_or_dash, shortened, table
from ainet.cli.terminal import say
from ainet.client.answer import layer_range
from ainet.client.client import whole_path
from ainet.errors import UsageError
from ainet.units import show_bytes

if TYPE_CHECKING:
    import argparse

    from ainet.api.models import ListedModel, Plan

#: Columns that a table of models may have.
WIDTH = 100


def _plan_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what is planned for."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="the model (default: the node's)")
    parser.add_argument("--stages", metavar="N", type=count, help="split the model into that many stages")
    parser.add_argument(
        "--private", action="store_true", help="as for `ask --private`: both ends of the model stay here"
    )
    parser.add_argument(
        "--what-if", metavar="FILE", help="plan for the devices that this file (JSON) describes, not for those here"
    )
    only_json(parser, kernel)


def _unload_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="the model (default: all)")
    only_json(parser, kernel)


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
        found = node.plan(options.model, options.stages, what_if(options), private=options.private)
        report(options, found, plan_words)
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
    Command("plan", models.plan.help, _plan_options, _plan),
    Command("models", models.models.help, _models_options, _models),
    Command("unload", models.unload.help, _unload_options, _unload),
)
