"""What the node knows of its owner's files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ainet.api import context
from ainet.api.generate import Progress
from ainet.cli.command import Command, Options, find_node, report, verb_command
from ainet.cli.parser import count, only_json
from ainet.cli.progress import ProgressLine
from ainet.cli.tables import table
from ainet.cli.terminal import check_text
from ainet.client.cited import is_elsewhere, place
from ainet.errors import UsageError
from ainet.units import show_bytes

if TYPE_CHECKING:
    import argparse

    from ainet.api.context import ContextDevice, ContextFolder, ContextState, FoundPassages
    from ainet.client.client import NodeClient

#: Seconds between two questions how far it is.
ASKED = 0.2
#: What is done within this time (seconds) needs no word of how far it is.
SOON = 1.0
ACTIONS = ("list", "status", "add", "remove", "why", "forget", "pause", "resume", "check", "rebuild")
#: Actions that need a path.
OF_PATHS = ("add", "remove", "why")
#: Lines of a passage that are shown.
SHOWN = 6


def _options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.description = (
        "Let the node know folders and files, so that `find` finds what is in them, on all your devices; with --label "
        "private, on this one only. What is ignored (.gitignore, .ainetignore), generated, binary or secret by its "
        "name or form is not read."
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument("path", metavar="PATH", nargs="?", help="the folder or file")
    parser.add_argument(
        "--label",
        choices=get_args(context.Label),
        help="who may have it: this device, your devices (default for what is new), or contacts, too",
    )
    parser.add_argument(
        "--with", metavar="CONTACT", dest="audience", action="append", default=[], help="share it with this contact"
    )
    parser.add_argument("--query", metavar="TEXT", help="with forget: the files in which these words stand")
    parser.add_argument("--wait", action="store_true", help="wait until all of it is known")
    only_json(parser, kernel)


def _context(options: Options) -> int:
    if options.action in OF_PATHS and options.path is None:
        raise UsageError(f"Name the folder or file: ainet context {options.action} PATH.")
    path = _whole(options.path) if options.path is not None else ""
    with find_node(options) as node:
        if options.action == "add":
            state = node.call(context.context_add, path, options.label, tuple(options.audience))
            state = _wait(node) if options.wait else state
        elif options.action == "remove":
            state = node.call(context.context_remove, path)
        elif options.action in ("pause", "resume"):
            state = node.call(context.context_pause, options.action == "pause")
        elif options.action == "rebuild":
            state = node.call(context.context_rebuild)
            state = _wait(node) if options.wait else state
        elif options.action == "forget":
            report(options, node.call(context.context_forget, path or None, options.query), _forgotten)
            return 0
        elif options.action == "check":
            checked = node.call(context.context_check)
            report(options, checked, lambda found: "\n".join(found.problems) or "Everything agrees.")
            return 1 if checked.problems else 0
        else:
            state = node.call(context.context)
            if options.action == "why":
                report(
                    options, [one for one in state.problems if one.path == path], lambda found: _why(path, found, state)
                )
                return 0
    report(options, state, _words)
    return 0


def _whole(path: str) -> str:
    """Return a path as the node knows it: whole, and without links; one of another device (DEVICE:PATH) as it is."""
    return path if is_elsewhere(path) else str(Path(path).expanduser().resolve())


def _wait(node: NodeClient) -> ContextState:
    """Show how far it is, until all is known."""
    progress = ProgressLine()
    begun = time.monotonic()
    try:
        while True:
            state = node.call(context.context)
            reading = [folder for folder in state.folders if folder.is_reading]
            if not reading or state.is_paused:
                return state
            one = reading[0]
            if time.monotonic() < begun + SOON:
                time.sleep(ASKED)
                continue
            progress.show(Progress(text=f"Reading {Path(one.path).name}", done=one.done, total=one.total, unit="files"))
            time.sleep(ASKED)
    finally:
        progress.clear()


def _words(state: ContextState) -> str:
    if not state.folders and not state.devices and not state.notebooks:
        return "The node knows no files yet. `ainet context add PATH` lets it know a folder."
    rows = [(one.path, _label(one), str(one.files), str(one.passages), _doing(one)) for one in state.folders]
    rows += [(f"{one.name}:", "swarm", str(one.here), str(one.passages), _missing(one)) for one in state.devices]
    rows += [
        (one.path, "private", f"{one.items} cells", "", "remembered" if one.on else "remembered no more")
        for one in state.notebooks
    ]
    lines = [table(("folder", "label", "files", "passages", "state"), rows), f"{show_bytes(state.size)} on the disk."]
    lines += [f"{_vectors(one)}" for one in state.vectors if one.left or one.owed]
    lines += [f"Vectors: {state.vectors_failed}"] if state.vectors_failed else []
    lines += [] if state.is_scrubbed else ["Words of what was removed are still on the disk: somebody reads it."]
    lines += [f"{state.unwatched}; changes are found within minutes."] if state.unwatched else []
    lines += ["It is paused: `ainet context resume` goes on."] if state.is_paused else []
    if state.problems:
        more = sum(folder.problems for folder in state.folders) - len(state.problems)
        lines += ["", "Not read:", *(f"  {one.path} {one.problem}." for one in state.problems)]
        lines += [f"  … and {more} more."] if more > 0 else []
    return "\n".join(lines)


def _doing(folder: ContextFolder) -> str:
    if folder.failed:
        return folder.failed
    if folder.is_reading:
        return f"{folder.done} of {folder.total} files read" if folder.total else "is looked through"
    if folder.problems:
        return f"{folder.problems} file{'s' * (folder.problems > 1)} not read"
    return "known"


def _label(folder: ContextFolder) -> str:
    return f"{folder.label}: {', '.join(folder.shared_with)}" if folder.shared_with else folder.label


def _missing(device: ContextDevice) -> str:
    missing = device.documents - device.here
    return f"{missing} file{'s' * (missing > 1)} not here" if missing else "known"


def _vectors(one: context.ContextVectorState) -> str:
    left = [f"{one.left} passages have no vector yet"] if one.left else []
    owed = [f"{one.owed} vectors of what is gone are still on the disk"] if one.owed else []
    return f"{one.name}: {'; '.join(left + owed)}."


def _forgotten(found: context.Forgotten) -> str:
    here = ["Forgotten, until their folder is added again:", *(f"  {path}" for path in found.paths)]
    other = ["The same is said on other devices; forget it there:", *(f"  {path}" for path in found.elsewhere)]
    return "\n".join((here if found.paths else []) + (other if found.elsewhere else []))


def _why(path: str, found: list[context.ContextProblem], state: ContextState) -> str:
    if found:
        return f"{path} is not read: it {found[0].problem}."
    if not any(Path(folder.path) in (Path(path), *Path(path).parents) for folder in state.folders):
        return f"{path} is in no folder that was added."
    return f"Nothing keeps {path} from being read, unless it is ignored, generated, binary or secret by its name."


def _find_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    """Add what is asked, and where."""
    parser.add_argument("text", metavar="TEXT", nargs="*", help="what to find: words, a question, or who calls NAME")
    parser.add_argument(
        "--in", dest="folder", metavar="FOLDER", type=_whole, help="only in this folder or file; DEVICE:PATH"
    )
    parser.add_argument("--kind", metavar="KIND", help="only passages of this kind, such as function")
    parser.add_argument("--most", metavar="N", type=count, default=10, help="at most N passages (default: 10)")
    only_json(parser, kernel)


def find(options: Options) -> FoundPassages:
    """Find what `find` is asked for."""
    text = " ".join(options.text)
    check_text("The question", text)
    if not text.strip():
        raise UsageError("Find what? Write words or a question behind `find`.")
    with find_node(options) as node:
        return node.call(context.find, text, options.folder, options.kind, options.most)


def _find(options: Options) -> int:
    report(options, find(options), lambda found: found_words(found, options))
    return 0


def found_words(found: FoundPassages, options: Options) -> str:
    """Return what was found, for people."""
    unasked = [f"{words}." for words in context.unasked_words(found.unasked)]
    if not found.results:
        return "\n".join([f"Nothing was found for {' '.join(options.text)!r}.", *unasked])
    parts = []
    for number, one in enumerate(found.results, 1):
        lines = one.text.split("\n")
        shown = [f"    {line}" for line in lines[:SHOWN]] + (["    …"] if len(lines) > SHOWN else [])
        why = f" ({one.reason})" if one.reason else ""
        parts.append("\n".join([f"{number}. {place(one)}  {one.kind} {one.name}".rstrip() + why, *shown]))
    return "\n\n".join(parts + unasked)


def trace_words(found: context.Trace, options: Options | None = None) -> str:
    """Return a trace for people: a tree of what something needs, and one of what needs it."""
    known = {one.id: one for one in found.nodes}
    before: dict[int, list[context.TraceEdge]] = {}
    after: dict[int, list[context.TraceEdge]] = {}
    for edge in found.edges:
        before.setdefault(edge.end, []).append(edge)
        after.setdefault(edge.begin, []).append(edge)
    lines = []
    for one in found.nodes:
        if one.is_asked:
            lines += [trace_label(one)]
            lines += _branches(one.id, before, known, "needs", is_up=True)
            lines += _branches(one.id, after, known, "is needed by", is_up=False)
    return "\n".join(lines)


def trace_label(node: context.TraceNode) -> str:
    """Return the name of a node, and where it stands."""
    where = f" cell {node.cell}" if node.cell else f":{node.line}" if node.line else ""
    return f"{node.name}  {Path(node.path).name}{where}"


def _branches(
    begin: int,
    edges: dict[int, list[context.TraceEdge]],
    known: dict[int, context.TraceNode],
    head: str,
    *,
    is_up: bool,
) -> list[str]:
    lines: list[str] = []
    shown = {begin}

    def walk(number: int, depth: int) -> None:
        for edge in edges.get(number, ()):
            other = edge.begin if is_up else edge.end
            again = " …" if other in shown and edges.get(other) else ""
            lines.append(
                f"{'  ' * depth}{edge.kind if is_up else f'{edge.kind} it:'} {trace_label(known[other])}{again}"
            )
            if other not in shown:
                shown.add(other)
                walk(other, depth + 1)

    walk(begin, 2)
    return [f"  {head}", *lines] if lines else []


COMMANDS: tuple[Command, ...] = (
    Command("context", "let the node know folders, or show which it knows", _options, _context),
    Command("find", context.find.help, _find_options, _find),
    verb_command(context.trace, trace_words, folder=_whole, depth=count),
)
