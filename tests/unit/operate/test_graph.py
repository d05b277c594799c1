"""A graph is the same in all formats, and what peers put into it is text."""

import json
import re
from xml.etree import ElementTree

import pytest

from warren.operate.drawing import as_svg
from warren.operate.graph import NAMELESS, WRITERS, Edge, Graph, as_dot, as_json, as_mermaid, as_text, observed
from warren.operate.told import Caller
from warren.operate.totals import Method, Service

SHOP = Graph(
    frozenset({"orders", "inventory", "mail"}),
    (
        Edge("front", "orders", "place", 10, 2, 0.5),
        Edge("front", "orders", "list", 1, 0, 0.5),
        Edge("orders", "inventory", "reserve", 10, 0, 0.1),
    ),
)
EVIL = '"]; <script>alert(1)</script>\x1b[2J\u202e`#'
HOSTILE = Graph(frozenset({EVIL}), (Edge(EVIL, EVIL, EVIL, 1, 1, 1.0),))


def test_text_has_each_caller_with_what_it_calls_and_who_stands_alone() -> None:
    assert as_text(SHOP).splitlines() == [
        "front",
        "  -> orders.list     1 call            500.0 ms",
        "  -> orders.place  10 calls  2 failed   50.0 ms",
        "orders",
        "  -> inventory.reserve  10 calls    10.0 ms",
        "mail  (no calls)",
    ]


def test_mermaid_has_an_arrow_for_each_pair_and_red_where_it_fails() -> None:
    lines = as_mermaid(SHOP).splitlines()
    assert '  n0 -->|"list, place: 11, 2 failed"| n3' in lines
    assert '  n3 -->|"reserve: 10"| n1' in lines
    assert [line for line in lines if "linkStyle" in line] == ["  linkStyle 0 stroke:#c62828"]


def test_dot_has_the_same() -> None:
    assert '"orders" -> "inventory" [label="reserve: 10"];' in as_dot(SHOP)
    assert '"front" -> "orders" [label="list, place: 11, 2 failed", color=red];' in as_dot(SHOP)


def test_json_has_every_number() -> None:
    said = json.loads(as_json(SHOP))
    assert said["services"] == ["inventory", "mail", "orders"]
    assert said["edges"][0] == {
        "caller": "front", "service": "orders", "method": "place", "count": 10, "failed": 2, "seconds": 0.5
    }  # fmt: skip


def test_the_picture_has_a_box_for_each_and_goes_from_left_to_right() -> None:
    root = ElementTree.fromstring(as_svg(SHOP))
    boxes = root.findall("{*}rect")
    names = [text.text for text in root.findall("{*}text") if "label" not in text.get("class", "")]
    at = dict(zip(names, (float(box.get("x", "0")) for box in boxes), strict=True))
    assert at["front"] < at["orders"] < at["inventory"]
    assert len([path for path in root.findall("{*}path") if "failing" in path.get("class", "")]) == 1


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("a", "a")],
        [("a", "b"), ("b", "a")],
        [("a", "b"), ("b", "c"), ("c", "a"), ("x", "b")],
        [(f"{n}", f"{n + 1}") for n in range(2000)],
    ],
    ids=["nothing", "itself", "two", "a circle", "a long chain"],
)
def test_any_graph_can_be_drawn(pairs: list[tuple[str, str]]) -> None:
    graph = Graph(frozenset(), tuple(Edge(one, other, "m", 1) for one, other in pairs))
    assert as_svg(graph).count("<rect ") == len({name for pair in pairs for name in pair})


def test_hostile_names_are_text_in_every_format() -> None:
    for write in (*WRITERS.values(), as_svg):
        written = write(HOSTILE)
        assert "\x1b" not in written.replace("\\u001b", "")
        assert "\u202e" not in written
    assert "<script" not in as_svg(HOSTILE) + as_mermaid(HOSTILE)
    ElementTree.fromstring(as_svg(HOSTILE))
    assert all(re.fullmatch(r"[^\"]*|[^\"]*\"[^\"]*\"[^\"]*", line) for line in as_mermaid(HOSTILE).splitlines())
    assert [re.sub(r'"(?:[^"\\]|\\.)*"', "S", line) for line in as_dot(HOSTILE).splitlines()[3:-1]] == [
        "  S;",
        "  S -> S [label=S, color=red];",
    ]


def test_callers_without_a_name_are_seen_and_those_without_calls_are_not() -> None:
    method = Method(callers={"": Caller(3, 1, 0.5), "gone": Caller()})
    graph = observed({"calc": Service(methods={"fib": method})})
    assert graph.edges == (Edge(NAMELESS, "calc", "fib", 3, 1, 0.5),)
