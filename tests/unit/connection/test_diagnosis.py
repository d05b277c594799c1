"""What Pika, OpenSSL and the system report, in words for people: what happened, where, and what to do."""

from __future__ import annotations

import errno
import os
import ssl

import pytest
from pika.exceptions import (
    AMQPConnectionError,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    StreamLostError,
)

from warren.connection.addresses import Address
from warren.connection.diagnosis import describe, diagnose, unreachable
from warren.connection.greeting import judge
from warren.connection.settings import make_settings

HERE = Address(2, 1, 6, ("127.0.0.1", 5672))
SETTINGS = make_settings("amqp://ann:secret@rabbit.test/my%20shop")


def certificate(code: int, words: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, words)
    error.verify_code, error.verify_message = code, words
    return error


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "connection refused: does RabbitMQ run there?"),
        (
            OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)),
            "No route to host: check host, port and network",
        ),
        (TimeoutError("no answer within 10 s"), "no answer within 10 s: check host, port and network"),
        (certificate(10, "certificate has expired"), "renew it at the broker, or check the clock here"),
        (certificate(62, "Hostname mismatch"), "it is for another host name: write that one in the URL"),
        (certificate(64, "IP address mismatch"), "it is for another IP address: write its host name in the URL"),
        (certificate(20, "unable to get local issuer"), "give ssl= a context that trusts it"),
        (ssl.SSLError(1, "wrong version number"), "use amqp://, or its TLS port (usually 5671)"),
        (ssl.SSLError(1, "alert"), "check what TLS versions and certificates both sides want"),
        (judge(b""), "and does the port need TLS (amqps://)?"),
        (judge(b"\x15\x03\x03\x00"), "use amqps://, or give ssl= a context"),
        (judge(b"HTTP/1.1 400"), "RabbitMQ's AMQP port is usually 5672, or 5671 with TLS"),
        (judge(b"SSH-2.0-OpenSSH"), "RabbitMQ's AMQP port is usually 5672, or 5671 with TLS"),
        (judge(b"AMQP\x00\x01\x00\x00"), "Warren needs a broker that speaks 0-9-1, like RabbitMQ"),
    ],
    ids=lambda value: value.replace(" ", "-")[:40] if isinstance(value, str) else type(value).__name__,
)
def test_a_peer_that_cannot_be_used_is_named_with_what_to_do(error: Exception, end: str) -> None:
    message = unreachable("127.0.0.1:5672", {HERE: error}).error.message

    assert message.startswith("cannot connect to 127.0.0.1:5672: ")
    assert message.endswith(end)


@pytest.mark.parametrize(
    ("guess", "reply", "words", "end"),
    [
        (ProbableAuthenticationError, "ACCESS_REFUSED", "refuses user 'ann'", "in URL or options"),
        (ProbableAccessDeniedError, "vhost my shop not found", "no vhost 'my shop'", "rabbitmqctl add_vhost 'my shop'"),
        (
            ProbableAccessDeniedError,
            "access to vhost refused for user",
            "refuses user 'ann' access to vhost 'my shop'",
            "rabbitmqctl set_permissions -p 'my shop' ann '.*' '.*' '.*'",
        ),
        (ProbableAccessDeniedError, "connection limit (1) is reached", "no more", "close some, or raise its limit"),
    ],
)
def test_what_the_broker_has_against_us_is_told_with_what_to_do(
    guess: type[Exception], reply: str, words: str, end: str
) -> None:
    error = AMQPConnectionError(guess(ConnectionClosedByBroker(530, reply)))

    failure = diagnose(SETTINGS, "rabbit.test:5672", error)

    assert failure is not None
    message = failure.error.message
    assert "rabbit.test:5672" in message
    assert words in message
    assert message.endswith(end)
    assert "secret" not in message


def test_an_end_without_a_word_is_told_in_plain_words() -> None:
    assert describe(StreamLostError("Transport indicated EOF")) == "the other side closed it without a reason"


def test_the_innermost_reason_is_told() -> None:
    error = StreamLostError("outside")
    error.__cause__ = ConnectionResetError("inside")

    assert describe(error) == "inside"
