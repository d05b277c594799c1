"""What a peer speaks, told by the first bytes that it sends: not every port is an AMQP broker's. Pure."""

from __future__ import annotations

from warren.amqp.frames import BODY, HEADER, HEARTBEAT, METHOD

#: Bytes of a greeting that are enough to tell: an AMQP protocol header has as many [4.2.2].
ENOUGH = 8

_RIGHT_PORT = "RabbitMQ's AMQP port is usually 5672, or 5671 with TLS"
_FRAME_TYPES = frozenset((METHOD, HEADER, BODY, HEARTBEAT))
_TLS_ALERT, _TLS_HANDSHAKE, _TLS_MAJOR = 21, 22, 3  # RFC 8446, section 5.1


class NotAmqp(Exception):
    """The peer sent no AMQP 0-9-1 frame; the message says what it sent instead."""


class Greeting:
    """What a peer sends first, until it is known to be AMQP."""

    def __init__(self) -> None:
        self._first = b""
        self._is_amqp = False

    def take(self, data: bytes) -> bytes:
        """Take the next bytes; returns all that have come once they are known to be AMQP, until then nothing.

        Raises:
            NotAmqp: they are something else.
        """
        self._first += data
        self._is_amqp = self._first[0] in _FRAME_TYPES
        if not self._is_amqp and (len(self._first) >= ENOUGH or _is_alert(self._first)):
            raise judge(self._first)
        return self._first if self._is_amqp else b""

    @property
    def wrong(self) -> NotAmqp | None:
        """What is wrong with a peer that ends the connection now; None if it has sent AMQP."""
        return None if self._is_amqp else judge(self._first)


def _is_alert(greeting: bytes) -> bool:
    """Whether it is an alert of TLS: shorter than what else is told apart here, and nothing need follow."""
    return greeting[:2] == bytes((_TLS_ALERT, _TLS_MAJOR))


def judge(greeting: bytes) -> NotAmqp:
    """What is wrong with a peer that sent this and no frame; without TLS, or inside it."""
    if not greeting:
        return NotAmqp(
            "the server closed the connection without an answer: is this RabbitMQ's AMQP port (usually 5672; 15672 is"
            " its management page), is RabbitMQ up, and does the port need TLS (amqps://)?"
        )
    if greeting[0] in (_TLS_ALERT, _TLS_HANDSHAKE) and greeting[1:2] in (b"", bytes([_TLS_MAJOR])):
        return NotAmqp("the server speaks TLS on this port: use amqps://, or give ssl= a context")
    return NotAmqp(f"this is not an AMQP 0-9-1 server: {_spoken(greeting)}")


def _spoken(greeting: bytes) -> str:
    if greeting.startswith(b"HTTP"):
        return f"it speaks HTTP, as RabbitMQ's management page does on port 15672; {_RIGHT_PORT}"
    if greeting.startswith(b"AMQP") and len(greeting) >= ENOUGH:
        major, minor, revision = greeting[5:8]
        asked = f"{major}.{minor}" if major else f"0-{minor}-{revision}"
        return f"it asks for AMQP {asked}; Warren needs a broker that speaks 0-9-1, like RabbitMQ"
    return f"it begins with {greeting[:ENOUGH]!r}; {_RIGHT_PORT}"
