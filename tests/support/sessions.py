"""The embedded broker without sockets: a client of a `Session`, with time that stands still until it is moved."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from pika import frame, spec

from warren.broker.session import Session
from warren.broker.state import Settings, State

HEADER = b"AMQP\x00\x00\x09\x01"
CAPABILITIES = {"consumer_cancel_notify": True, "connection.blocked": True, "authentication_failure_close": True}


def make_state(**settings: Any) -> State:
    """A broker whose clock stands at 1000 s, and whose random names are numbers."""
    numbers = count(1)
    return State(Settings(**settings), lambda: str(next(numbers)), 1000.0, 1_700_000_000.0)


def method(channel: int, of: Any) -> bytes:
    """A method frame."""
    encoded: bytes = frame.Method(channel, of).marshal()
    return encoded


def message(channel: int, body: bytes, **properties: Any) -> bytes:
    """A header frame and one body frame, or none for an empty body."""
    head: bytes = frame.Header(channel, len(body), spec.BasicProperties(**properties)).marshal()
    return head + (frame.Body(channel, body).marshal() if body else b"")


def publish(key: str, body: bytes = b"m", *, exchange: str = "", mandatory: bool = False, **properties: Any) -> bytes:
    """A whole publish on channel 1."""
    start = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    return method(1, start) + message(1, body, **properties)


def split(data: bytes) -> list[Any]:
    """The frames in some bytes, decoded by Pika."""
    frames = []
    while data:
        used, decoded = frame.decode_frame(data)
        assert decoded is not None, "half a frame"
        frames.append(decoded)
        data = data[used:]
    return frames


class Peer:
    """A client that speaks frames."""

    def __init__(self, state: State, *, loopback: bool = True, backlog: Callable[[], int] = lambda: 0) -> None:
        self.state = state
        self.session = Session(state, loopback=loopback, backlog=backlog)

    def send(self, *pieces: bytes) -> None:
        """Send bytes, and let the answer wait."""
        self.session.receive(b"".join(pieces))

    def frames(self) -> list[Any]:
        """What has come since the last time."""
        return split(self.session.take_output())

    def methods(self) -> list[Any]:
        """The methods that have come since the last time."""
        return [f.method for f in self.frames() if isinstance(f, frame.Method)]

    def call(self, *methods: Any, channel: int = 1) -> Any:
        """Send methods; the first one that comes back."""
        self.send(*(method(channel, each) for each in methods))
        return self.methods()[0]

    def handshake(self, heartbeat: int = 0, vhost: str = "/", **start: Any) -> Peer:
        """All up to OpenOk."""
        given = {
            "client_properties": {"capabilities": CAPABILITIES},
            "mechanism": "PLAIN",
            "response": "\0guest\0guest",
        }
        self.send(HEADER, method(0, spec.Connection.StartOk(**given | start)))
        self.send(method(0, spec.Connection.TuneOk(2047, 131072, heartbeat)), method(0, spec.Connection.Open(vhost)))
        return self

    def opened(self, *channels: int) -> Peer:
        """A connection with channels."""
        self.handshake()
        self.send(*(method(channel, spec.Channel.Open()) for channel in channels or (1,)))
        self.session.take_output()
        return self

    def bodies(self) -> list[bytes]:
        """The bodies of the messages that have come since the last time."""
        return [f.fragment for f in self.frames() if isinstance(f, frame.Body)]


def connect(state: State, *channels: int) -> Peer:
    """A client with open channels, 1 unless told otherwise."""
    return Peer(state).opened(*channels)
