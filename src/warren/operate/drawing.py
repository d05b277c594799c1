"""A graph as an SVG picture: layers from left to right, by who calls whom. Pure, and the same for the same graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple

from warren.operate.graph import Arrow, Graph
from warren.printable import printable

_CHAR, _HEIGHT, _GAP, _MARGIN = 7.5, 36, 60, 24
_BETWEEN = 60  # of layers, beside the longest label
_LONGEST = 40  # characters of a name or label

_STYLE = """\
text { font: 13px sans-serif; fill: #1b1b1b; } text.label { font-size: 11px; fill: #555; }
text.label { paint-order: stroke; stroke: #fff; stroke-width: 3px; }
rect { fill: #f2f5f9; stroke: #4a6078; } path { fill: none; stroke: #4a6078; marker-end: url(#tip); }
path.failing { stroke: #c62828; } text.failing { fill: #c62828; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8e8e8; } text.label { fill: #b0b0b0; stroke: #111; } rect { fill: #223; stroke: #8fa8c0; }
  path { stroke: #8fa8c0; } path.failing { stroke: #ff7b72; } text.failing { fill: #ff7b72; }
}"""


class Box(NamedTuple):
    """Where a node is drawn."""

    x: float
    y: float
    width: float

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + _HEIGHT / 2

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + _HEIGHT / 2


def as_svg(graph: Graph) -> str:
    """The picture; it needs no font, script or file from anywhere."""
    arrows = graph.arrows()
    boxes = _place(_layers(graph.nodes, arrows), arrows)
    width = max((box.right[0] for box in boxes.values()), default=0) + _MARGIN
    height = max((box.y + _HEIGHT for box in boxes.values()), default=0) + _MARGIN + _GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            "<title>Who calls whom</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path d="M 0 1 L 9 5 L 0 9" style="marker-end:none"/></marker></defs>',
            *(_arrow(arrow, boxes) for arrow in arrows),
            *(_box(name, box) for name, box in boxes.items()),
            "</svg>",
        ]
    )


def _layers(nodes: Iterable[str], arrows: Iterable[Arrow]) -> list[list[str]]:
    """Each node one layer behind the last of those that call it; arrows that close a circle do not count."""
    nodes = list(nodes)
    pairs = _without_circles(nodes, [(arrow.caller, arrow.service) for arrow in arrows])
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:  # as deep as it can get
        deeper = {to: depth[from_] + 1 for from_, to in pairs if depth[to] <= depth[from_]}
        if not deeper:
            break
        depth |= deeper
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in nodes:
        layers[depth[name]].append(name)
    return [layer for layer in layers if layer]


def _without_circles(nodes: list[str], pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs that do not lead back: found by walking, without recursion, as a chain may be long."""
    after: dict[str, list[str]] = {name: [to for from_, to in pairs if from_ == name] for name in nodes}
    called = {to for _, to in pairs}
    kept, done, way = [], set[str](), dict[str, None]()
    for start in sorted(nodes, key=lambda name: name in called):
        todo = [(start, iter(after[start]))] if start not in done else []
        way = dict.fromkeys([start])
        while todo:
            name, rest = todo[-1]
            to = next((to for to in rest if to not in way), None)
            if to is None:
                todo.pop()
                way.pop(name)
                done.add(name)
                continue
            kept.append((name, to))
            if to not in done:
                way[to] = None
                todo.append((to, iter(after[to])))
    return kept


def _place(layers: list[list[str]], arrows: list[Arrow]) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    labels = max((len(_short(arrow.label)) for arrow in arrows), default=0) * 6 + _BETWEEN
    x: float = _MARGIN
    for layer in layers:
        ordered = sorted(layer, key=lambda name: (_middle(name, boxes, arrows), name))
        width = max(len(_short(name)) for name in layer) * _CHAR + 24
        for row, name in enumerate(ordered):
            boxes[name] = Box(x, _MARGIN + row * (_HEIGHT + _GAP / 2), width)
        x += width + labels
    return boxes


def _middle(name: str, boxes: Mapping[str, Box], arrows: Iterable[Arrow]) -> float:
    """Where those that call it stand, on average."""
    heights = [boxes[arrow.caller].y for arrow in arrows if arrow.service == name and arrow.caller in boxes]
    return sum(heights) / len(heights) if heights else 0.0


def _arrow(arrow: Arrow, boxes: Mapping[str, Box]) -> str:
    (x1, y1), (x2, y2) = boxes[arrow.caller].right, boxes[arrow.service].left
    away = (x2 - x1) / 2
    sink = 0.0
    if away <= 0:  # back, or to itself: around below
        away, sink = 40.0, _HEIGHT + _GAP / 2
    curve = f"M {x1:.0f} {y1:.0f} C {x1 + away:.0f} {y1 + sink:.0f} {x2 - away:.0f} {y2 + sink:.0f} {x2:.0f} {y2:.0f}"
    kind = " failing" if arrow.failing else ""
    x, y = (x1 + x2) / 2, (y1 + y2) / 2 + sink * 0.75 - 5
    return (
        f'<path class="edge{kind}" d="{curve}"/>'
        f'<text class="label{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{_text(arrow.label)}</text>'
    )


def _box(name: str, box: Box) -> str:
    x, y = box.x + box.width / 2, box.y + _HEIGHT / 2 + 5
    return (
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{_text(name)}</text>'
    )


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _text(text: str) -> str:
    return escape(_short(text))
