"""What a command prints, and how it ends."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn, TextIO

from warren.printable import printable, printable_json

USAGE, OTHER, CANNOT_PRINT, INTERRUPTED = 2, 6, 7, 130

RED, YELLOW = 31, 33


def say(text: str, end: str = "\n") -> None:
    """Print to standard output."""
    print(text + end, end="")  # noqa: T201 - the place where it is done; in one piece, as Ctrl-C may come in between


def complain(text: str, end: str = "\n") -> None:
    """Print to standard error, at once."""
    print(text, end=end, file=sys.stderr, flush=True)  # noqa: T201


def echo_json(value: Any) -> None:
    """Print one line of JSON."""
    say(printable_json(json.dumps(value, default=str)))


def fail(message: str, exit_code: int) -> NoReturn:
    """Print an error and end the process; what others put into it has no line ends any more."""
    complain(painted("error: ", RED, sys.stderr), end="")
    complain(printable(message, keep="\n"))
    raise SystemExit(exit_code)


def painted(text: str, colour: int, stream: TextIO) -> str:
    """The text in a colour, should the stream be a terminal whose user wants any."""
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
