"""Models in other formats."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ainet.api import quantise
from ainet.api.generate import Progress
from ainet.cli.command import Command, Options, find_node, print_json, read, report
from ainet.cli.parser import count, only_json
from ainet.cli.progress import ProgressLine
from ainet.cli.tables import table
from ainet.cli.terminal import say
from ainet.client.client import whole_path
from ainet.errors import AinetError, UsageError
from ainet.units import show_bytes

if TYPE_CHECKING:
    import argparse

    from ainet.api.quantise import FormatAdvice, QuantiseState
    from ainet.client.client import NodeClient

#: Seconds between two questions how far it is.
ASKED = 0.3
#: Characters of a text that are sent: far more than 1,024 chunks have.
MOST_TEXT = 1_000_000


def _quantise_options(parser: argparse.ArgumentParser, kernel: bool) -> None:
    parser.description = (
        "Write a model in another format, such as Q4_0: smaller, and quicker, but less exact. Without a format, tell "
        "which one is best for a device."
    )
    parser.add_argument("model", metavar="MODEL", help="name or path of the model")
    parser.add_argument("formats", metavar="FORMAT", nargs="*", help="Q4_0, IQ4_NL, Q8_0, … (default: recommend one)")
    parser.add_argument("--for", dest="device", metavar="DEVICE", help="the device that it is for (default: this one)")
    parser.add_argument("--text", metavar="FILE", help="compare what is made with the model on this text")
    parser.add_argument(
        "--chunks", metavar="N", type=count, default=8, help="read N chunks of 512 tokens of it (default: 8)"
    )
    parser.add_argument(
        "--importance", action="store_true", help="keep precision where half of the text shows that it counts"
    )
    parser.add_argument(
        "--name", metavar="NAME", help="the name of what is made (default: the model's, and the format)"
    )
    only_json(parser, kernel)


def _quantise(options: Options) -> int:
    formats = [name.upper() for name in options.formats]
    text = read(options.text)[:MOST_TEXT] if options.text is not None else None
    model = whole_path(options.model) or options.model
    with find_node(options) as node:
        if not formats:
            if text is not None or options.name is not None or options.importance:
                raise UsageError("Name a format, such as Q4_0, to have a model made and compared.")
            report(options, node.call(quantise.formats, model, options.device), advice_words)
            return 0
        advice = None
        if options.device is not None:
            advice = node.call(quantise.formats, model, options.device, formats)
        state = _wait(node, node.call(
            quantise.quantise,
            model=model,
            formats=formats,
            text=text,
            chunks=options.chunks,
            importance=options.importance,
            name=options.name,
        ))  # fmt: skip
    if options.json:
        print_json({"quantised": state, "advice": advice})
    else:
        say(state_words(state))
        if advice is not None:
            say(f"\n{advice_words(advice)}")
    if state.failed is not None:
        raise AinetError.from_dict(state.failed)
    return 130 if state.cancelled else 0


def _wait(node: NodeClient, state: QuantiseState) -> QuantiseState:
    """Show how far it is until it ends; whoever interrupts this ends it."""
    progress = ProgressLine()
    try:
        while state.running:
            progress.show(Progress(text=state.step, done=state.done, total=state.total, unit=state.unit))
            time.sleep(ASKED)
            state = node.call(quantise.quantisation)
    except KeyboardInterrupt:
        state = node.call(quantise.cancel_quantisation)
    finally:
        progress.clear()
    return state


def advice_words(advice: FormatAdvice) -> str:
    """Return a recommendation for people."""
    rows = [
        (
            one.format + (" (as it is)" if one.is_source else ""),
            show_bytes(one.size),
            f"{one.bits:.1f}",
            show_bytes(one.memory) + ("" if one.fits else ", too much"),
            f"{1 / one.seconds:.3g}" if one.seconds else "?",
        )
        for one in advice.formats
    ]
    headings = ("format", "size", "bits a weight", "memory", "tokens/s (predicted)")
    lines = [
        f"{advice.model} on {advice.device}: {show_bytes(advice.memory)} free, {advice.threads} threads",
        "",
        table(headings, rows),
        "",
        advice.why,
    ]
    if advice.recommended is not None and not any(
        one.is_source and one.format == advice.recommended for one in advice.formats
    ):
        lines.append(f"Make it: ainet quantise {advice.model} {advice.recommended}")
    return "\n".join(lines)


def state_words(state: QuantiseState) -> str:
    """Return what was made, and what it lost, for people."""
    parts = []
    if state.made:
        quality = {one.name: one for one in state.quality}
        rows = []
        for made in state.made:
            row = [
                made.name + (" (was there)" if made.was_there else ""),
                show_bytes(made.size),
                f"{made.bits:.2f}",
                show_bytes(made.shared),
            ]
            if quality:
                found = quality.get(made.name)
                row += (
                    [
                        f"{found.divergence:.5f} ± {found.error:.5f}",
                        f"{found.worst:.4f}",
                        f"{100 * found.same_top:.1f} %",
                    ]
                    if found is not None
                    else ["", "", ""]
                )
            rows.append(row)
        headings = ["model", "size", "bits a weight", "in common"]
        headings += ["KL divergence", "worst 1 %", "same top token"] if quality else []
        parts.append(table(headings, rows))
    if state.quality:
        parts.append(f"Compared with {state.model} on {state.quality[0].rows:,} tokens.")
    parts += state.notes
    if state.cancelled:
        kept = "what is complete is kept" if state.made else "nothing was made"
        parts.append(f"Interrupted while {state.step}: {kept}. The same command goes on from there.")
    elif not parts:
        parts.append("Nothing was made.")
    return "\n\n".join(parts)


COMMANDS = (Command("quantise", quantise.quantise.help, _quantise_options, _quantise),)
