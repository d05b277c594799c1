"""``warren graph``: who calls whom, as it was seen, or as the code says."""

from __future__ import annotations

from pathlib import Path

from warren.cli.asking import NOT_DONE, add_asking, ask_all, run_asking
from warren.cli.output import complain, fail, say
from warren.cli.parser import Parser
from warren.operate import told, totals
from warren.operate.declared import Spot, read_modules
from warren.operate.drawing import as_svg
from warren.operate.graph import WRITERS, Graph, observed
from warren.operate.sources import SourceError
from warren.printable import printable, printable_json

_MOST_SPOTS = 5
_FORMATS = {**WRITERS, "svg": as_svg}


def add_graph(parser: Parser) -> None:
    """The arguments of `graph`."""
    parser.add_argument(
        "modules",
        metavar="MODULE",
        nargs="*",
        default=[],
        help="Read the code of these modules and packages instead: nothing is asked, imported or run.",
    )
    parser.add_argument("--format", choices=tuple(_FORMATS), default="text", help="How it is written (default: text).")
    add_asking(
        parser,
        graph,
        "warren graph\nwarren graph --format svg > calls.svg\nwarren graph front orders inventory --format mermaid",
        not_done="nobody answers; there is no such module",
    )


COMMANDS = {"graph": add_graph}


def graph(modules: list[str], format: str, url: str, wait: float, as_json: bool) -> int:
    """Draw who calls whom."""
    if modules:
        found, answered = _declared(modules), True
    else:
        found, answered = _observed(url, wait, as_json)
    if answered:
        _print(found, "json" if as_json else format)
    return 0 if answered else NOT_DONE


def _print(found: Graph, format: str) -> None:
    if format == "text" and not found.edges:
        complain("nobody calls anybody: calls by name or by function are seen, of clients with a name")
    text = _FORMATS[format](found)
    if text:
        say(printable_json(text) if format == "json" else printable(text, keep="\n"))


def _observed(url: str, wait: float, as_json: bool) -> tuple[Graph, bool]:
    found = run_asking(url, as_json, lambda asking: ask_all(asking, "stats", None, told.Stats, wait))
    return observed(totals.add_up(found.said)), bool(found.said)


def _declared(modules: list[str]) -> Graph:
    try:
        found = read_modules(modules, Path.cwd())
    except SourceError as error:
        fail(str(error), NOT_DONE)
    if found.unknown:
        complain(printable(_unknown(found.unknown)))
    return found.graph


def _unknown(spots: list[Spot]) -> str:
    named = ", ".join(f"{spot.path.name}:{spot.line}" for spot in spots[:_MOST_SPOTS])
    more = f" and {len(spots) - _MOST_SPOTS} more" if len(spots) > _MOST_SPOTS else ""
    calls = "1 call is" if len(spots) == 1 else f"{len(spots)} calls are"
    return f"{calls} left out, or a part of what they may call: the code does not say it at {named}{more}"
