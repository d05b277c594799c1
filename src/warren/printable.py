"""Text from elsewhere, made safe to show: on a terminal it does nothing, and in a log it stays on its line.

Ids, names, headers, results and the texts of errors are whatever a peer sent. Raw, they could clear a screen, hide what
follows, or write log lines that look like ours. Whatever is not a printable character (`str.isprintable`: controls,
line ends, marks that turn the direction of writing, halves of surrogate pairs) is shown as Python's escape for it. Text
that is escaped already stays as it is, so it does no harm to be careful twice. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

_INDENT = "  "


def printable(text: str, keep: str = "") -> str:
    """Text with an escape for each character that is not printable, except those in `keep`."""
    if text.isprintable():
        return text
    odd = [c for c in set(text) if not c.isprintable() and c not in keep]
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in odd})


def printable_bytes(data: bytes) -> str:
    """Bytes as printable text; what is not UTF-8 is shown as an escape, too."""
    return printable(data.decode("utf-8", "backslashreplace"))


def printable_json(text: str) -> str:
    """A JSON document that means the same and has only printable characters and line ends."""
    if text.isprintable():
        return text
    odd = [c for c in set(text) if not c.isprintable() and c != "\n"]
    return text.translate({ord(c): json.dumps(c)[1:-1] for c in odd})


def block(text: str) -> str:
    """Text of several lines, like a traceback: escaped except for its line ends, and indented.

    So none of its lines can pass for a line of the log or an output of the program around it.
    """
    return "\n".join(_INDENT + line for line in printable(text.rstrip("\n"), keep="\n").split("\n"))


def aligned(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of a table as lines, their columns as wide as need be; those in `right` stand on the right side."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if at in right else text.ljust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
