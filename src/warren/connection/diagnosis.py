"""One clear error for what Pika reports in nested exceptions."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from pika.exceptions import AuthenticationError, ProbableAccessDeniedError, ProbableAuthenticationError

from warren.connection.errors import ConnectFailed
from warren.connection.settings import Settings
from warren.errors import Code, Execution, Origin, PermissionDenied, Unavailable


def diagnose(settings: Settings, peer: str, error: BaseException) -> ConnectFailed:
    """One clear error for what Pika reports in nested exceptions."""
    causes = list(_causes(error))
    text = describe(error)
    # Pika guesses from when the connection ended. Only what the broker said itself is certain: it may just have died.
    said = text if "ConnectionClosedByBroker" in text else ""
    if "limit" in said and "reached" in said:
        return no_connection(peer, f"the broker takes no more connections: {said}")
    if said and any(isinstance(e, ProbableAuthenticationError | AuthenticationError) for e in causes):
        return _denied(
            f"{peer} refuses user {settings.username!r}: wrong password, unknown user, or not allowed from here"
            f" ('guest' may only log in from the broker's own machine)",
            Code.UNAUTHENTICATED,
            "AUTHENTICATION",
        )
    if "vhost" in said and "not found" in said:
        return no_connection(peer, f"there is no vhost {settings.vhost!r}", reason="VHOST", permanent=True)
    if "refused" in said and any(isinstance(e, ProbableAccessDeniedError) for e in causes):
        message = f"{peer} refuses user {settings.username!r} access to vhost {settings.vhost!r}"
        return _denied(message, Code.PERMISSION_DENIED, "VHOST")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted ({cause.verify_message}): give ssl= a context that trusts it"
            return no_connection(peer, why, reason="TLS", permanent=True)
        if isinstance(cause, ssl.SSLError):
            return no_connection(peer, f"the TLS handshake failed: {cause}", reason="TLS")
        if isinstance(cause, socket.gaierror):
            return no_connection(peer, f"the name cannot be resolved: {cause.strerror}")
        if isinstance(cause, ConnectionRefusedError):
            return no_connection(peer, "connection refused: does RabbitMQ run there?")
    return no_connection(peer, text)


def no_connection(peer: str, why: str, reason: str = "NOT_CONNECTED", permanent: bool = False) -> ConnectFailed:
    """The error for a peer that cannot be reached, or refuses us."""
    error = Unavailable(f"cannot connect to {peer}: {why}", reason=reason, execution=Execution.NOT_SENT)
    return ConnectFailed(error, permanent=permanent)


def _denied(message: str, code: Code, reason: str) -> ConnectFailed:
    error = PermissionDenied(message, code=code, reason=reason, execution=Execution.NOT_SENT, origin=Origin.BROKER)
    return ConnectFailed(error, permanent=True)


def describe(error: BaseException) -> str:
    """The innermost reason, as text."""
    last = list(_causes(error))[-1]
    return str(last) or type(last).__name__


def _causes(error: BaseException) -> Any:
    """The exceptions inside an exception: Pika nests them in args and in ``exceptions``."""
    yield error
    inner = [
        *getattr(error, "exceptions", ()),
        *error.args,
        getattr(error, "exception", None),
        error.__cause__,
    ]
    for one in inner:
        if isinstance(one, BaseException) and one is not error:
            yield from _causes(one)
