"""What is typed after ``warren``: the standard library's parser, with words for people where something is wrong."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from shutil import get_terminal_size
from textwrap import fill
from typing import Any, NamedTuple, NoReturn

from warren.checks import nearest
from warren.cli.commands import meant
from warren.cli.output import USAGE, fail, say

_NARROWEST = 20  # columns that text is laid out for, however narrow the terminal is


class Offered(NamedTuple):
    """What may be typed behind a command.

    Attributes:
        options: each with what it does.
        values: of options that take one of a few words, these.
        arguments: such words that are no option's.
    """

    options: dict[str, str]
    values: dict[str, tuple[str, ...]]
    arguments: tuple[str, ...]


class Parser(argparse.ArgumentParser):
    """The arguments of one command. What runs it is its default ``run``, which gets all others by name."""

    def __init__(self, command: str, summary: str, below: Mapping[str, str]) -> None:
        """Of the command `command`, with the commands `below` it and what they do."""
        super().__init__(
            prog=f"warren {command}".rstrip(),
            description=_filled(summary),
            epilog=_listed(below) if below else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("-h", "--help", action="help", help="Show this help.")
        self.command, self._below = command, below
        #: Unknown options with one dash are among these arguments, for the sake of negative numbers.
        self.rest: str | None = None

    def explain(self, text: str) -> None:
        """Add to the end of the help."""
        self.epilog = f"{self.epilog}\n\n{text}" if self.epilog else text

    def flag(self, *names: str, help: str, dest: str | None = None) -> None:
        """Add an option without a value."""
        self.add_argument(*names, action="store_true", help=help, dest=dest)

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """The values of all arguments, which may stand in any order; ends the process if something is wrong."""
        found, left = self.parse_known_intermixed_args(words)
        options = vars(found)
        if self.rest is not None:
            options[self.rest] = [*options[self.rest], *(word for word in left if not word.startswith("--"))]
            left = [word for word in left if word.startswith("--")]
        if left and self._below and not words[0].startswith("-"):  # what follows is a command's that there is not
            self._no_command(words[0])
        if left:
            self._refuse(next((word for word in left if word.startswith("-")), left[0]))
        return options

    def offered(self) -> Offered:
        """What may be typed."""
        formatter, shown = self._get_formatter(), [one for one in self._actions if one.help != argparse.SUPPRESS]
        return Offered(
            {name: formatter._expand_help(action) for action in shown for name in action.option_strings},
            {name: _choices(action) for action in shown if action.choices for name in action.option_strings},
            tuple(word for action in shown if not action.option_strings for word in _choices(action)),
        )

    def print_help(self, file: object = None) -> None:
        """Print the help; the library's own would keep to itself that the disk is full."""
        say(self.format_help(), end="")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where to read how it is right."""
        fail(f"{message}; see {self.prog} --help", USAGE)

    def _refuse(self, word: str) -> NoReturn:
        if word.startswith("-"):
            word = word.partition("=")[0]
            self._no_such("option", word, [name for name in self._option_string_actions if name.startswith("--")])
        if self._below:
            self._no_command(word)
        self.error(f"{word} is one argument too many")

    def _no_command(self, word: str) -> NoReturn:
        self._no_such("command", word, self._below, _one_of(meant(self.command, word)))

    def _no_such(self, kind: str, word: str, known: Iterable[str], likely: str = "") -> NoReturn:
        near = likely or nearest(word, known)
        self.error(f"there is no {kind} {word}" + (f" (did you mean {near}?)" if near else ""))


def _one_of(names: Sequence[str]) -> str:
    return " or ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(map(str, action.choices or ()))


def _listed(commands: Mapping[str, str]) -> str:
    width = max(map(len, commands))
    lines = [_filled(f"  {name:<{width}}  {what}", width + 4) for name, what in commands.items()]
    return "\n".join(["commands:", *lines])


def _filled(text: str, indent: int = 0) -> str:
    return fill(text, max(get_terminal_size().columns - 2, _NARROWEST), subsequent_indent=" " * indent)


def number(kind: Callable[[str], float], low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """What reads an `int` or a `float` from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # nor is a nan
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
        return value

    words = "a whole number" if kind is int else "a number"
    if high < math.inf:
        words += f" from {low} to {high}"
    elif low > -math.inf:
        words += f" of at least {low}"
    return read
