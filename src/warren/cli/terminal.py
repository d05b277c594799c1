"""What the commands have in common: the broker's URL, errors and exit codes."""

from __future__ import annotations

import json
import socket
from typing import Annotated, Any, NoReturn

import typer

from warren.connection.settings import DEFAULT_URL, make_settings
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
from warren.printable import block, printable, printable_json

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


def fail_call(error: CallError, as_json: bool, url: str | None = None) -> NoReturn:
    """Say what a call to the broker at `url` ended in, and end with its exit code."""
    if as_json:
        echo_json({"error": _as_dict(error)})
    more = block(error.traceback) if isinstance(error, RemoteError) and error.traceback else None
    if error.reason == "NOT_CONNECTED" and url is not None:
        more = offer_broker(url)
    fail(f"{error}\n{more}" if more else str(error), exit_code(error))


def offer_broker(url: str) -> str | None:
    """What to tell somebody who said nothing of a broker and has none: nobody listens on the default port. Else None.

    It is only offered. A broker that forgets everything must never be taken silently in place of a real one.
    """
    hosts = make_settings(url, name="warren").hosts  # a name in the URL counts for none of the commands
    if hosts != make_settings(DEFAULT_URL).hosts or not _refuses(*hosts[0]):
        return None
    host, port = hosts[0]
    return f"nothing listens on {host}:{port}: start RabbitMQ, or for development, in another terminal: warren broker"


def _refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def exit_code(error: CallError) -> int:
    """The exit code of `warren call` for an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), OTHER)


def _as_dict(error: CallError) -> dict[str, Any]:
    names = ["code", "reason", "execution", "origin", "message", "method", "queue", "call_id", "safe_to_retry"]
    if isinstance(error, RemoteError):
        names += ["type", "details", "traceback"]
    return {name: getattr(error, name) for name in names}


def fail(message: str, exit_code: int) -> NoReturn:
    """Print an error and end the process; what others put into it has no line ends any more."""
    typer.secho("error: ", fg="red", err=True, nl=False)
    typer.echo(printable(message, keep="\n"), err=True)
    raise typer.Exit(exit_code)


def echo_json(value: Any) -> None:
    """Print one line of JSON."""
    typer.echo(printable_json(json.dumps(value, default=str)))
