"""The command line. `main` is the entry point ``warren``; each command has a module here.

An edge: nothing imports it. Logging is configured here and nowhere else. It needs nothing that a worker does not need.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from warren.cli.commands import COMMANDS, below
from warren.cli.output import CANNOT_PRINT, INTERRUPTED, USAGE, complain, say
from warren.cli.parser import Parser
from warren.purity import compiled
from warren.version import __version__


def main() -> None:
    """Run the command line, and end the process."""
    _prepare_streams()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:  # while modules were loaded
        code = INTERRUPTED
    except OSError as error:  # a full disk behind the output, for example
        _let_go_of_stdout()
        if not isinstance(error, BrokenPipeError):  # whoever read it has had enough
            complain(f"error: cannot write the output: {error.strerror or error}; the command may be done all the same")
        code = CANNOT_PRINT
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run the command that these words are; returns its exit code."""
    name = next(name for name in (" ".join(words[:2]), *words[:1], "") if name in COMMANDS)
    module, summary = COMMANDS[name]
    parser = Parser(name, summary, below(name))
    try:
        if module:
            import_module(f"{__name__}.{module}").COMMANDS[name](parser)
        else:
            _be_a_group(parser)
        options = parser.read(words[len(name.split()) :])
        return options.pop("run")(**options) or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0


def _be_a_group(parser: Parser) -> None:
    def help_(version: bool = False) -> int:
        if version:
            say(f"warren {__version__} ({'compiled by mypyc' if compiled() else 'pure Python'})")
            return 0
        parser.print_help()
        return USAGE

    parser.usage = "%(prog)s COMMAND ..."
    if not parser.command:
        parser.flag("--version", help="Show the version.")
    parser.set_defaults(run=help_)


def _prepare_streams() -> None:
    """Have both streams, where one is closed, too: what is printed there goes nowhere, and nothing fails over it."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _let_go_of_stdout() -> None:
    """What could not be written would be tried again at the end of the process, and complained of."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
