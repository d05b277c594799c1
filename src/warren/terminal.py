"""What the commands have in common: the broker's URL, errors and exit codes."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

import typer

from warren.errors import (
    CallError,
    DeadlineExceeded,
    InvalidArgument,
    MethodNotFound,
    Overloaded,
    PermissionDenied,
    RemoteError,
    Unavailable,
)

USAGE, OTHER, INTERRUPTED = 2, 6, 130
_EXIT_CODES: tuple[tuple[type[CallError], int], ...] = (
    (RemoteError, 1),
    (InvalidArgument, USAGE),
    (MethodNotFound, USAGE),
    (Unavailable, 3),
    (Overloaded, 3),
    (DeadlineExceeded, 4),
    (PermissionDenied, 5),
)

Url = Annotated[
    str,
    typer.Option(
        envvar="WARREN_URL",
        metavar="URL",
        help="The broker: amqp://user:password@host:port/vhost or amqps://…; several hosts with commas between.",
    ),
]


def fail_call(error: CallError, as_json: bool) -> NoReturn:
    """Say what a call ended in, and end with its exit code."""
    if as_json:
        typer.echo(json.dumps({"error": _as_dict(error)}, default=str))
    trace = error.traceback if isinstance(error, RemoteError) else None
    fail(f"{error}\n{trace}" if trace else str(error), exit_code(error))


def exit_code(error: CallError) -> int:
    """The exit code of `warren call` for an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), OTHER)


def _as_dict(error: CallError) -> dict[str, Any]:
    names = ["code", "reason", "execution", "origin", "message", "method", "queue", "call_id", "safe_to_retry"]
    if isinstance(error, RemoteError):
        names += ["type", "details", "traceback"]
    return {name: getattr(error, name) for name in names}


def fail(message: str, exit_code: int) -> NoReturn:
    """Print an error and end the process."""
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(message, err=True)
    raise typer.Exit(exit_code)
