"""Tables for people: escaped, aligned, and as wide as the terminal at most."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from shutil import get_terminal_size

from warren.cli.output import say
from warren.printable import aligned, printable

#: Columns below which no text is cut.
_LEAST = 8
#: Columns of what other commands are given.
_IDS = frozenset({"id", "call id", "instance"})
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def show(lines: Iterable[str]) -> None:
    """Print lines in which peers may have had a say."""
    for line in lines:
        say(printable(line))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> list[str]:
    """The lines of a table; the columns of `right` stand on the right side, and ids are whole, to be typed again."""
    escaped = [[printable(text) for text in row] for row in (headings, *rows)]
    at_right = [at for at, heading in enumerate(headings) if heading in right]
    whole = {at for at, heading in enumerate(headings) if heading in _IDS}
    return aligned(_fitted(escaped, {*at_right, *whole}, _width()), at_right)


def _width() -> int | None:
    """Of the terminal; None where lines may be as long as they like, as another program reads them."""
    return get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def _fitted(rows: list[list[str]], whole: Collection[int], width: int | None) -> list[list[str]]:
    """Text that is cut in the widest columns, so that a row fits; numbers and ids are never cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    too_much = 0 if width is None else sum(widths) + 2 * (len(widths) - 1) - width
    for at in sorted(range(len(widths)), key=lambda at: -widths[at]):
        if at not in whole and too_much > 0:
            cut = min(too_much, max(0, widths[at] - _LEAST))
            widths[at] -= cut
            too_much -= cut
    return [[_cut(text, width) for text, width in zip(row, widths, strict=True)] for row in rows]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def duration(seconds: float | None) -> str:
    """A short time, to three digits or so."""
    if seconds is None:
        return "-"
    if seconds >= 100:
        return age(seconds)
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def age(seconds: float) -> str:
    """A long time, in the largest unit of which there are two."""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{int(seconds / size)} {unit}"
    return f"{max(0, int(seconds))} s"


def number(value: float | None, digits: int = 0) -> str:
    """A number; a dash for what is not known."""
    return "-" if value is None else f"{value:,.{digits}f}"
