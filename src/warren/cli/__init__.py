"""The command line. `main` is the entry point ``warren``; each command has a module here.

An edge: nothing imports it. Logging is configured here and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated

import typer

import warren
from warren.cli.plain import PlainGroup

#: The module of each command. Only the one that is asked for is loaded: `warren broker` has no use for a client.
_MODULES = {
    "serve": "serve",
    "worker": "serve",
    "call": "call",
    "bench": "bench",
    "echo": "bench",
    "dead": "dead",
    "broker": "broker",
    "demo": "demo",
}


_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    asked_for = sys.argv[1:2]
    try:
        make_app(asked_for if set(asked_for) <= set(_MODULES) else ())(prog_name="warren")
    except KeyboardInterrupt:  # while modules were loaded
        sys.exit(_INTERRUPTED)
    except OSError as error:  # a full disk behind the output, for example; a closed pipe is Click's to handle
        sys.exit(f"error: {error.strerror or error}")


def make_app(commands: Iterable[str] = ()) -> typer.Typer:
    """The command line with these commands; with all of them if none is named."""
    app = typer.Typer(
        name="warren",
        cls=PlainGroup,
        help="RPC over RabbitMQ: serve Python functions, and call them.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for module in dict.fromkeys(_MODULES[name] for name in list(commands) or _MODULES):
        import_module(f"{__name__}.{module}").register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"warren {warren.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
