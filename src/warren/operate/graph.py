"""Who calls whom, and how it is written: as text, Mermaid, DOT or JSON; `drawing` makes a picture of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from warren.operate.totals import Service
from warren.printable import aligned, printable

#: What callers are called that say no name.
NAMELESS = "(no name)"
#: Methods that are named at one arrow.
_NAMED = 3


@dataclass(frozen=True, order=True)
class Edge:
    """A caller and a method that it calls; the numbers are None where the edge was read from code.

    Attributes:
        total: seconds of work.
    """

    caller: str
    service: str
    method: str
    count: int | None = None
    failed: int | None = None
    total: float | None = None

    def as_object(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            "caller": self.caller,
            "service": self.service,
            "method": self.method,
            "count": self.count,
            "failed": self.failed,
            "seconds": self.total,
        }


@dataclass(frozen=True)
class Arrow:
    """All that one calls of another: what pictures show.

    Attributes:
        label: methods, and how often.
        failing: whether any of it failed.
    """

    caller: str
    service: str
    label: str
    failing: bool


@dataclass(frozen=True)
class Graph:
    """Edges, and the services that there are, whether called or not."""

    services: frozenset[str]
    edges: tuple[Edge, ...]

    @property
    def nodes(self) -> list[str]:
        """All that call or are called."""
        return sorted({*self.services, *(name for edge in self.edges for name in (edge.caller, edge.service))})

    def arrows(self) -> list[Arrow]:
        """One for each pair, in order."""
        pairs = groupby(sorted(self.edges), key=lambda edge: (edge.caller, edge.service))
        return [_arrow(caller, service, list(edges)) for (caller, service), edges in pairs]

    def as_object(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {"services": sorted(self.services), "edges": [edge.as_object() for edge in self.edges]}


def _arrow(caller: str, service: str, edges: list[Edge]) -> Arrow:
    failed = sum(edge.failed or 0 for edge in edges)
    methods = list(dict.fromkeys(edge.method for edge in edges))
    parts = [*methods[:_NAMED], *([f"{len(methods) - _NAMED} more"] if len(methods) > _NAMED else [])]
    label = ", ".join(parts)
    if any(edge.count is not None for edge in edges):
        label += f": {sum(edge.count or 0 for edge in edges):,}" + (f", {failed:,} failed" if failed else "")
    return Arrow(caller, service, label, failed > 0)


def observed(totals: Mapping[str, Service]) -> Graph:
    """What processes have counted."""
    edges = [
        Edge(caller or NAMELESS, name, method, of.count, of.failed, of.total)
        for name, service in totals.items()
        for method, stats in service.methods.items()
        for caller, of in stats.callers.items()
        if of.count
    ]
    return Graph(frozenset(totals), tuple(sorted(edges)))


# --- as text ----------------------------------------------------------------------------------------------------------


def as_text(graph: Graph) -> str:
    """Each caller with what it calls, and in the end who neither calls nor is called."""
    lines: list[str] = []
    for caller, edges in groupby(sorted(graph.edges), key=lambda edge: edge.caller):
        rows = [(f"  -> {printable(edge.service)}.{printable(edge.method)}", *_figures(edge)) for edge in edges]
        lines += [printable(caller), *aligned(rows, right=(1, 2, 3))]
    named = {name for edge in graph.edges for name in (edge.caller, edge.service)}
    lines += [f"{printable(name)}  (no calls)" for name in sorted(graph.services - named)]
    return "\n".join(lines)


def _figures(edge: Edge) -> tuple[str, str, str]:
    if edge.count is None:
        return "", "", ""
    mean = f"{(edge.total or 0.0) / edge.count * 1e3:,.1f} ms" if edge.count else ""
    return (
        f"{edge.count:,} call{'' if edge.count == 1 else 's'}",
        f"{edge.failed:,} failed" if edge.failed else "",
        mean,
    )


def as_mermaid(graph: Graph) -> str:
    """A flow chart for Mermaid, which Markdown pages can show."""
    ids = _ids(graph)
    lines = ["flowchart LR", *(f'  {id}["{_mermaid(name)}"]' for name, id in ids.items())]
    arrows = graph.arrows()
    lines += [f'  {ids[a.caller]} -->|"{_mermaid(a.label)}"| {ids[a.service]}' for a in arrows]
    lines += [f"  linkStyle {at} stroke:#c62828" for at, arrow in enumerate(arrows) if arrow.failing]
    return "\n".join(lines)


def as_dot(graph: Graph) -> str:
    """A directed graph for Graphviz."""
    lines = ["digraph calls {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_dot(name)};" for name in graph.nodes]
    for arrow in graph.arrows():
        colour = ", color=red" if arrow.failing else ""
        lines.append(f"  {_dot(arrow.caller)} -> {_dot(arrow.service)} [label={_dot(arrow.label)}{colour}];")
    return "\n".join([*lines, "}"])


def as_json(graph: Graph) -> str:
    """One line of JSON."""
    return json.dumps(graph.as_object())


def _ids(graph: Graph) -> dict[str, str]:
    return {name: f"n{number}" for number, name in enumerate(graph.nodes)}


def _mermaid(text: str) -> str:
    """Text between quotes: what Mermaid or HTML could take for its own is written as a number."""
    return "".join(c if c.isalnum() or c in " _.,:()-" else f"#{ord(c)};" for c in printable(text))


def _dot(text: str) -> str:
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def joined(graphs: Iterable[Graph]) -> Graph:
    """Several as one."""
    graphs = list(graphs)
    services = frozenset(name for graph in graphs for name in graph.services)
    return Graph(services, tuple(sorted({edge for graph in graphs for edge in graph.edges})))


#: By the name of the format; the picture is apart, as it is laid out first.
WRITERS: Mapping[str, Callable[[Graph], str]] = {
    "text": as_text,
    "mermaid": as_mermaid,
    "dot": as_dot,
    "json": as_json,
}
