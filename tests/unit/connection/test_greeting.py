"""What a peer speaks, by its first bytes."""

import pytest

from warren.connection.greeting import Greeting, NotAmqp, judge


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        (b"", "the server closed the connection without an answer"),
        (b"\x15\x03\x01\x00\x02\x02\n", "the server speaks TLS on this port: use amqps://"),  # what RabbitMQ sends
        (b"\x15", "the server speaks TLS on this port: use amqps://"),
        (b"\x15\x04", "this is not an AMQP 0-9-1 server: it begins with b'\\x15\\x04'"),
        (b"HTTP/1.1 400 Bad Request\r\n", "this is not an AMQP 0-9-1 server: it speaks HTTP"),
        (b"AMQP\x00\x01\x00\x00", "this is not an AMQP 0-9-1 server: it asks for AMQP 1.0"),
        (b"AMQP\x03\x01\x00\x00", "this is not an AMQP 0-9-1 server: it asks for AMQP 1.0"),
        (b"AMQP\x00\x00\x08\x00", "this is not an AMQP 0-9-1 server: it asks for AMQP 0-8-0"),
        (b"AMQP", "this is not an AMQP 0-9-1 server: it begins with b'AMQP'"),
        (b"SSH-2.0-OpenSSH\r\n", "this is not an AMQP 0-9-1 server: it begins with b'SSH-2.0-'"),
    ],
)
def test_the_error_says_what_the_peer_speaks(greeting: bytes, said: str) -> None:
    assert str(judge(greeting)).startswith(said)


def test_a_peer_that_begins_with_a_frame_speaks_amqp() -> None:
    greeting = Greeting()
    assert greeting.wrong is not None
    assert greeting.take(b"\x01\x00") == b"\x01\x00"
    assert greeting.wrong is None


def test_an_alert_of_tls_is_known_at_once_by_a_peer_that_stays_silent_after_it() -> None:
    greeting = Greeting()
    assert greeting.take(b"\x15") == b""
    with pytest.raises(NotAmqp, match="the server speaks TLS"):
        greeting.take(b"\x03\x01\x00\x02\x02")
