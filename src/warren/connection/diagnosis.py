"""One clear error for what Pika reports in nested exceptions."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from shlex import quote
from typing import Any

from pika.exceptions import (
    AuthenticationError,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from warren.connection.addresses import Address
from warren.connection.errors import ConnectFailed
from warren.connection.settings import Settings
from warren.protocol import evidence
from warren.protocol.evidence import conclude

# Pika's words that say nothing to those who do not know it.
_IN_PLAIN_WORDS = {"Transport indicated EOF": "the other side closed it without a reason"}
_CHECK_ADDRESS = "check host, port and network"
# What is wrong with a certificate besides whom it comes from, as OpenSSL numbers it, and what helps.
_OF_CERTIFICATES = {
    9: "it is not valid yet: check the clocks",
    10: "it has expired: renew it at the broker, or check the clock here",
    62: "it is for another host name: write that one in the URL",
    64: "it is for another IP address: write its host name in the URL",
}
# What OpenSSL calls an answer that is not TLS; which of them depends on its version.
_NO_TLS = ("wrong version number", "record layer failure", "packet length too long", "unknown protocol")


def diagnose(settings: Settings, peer: str, error: BaseException) -> ConnectFailed | None:
    """What the broker itself says against us, at whatever address it was reached; None if it said nothing."""
    causes = list(_causes(error))
    text = describe(error)
    # Pika guesses from when the connection ended. Only what the broker said is certain: it may just have died.
    if "ConnectionClosedByBroker" not in text and not any(isinstance(e, ConnectionClosedByBroker) for e in causes):
        return None
    if "limit" in text and "reached" in text:
        return no_connection(peer, f"the broker takes no more connections: {text}; close some, or raise its limit")
    if any(isinstance(e, ProbableAuthenticationError | AuthenticationError) for e in causes):
        why = (
            f"{peer} refuses user {settings.username!r}: wrong password, unknown user, or not allowed from here"
            " ('guest' may only log in from the broker's own machine); check user and password in URL or options"
        )
        return ConnectFailed(conclude(evidence.AUTHENTICATION, why), permanent=True)
    if "vhost" in text and "not found" in text:
        why = (
            f"cannot connect to {peer}: there is no vhost {settings.vhost!r}; correct the end of the URL, or create it:"
            f" rabbitmqctl add_vhost {quote(settings.vhost)}"
        )
        return ConnectFailed(conclude(evidence.VHOST_MISSING, why), permanent=True)
    if "refused" in text and any(isinstance(e, ProbableAccessDeniedError) for e in causes):
        why = (
            f"{peer} refuses user {settings.username!r} access to vhost {settings.vhost!r}; take another, or give it:"
            f" rabbitmqctl set_permissions -p {quote(settings.vhost)} {quote(settings.username)} '.*' '.*' '.*'"
        )
        return ConnectFailed(conclude(evidence.VHOST_DENIED, why), permanent=True)
    return None


def no_connection(peer: str, why: str) -> ConnectFailed:
    """The error for a peer that cannot be reached now."""
    return ConnectFailed(conclude(evidence.NOT_CONNECTED, f"cannot connect to {peer}: {why}"))


def unreachable(peer: str, failures: Mapping[Address, BaseException]) -> ConnectFailed:
    """The error for a peer of which no address led to an open connection."""
    message = f"cannot connect to {peer}: {_told(peer, failures)}"
    tls = [isinstance(_of_tls(error), ssl.SSLError) for error in failures.values()]
    if not all(tls):
        return ConnectFailed(conclude(evidence.NOT_CONNECTED, message))
    untrusted = all(isinstance(_of_tls(error), ssl.SSLCertVerificationError) for error in failures.values())
    return ConnectFailed(conclude(evidence.TLS, message), permanent=untrusted)


def _told(peer: str, failures: Mapping[Address, BaseException]) -> str:
    """Each address and what was wrong with it; a reason that all share is told once."""
    reasons = {str(address): _reason(error) for address, error in failures.items()}
    shared = set(reasons.values())
    if len(shared) > 1:
        return "; ".join(f"{address}: {why}" for address, why in reasons.items())
    (why,) = shared
    tried = ", ".join(address for address in reasons if address != peer.rpartition(":")[0])
    return f"{why} (at {tried})" if tried else why


def _reason(error: BaseException) -> str:
    """What was wrong with one address."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = _OF_CERTIFICATES.get(cause.verify_code, "give ssl= a context that trusts it")
            return f"its certificate is not trusted ({cause.verify_message}): {advice}"
        if isinstance(cause, ssl.SSLError) and any(words in str(cause) for words in _NO_TLS):
            return "the server does not speak TLS on this port: use amqp://, or its TLS port (usually 5671)"
        if isinstance(cause, ssl.SSLError):
            return f"the TLS handshake failed: {cause}; check what TLS versions and certificates both sides want"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused: does RabbitMQ run there?"
        if isinstance(cause, OSError):  # a time-out is one
            return f"{cause.strerror or cause}: {_CHECK_ADDRESS}"
    return describe(error)


def _of_tls(error: BaseException) -> BaseException | None:
    return next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)), None)


def describe(error: BaseException) -> str:
    """The innermost reason, as text."""
    last = list(_causes(error))[-1]
    text = str(last) or type(last).__name__
    return next((plain for words, plain in _IN_PLAIN_WORDS.items() if words in text), text)


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
