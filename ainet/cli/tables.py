"""Plain tables for terminals and cells."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

from ainet.client.answer import layer_range, placement_words
from ainet.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


#: A number, a size, a range of layers, or nothing.
_NUMBER = re.compile(r"[\d.]+( [kMGT]?B)?|\d+–\d+|–")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return `rows` under `headings`, each column as wide as its longest text, numbers to the right."""
    cells = [[_show(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    numeric = [all(map(_NUMBER.fullmatch, column)) for column in zip(*cells, strict=True)] or [False] * len(headings)
    lines = [headings, ["─" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def status(found: dict[str, Any]) -> str:
    """Return ``ainet status`` for people."""
    node = found["node"]
    facts = [
        f"{node['name']} · ainet {node['version']} · {show_bytes(node['pss_bytes'])} of memory (PSS) · {node['url']}",
        f"caps: {_caps(node['caps'])} · reserved: {_caps(node['reserved'])}",
        f"certificate: {_certificate(node['certificate'])} · data: {node['data_dir']}",
    ]
    rows = [
        (member["name"], _state(member), worker.get("pid"), _bytes(worker.get("memory")), _layers(worker))
        for member in found["members"]
        for worker in member["workers"] or [{}]
    ]
    parts = ["\n".join(facts), table(("member", "state", "worker", "memory", "layers"), rows)]
    if found["pipelines"]:
        parts.append(
            "\n".join(f"{one['model']}: {placement_words(one.get('placement', []))}" for one in found["pipelines"])
        )
    if node["certificate"]["problem"]:
        parts.append(node["certificate"]["problem"])
    return "\n\n".join(parts)


def models(found: list[dict[str, Any]]) -> str:
    """Return ``ainet models`` for people; the members that have a model too make a column when there are any."""
    headings = ["model", "size", "architecture", "quantisation", "licence", "layers", "can be cut", "where"]
    rows = [
        [
            entry["name"],
            _bytes(entry.get("size")),
            entry.get("architecture"),
            entry.get("quantisation"),
            entry.get("licence"),
            entry.get("layers"),
            entry.get("error") or entry.get("cuts"),
            entry.get("where") or entry.get("path"),
        ]
        for entry in found
    ]
    if not rows:
        return "No models were found. Name a GGUF file by its path, or one on Hugging Face as hf:org/repo/file.gguf."
    if any(entry.get("members") for entry in found):
        headings.append("members")
        for row, entry in zip(rows, found, strict=True):
            row.append(", ".join(entry.get("members") or []))
    return table(headings, rows)


def plan(found: dict[str, Any]) -> str:
    """Return ``ainet plan`` for people."""
    rows = [
        (
            stage["name"],
            layer_range(stage["first_layer"], stage["last_layer"]),
            _bytes(stage["memory"]),
            stage["reason"],
        )
        for stage in found["stages"]
    ]
    seconds = found["seconds"]
    predicted = f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    heading = f"{found['name']}, {found['n_ctx']} tokens of context, about {predicted} a token"
    left_out = [f"Without {one['name']}: {one['reason']}." for one in found["left_out"]]
    return "\n".join([heading, "", table(("node", "layers", "memory", "reason"), rows), "", found["why"], *left_out])


def members(found: list[dict[str, Any]]) -> str:
    """Return ``ainet members`` for people."""
    rows = [
        (
            member["name"],
            _state(member),
            ", ".join(member["addresses"]),
            round(member["certificate_days"]),
            member["id"],
        )
        for member in found
    ]
    return table(("member", "state", "address", "certificate days", "node id"), rows)


def contacts(found: list[dict[str, Any]]) -> str:
    """Return ``ainet contacts`` for people."""
    if not found:
        return "There are no contacts. `ainet introduce` makes a ticket for a device of another owner."
    rows = [(one["name"], "connected" if one["connected"] else "unreachable", one["id"]) for one in found]
    return table(("contact", "state", "node id"), rows)


def settings(found: dict[str, str]) -> str:
    """Return the shared settings for people."""
    return table(("setting", "value"), found.items()) if found else "Nothing is set for the whole swarm."


def notebooks(found: list[dict[str, Any]]) -> str:
    """Return the shared notebooks for people."""
    if not found:
        return "No notebooks are shared. `ainet share NOTEBOOK` shares one."
    rows = [
        (
            one["name"],
            "this device" if one["own"] else one["by"],
            ", ".join(one["with"]),
            "read" if one["read_only"] else "edit",
            one["path"],
        )
        for one in found
    ]
    return table(("notebook", "shared by", "with", "others may", "file here"), rows)


def peers(found: list[dict[str, Any]]) -> str:
    """Return ``ainet peers`` for people."""
    if not found:
        return "Nobody else is known. `ainet invite` makes a ticket for a further device."
    rows = [
        (
            peer["name"],
            peer["kind"],
            _reached(peer),
            None if peer["latency_s"] is None else f"{1000 * peer['latency_s']:.3g} ms",
            None if peer["bandwidth"] is None else f"{show_bytes(peer['bandwidth'])}/s",
            _has(peer),
            ", ".join(peer.get("offers") or ()) or None,
            _ago(peer["last_seen"]),
        )
        for peer in found
    ]
    headings = ("peer", "kind", "reached", "round trip", "bandwidth", "has", "offers", "last seen")
    return table(headings, rows)


def _reached(peer: dict[str, Any]) -> str:
    return {"direct": f"direct, {peer['path']}", "relayed": peer["path"], "no": peer.get("note") or "unreachable"}[
        peer["reached"]
    ]


def _has(peer: dict[str, Any]) -> str | None:
    stages = [
        f"{stage['model']} {layer_range(stage['first_layer'], stage['last_layer'])}"
        for stage in peer.get("stages") or []
    ]
    device, n_models = peer.get("device"), len(peer.get("models") or [])
    words = [f"{show_bytes(device['memory'])} memory, {device['threads']} threads"] if device else []
    return ", ".join([*words, *([f"{n_models} models"] if n_models else []), *stages]) or None


def _ago(when: float | None) -> str | None:
    if when is None:
        return None
    seconds = max(0.0, time.time() - when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "now" if seconds < 5 else f"{seconds:.0f} s ago"


def _show(value: object) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:.3g}" if isinstance(value, float) and not math.isinf(value) else str(value)


def _state(member: dict[str, Any]) -> str:
    if member["is_self"]:
        return "this device"
    return "connected" if member["connected"] else "unreachable"


def _bytes(count: float | None) -> str:
    return "–" if count is None else show_bytes(count)


def _caps(caps: dict[str, Any]) -> str:
    words = [f"{show_bytes(caps[name])} {name}" for name in ("memory", "disk") if caps.get(name) is not None]
    if caps.get("threads") is not None:
        words.append(f"{caps['threads']} threads")
    return ", ".join(words) or "nothing"


def _certificate(state: dict[str, Any]) -> str:
    if state["problem"]:
        return "expired" if state["days_left"] <= 0 else "removed"
    return f"{state['days_left']:.0f} days left"


def _layers(worker: dict[str, Any]) -> str:
    layers = worker.get("layers")
    return f"{worker['model']} {layer_range(layers[0], layers[-1])}" if layers else "–"
