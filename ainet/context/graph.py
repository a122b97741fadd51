"""The graph of what passages have to do with each other: what leads to something, and what it leads to."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import rustworkx as rx

from ainet.api.context import Trace, TraceEdge, TraceNode
from ainet.errors import NotFound
from ainet.storage.relations import whole_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ainet.storage.records import RelationKind, StoredPassage
    from ainet.storage.view import StorageView

#: Passages of a trace, and of what is next to one of them.
MOST_TRACED, MOST_NEXT = 60, 12
#: How certain it must be that a name means something, and what a trace follows.
CERTAIN = 0.5
FOLLOWED: tuple[RelationKind, ...] = ("calls", "inherits", "raises", "catches", "reads", "writes", "uses")


def trace(storage: StorageView, name: str, *, within: str | None = None, depth: int = 2) -> Trace:
    """Return what leads to something, and what it leads to.

    Parameters
    ----------
    name
        Of a function or class, or of a variable of a notebook.
    within
        A folder or file in which it is.

    Raises
    ------
    NotFound
        Nothing that is known is called so.
    """
    name = name.removesuffix("()")
    named = storage.relations.named([name])
    exact = [one for one in named if f".{whole_name(one)}".endswith(f".{name}")] or named
    begin = [one.passage for one in exact]
    if within is not None:
        begin = storage.among(begin, below=within)
    if not begin:
        return _trace_variable(storage, name, within)
    edges: dict[tuple[int, int], RelationKind] = {}
    known = dict.fromkeys(begin)
    for is_up in (True, False):
        now = list(begin)
        for _ in range(depth):
            found = _next(storage, now, is_up=is_up)
            now = []
            for one, other, kind in found:
                if other not in known and len(known) >= MOST_TRACED:
                    continue
                edges.setdefault((other, one) if is_up else (one, other), kind)
                if other not in known:
                    known[other] = None
                    now.append(other)
    return _shown(storage, begin, list(known), edges)


def _next(storage: StorageView, passages: Sequence[int], *, is_up: bool) -> list[tuple[int, int, RelationKind]]:
    """Return what these passages depend on, or (not `is_up`) what depends on them."""
    found: list[tuple[int, int, RelationKind]] = []
    if is_up:
        of: dict[int, int] = defaultdict(int)
        for one in sorted(storage.relations.targets(passages, FOLLOWED), key=lambda one: -one.weight):
            of[one.to] += 1
            if of[one.to] <= MOST_NEXT and one.weight >= CERTAIN:
                found.append((one.to, one.passage, one.kind))
        return found
    for definition in storage.relations.definitions(passages):
        mentions = sorted(storage.relations.mentions(definition, FOLLOWED), key=lambda one: -one.weight)
        others = [one for one in mentions if one.passage != definition.passage and one.weight >= CERTAIN]
        found += [(definition.passage, one.passage, one.kind) for one in others[:MOST_NEXT]]
    return found


def _trace_variable(storage: StorageView, name: str, within: str | None) -> Trace:
    """Follow a variable through the cells of notebooks, in the order in which they ran."""
    edges: dict[tuple[int, int], RelationKind] = {}
    begin: list[int] = []
    known: dict[int, None] = {}
    for source in storage.relations.notebooks_with(name):
        cells = cell_edges(storage.relations.of_cells(source))
        makers = [cell for cell, variables in cells.made.items() if name in variables]
        if within is not None:
            makers = storage.among(makers, below=within)
        begin += makers
        reached = _reached(cells.edges, makers)
        known |= dict.fromkeys(sorted(reached))
        edges |= {edge: "uses" for edge in cells.edges if {*edge} <= reached}
    if not begin:
        raise NotFound(f"Nothing that is known is called {name}.")
    return _shown(storage, begin, list(known), edges)


def _reached(edges: Iterable[tuple[int, int]], begin: Iterable[int]) -> set[int]:
    """Return what leads to these nodes, and what they lead to, with themselves; not more than a trace shows."""
    graph: rx.PyDiGraph[int, None] = rx.PyDiGraph(multigraph=False)
    places: dict[int, int] = {}
    for node in (one for edge in edges for one in edge):
        if node not in places:
            places[node] = graph.add_node(node)
    graph.add_edges_from_no_data([(places[one], places[other]) for one, other in edges])
    found = set(begin)
    for node in [places[one] for one in found if one in places]:
        found |= {graph[one] for one in rx.ancestors(graph, node) | rx.descendants(graph, node)}
    return set(sorted(found)[:MOST_TRACED])


class CellEdges:
    """Which cells of a notebook use what others made; `made`: the variables that each makes."""

    def __init__(self) -> None:
        self.edges: set[tuple[int, int]] = set()
        self.made: dict[int, set[str]] = defaultdict(set)


def cell_edges(rows: Iterable[tuple[int, int, str, str]]) -> CellEdges:
    """Return the edges between cells: from the one that assigned a variable last to the one that uses it then.

    Cells that ran come in the order in which they did; those that did not, after these, in their order on the page.
    """
    uses: dict[int, set[str]] = defaultdict(set)
    order: dict[int, tuple[bool, int, int]] = {}
    found = CellEdges()
    for passage, ran, kind, name in rows:
        order[passage] = (ran == 0, ran, passage)
        (uses if kind == "uses" else found.made)[passage].add(name)
    last: dict[str, int] = {}
    for passage in sorted(order, key=order.__getitem__):
        found.edges |= {(last[name], passage) for name in uses[passage] if last.get(name, passage) != passage}
        last |= dict.fromkeys(found.made.get(passage, ()), passage)
    return found


def _shown(
    storage: StorageView, begin: Sequence[int], passages: Sequence[int], edges: Mapping[tuple[int, int], RelationKind]
) -> Trace:
    known = {one.id: one for one in storage.passages(passages)}
    return Trace(
        nodes=[_node(known[number], number in begin) for number in passages if number in known],
        edges=[TraceEdge(one, other, kind) for (one, other), kind in edges.items() if {one, other} <= known.keys()],
    )


def _node(one: StoredPassage, is_asked: bool) -> TraceNode:
    passage = one.passage
    first = next((line.strip() for line in passage.text.split("\n") if line.strip()), "")
    return TraceNode(
        id=one.id,
        path=str(Path(one.folder) / one.path),
        line=passage.first_line,
        cell=passage.cell,
        name=passage.name if passage.kind in ("function", "class") else first[:60],
        is_asked=is_asked,
    )
