"""A trace as a picture: from left to right what something needs, the thing itself, and what needs it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import rustworkx as rx

from ainet.notebook.picture import INK

if TYPE_CHECKING:
    from ainet.api.context import Trace, TraceNode

#: Pixels: of a box, between boxes; characters that have room in one.
WIDTH, HEIGHT, GAP, ROW = 190, 40, 60, 12
MOST_CHARACTERS = 26


def trace_svg(trace: Trace) -> str:
    """Return a trace as an SVG."""
    columns = _columns(trace)
    places: dict[int, tuple[int, int]] = {}
    for column, nodes in enumerate(columns):
        for row, node in enumerate(nodes):
            places[node.id] = column * (WIDTH + GAP), row * (HEIGHT + ROW)
    width = len(columns) * (WIDTH + GAP) - GAP + 4
    height = max((len(nodes) for nodes in columns), default=0) * (HEIGHT + ROW) + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width} {height}" width="{width}" '
        f'style="font: 12px sans-serif" fill="none" stroke="{INK}">',
        '<defs><marker id="end" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L6 3L0 6z" fill="{INK}" stroke="none"/></marker></defs>',
    ]
    for edge in trace.edges:
        (x, y), (u, v) = places[edge.begin], places[edge.end]
        begin, end = (x + WIDTH, y + HEIGHT // 2), (u, v + HEIGHT // 2)
        bend = max(GAP // 2, (end[0] - begin[0]) // 2)
        parts.append(
            f'<path d="M{begin[0]} {begin[1]}C{begin[0] + bend} {begin[1]} {end[0] - bend} {end[1]} {end[0]} {end[1]}" '
            f'opacity="0.5" marker-end="url(#end)"><title>{html.escape(edge.kind)}</title></path>'
        )
    return "".join([*parts, *(_box(node, *places[node.id]) for node in trace.nodes), "</svg>"])


def _box(node: TraceNode, x: int, y: int) -> str:
    where = node.path.rpartition("/")[2] + (f" cell {node.cell}" if node.cell else f":{node.line}" if node.line else "")
    weight = 2 if node.is_asked else 1
    return (
        f"<g><title>{html.escape(f'{node.path} {node.name}')}</title>"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" stroke-width="{weight}"/>'
        f'<text x="{x + 8}" y="{y + 17}" fill="{INK}" stroke="none" font-weight="{400 * weight}">'
        f"{html.escape(_short(node.name))}</text>"
        f'<text x="{x + 8}" y="{y + 32}" fill="{INK}" stroke="none" opacity="0.85" font-size="10">'
        f"{html.escape(_short(where))}</text></g>"
    )


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def _columns(trace: Trace) -> list[list[TraceNode]]:
    """Return the nodes in columns: each one to the right of all that it needs, as far as that is possible."""
    graph: rx.PyDiGraph[int, None] = rx.PyDiGraph(multigraph=False)
    places = {node.id: graph.add_node(node.id) for node in trace.nodes}
    graph.add_edges_from_no_data([(places[edge.begin], places[edge.end]) for edge in trace.edges])
    # What calls itself through others stands in one column.
    circles = rx.strongly_connected_components(graph)
    circle_of = {graph[number]: circle for circle, numbers in enumerate(circles) for number in numbers}
    whole: rx.PyDiGraph[int, None] = rx.PyDiGraph(multigraph=False)
    whole.add_nodes_from(range(len(circles)))
    for edge in trace.edges:
        one, other = circle_of[edge.begin], circle_of[edge.end]
        if one != other:
            whole.add_edge(one, other, None)
    column_of = {circle: column for column, layer in enumerate(rx.topological_generations(whole)) for circle in layer}
    columns: list[list[TraceNode]] = [[] for _ in range(max(column_of.values(), default=-1) + 1)]
    for node in trace.nodes:
        columns[column_of[circle_of[node.id]]].append(node)
    return columns
