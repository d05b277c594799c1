"""What the commands have in common: the broker's URL, and the errors of calls."""

from __future__ import annotations

import os
import socket
from typing import Any, NoReturn

from warren.cli.output import OTHER, USAGE, echo_json, fail
from warren.cli.parser import Parser
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
from warren.printable import block

_EXIT_CODES: tuple[tuple[type[CallError], int], ...] = (
    (RemoteError, 1),
    (InvalidArgument, USAGE),
    (MethodNotFound, USAGE),
    (Unavailable, 3),
    (Overloaded, 3),
    (DeadlineExceeded, 4),
    (PermissionDenied, 5),
)


def add_url(parser: Parser) -> None:
    """Add the option that says where the broker is."""
    parser.add_argument(
        "--url",
        default=os.environ.get("WARREN_URL") or DEFAULT_URL,
        help="The broker: amqp://user:password@host:port/vhost or amqps://…; several hosts with commas between"
        f" (default: the environment's WARREN_URL, or {DEFAULT_URL}).",
    )


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
