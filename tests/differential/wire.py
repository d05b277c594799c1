"""An AMQP client so small that it hides nothing: a blocking socket, and Pika's specification classes for the bytes.

It answers what the protocol demands (Close) and nothing else; everything that the broker sends becomes a `Seen`.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pika import frame, spec

_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD, _CONTENT, _BODY, _HEARTBEAT = 1, 2, 3, 8
_CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}
#: Seconds that a broker may take for an answer; far more than it does.
PATIENCE = 20.0


@dataclass(frozen=True)
class Login:
    """How to introduce oneself. `capabilities` replaces the usual ones; numbers are what TuneOk says."""

    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    mechanism: str = "PLAIN"
    header: bytes = _HEADER
    capabilities: dict[str, bool] = field(default_factory=lambda: dict(_CAPABILITIES))
    channel_max: int | None = None  # None: as the broker offers
    frame_max: int | None = None
    heartbeat: int = 0


@dataclass(frozen=True)
class Seen:
    """What the broker has sent: a method, with the content that belongs to it, or the end of the connection."""

    channel: int
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    header: bytes = b""  # the properties as they were encoded
    body: bytes | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """The properties that are there, or their bytes if Pika cannot read them."""
        try:
            decoded = vars(spec.BasicProperties().decode(self.header))
        except Exception:  # Pika fails in many ways on what other clients may write
            return {"undecodable": self.header}
        return {name: value for name, value in decoded.items() if value is not None}

    @property
    def tag(self) -> int:
        """The delivery tag."""
        return int(self.fields["delivery_tag"])

    @property
    def code(self) -> int:
        """The reply code; 0 if it has none."""
        return int(self.fields.get("reply_code", 0))

    @property
    def text(self) -> str:
        """The body as text."""
        return (self.body or b"").decode()


class Wire:
    """One connection. `connect` shakes hands; without it the wire is as raw as it comes."""

    def __init__(self, port: int) -> None:
        self.frame_max = 131072
        self.ended = False
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, own_port = self._socket.getsockname()
        self.address = f"{host}:{own_port}"  # as the broker sees it
        self._data = b""
        self._ready: deque[Seen] = deque()
        self._open: dict[int, tuple[Any, list[bytes]]] = {}  # content that is not whole: method, then frames

    # --- out ------------------------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """Write bytes; a broker that has gone is noticed on reading."""
        try:
            self._socket.sendall(data)
        except OSError:
            self._end()

    def send(self, channel: int, *methods: Any) -> None:
        """Write methods, in one packet."""
        self.send_bytes(b"".join(method_frame(channel, method) for method in methods))

    def publish(self, channel: int, method: Any, properties: Any, body: bytes) -> None:
        """Write a method and its content."""
        self.send_bytes(method_frame(channel, method) + content_frames(channel, properties, body, self.frame_max))

    # --- in -------------------------------------------------------------------------------------------------------

    def read(self, seconds: float) -> Seen | None:
        """The next thing that the broker sends; None if nothing comes in this time."""
        until = time.monotonic() + seconds
        while not self._ready and not self.ended:
            left = until - time.monotonic()
            if left <= 0 and seconds:
                return None
            if not self._receive(max(left, 0)) and left <= 0:
                return None
        return self._ready.popleft() if self._ready else None

    def _receive(self, seconds: float) -> bool:
        self._socket.settimeout(seconds or 0.0)
        try:
            data = self._socket.recv(1 << 20)
        except (TimeoutError, BlockingIOError):
            return False
        except OSError:
            data = b""
        finally:
            if not self.ended:
                self._socket.settimeout(PATIENCE)
        if not data:
            self._end()
        self._data += data
        self._cut()
        return True

    def _cut(self) -> None:
        while len(self._data) >= 8:
            if self._data[:4] == b"AMQP":
                self._ready.append(Seen(0, "Protocol", {"header": self._data[:8]}))
                self._data = self._data[8:]
                continue
            kind, channel, size = struct.unpack_from(">BHI", self._data)
            if len(self._data) < size + 8:
                return
            payload, end = self._data[7 : size + 7], self._data[size + 7]
            self._data = self._data[size + 8 :]
            assert end == 0xCE, "the broker sent a frame without an end"
            assert size + 8 <= self.frame_max, "the broker sent a frame that is too large"
            self._take(kind, channel, payload)

    def _take(self, kind: int, channel: int, payload: bytes) -> None:
        if kind == _HEARTBEAT:
            self._ready.append(Seen(channel, "Heartbeat"))
        elif kind == _METHOD:
            assert channel not in self._open, "the broker sent a method within content"
            method = _decode(payload)
            if spec.has_content(method.INDEX):
                self._open[channel] = method, []
            else:
                self._see(Seen(channel, method.NAME, _fields(method)))
        else:
            self._take_content(channel, payload)

    def _take_content(self, channel: int, payload: bytes) -> None:
        method, frames = self._open[channel]
        frames.append(payload)
        header, body = frames[0], b"".join(frames[1:])
        if len(body) < int.from_bytes(header[4:12]):
            return
        del self._open[channel]
        self._see(Seen(channel, method.NAME, _fields(method), header[12:], body))

    def _see(self, seen: Seen) -> None:
        self._ready.append(seen)
        if seen.name == "Connection.Close":
            self.send(0, spec.Connection.CloseOk())
        elif seen.name == "Channel.Close":
            self.send(seen.channel, spec.Channel.CloseOk())

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self._socket.close()
            self._ready.append(Seen(0, "End"))

    def close(self) -> None:
        """Close the socket without a word."""
        self._end()

    # --- shaking hands --------------------------------------------------------------------------------------------

    def connect(self, login: Login) -> list[Seen]:
        """Introduce oneself; returns what the broker said to it, to the end or to OpenOk."""
        said = []
        answers = _answers(login)
        self.send_bytes(login.header)
        while (seen := self.read(PATIENCE)) is not None:
            said.append(seen)
            if seen.name in ("End", "Protocol", "Connection.OpenOk"):
                break
            for answer in answers[seen.name](seen) if seen.name in answers else ():
                if isinstance(answer, spec.Connection.TuneOk):
                    self.frame_max = answer.frame_max or self.frame_max
                self.send(0, answer)
        return said


def _answers(login: Login) -> dict[str, Callable[[Seen], tuple[Any, ...]]]:
    def start_ok(_: Seen) -> tuple[Any, ...]:
        response = f"\0{login.user}\0{login.password}"
        if login.mechanism == "AMQPLAIN":
            response = _amqplain(login)
        properties = {"product": "tests", "capabilities": login.capabilities}
        return (spec.Connection.StartOk(properties, login.mechanism, response, "en_US"),)

    def tune_ok(seen: Seen) -> tuple[Any, ...]:
        channel_max = seen.fields["channel_max"] if login.channel_max is None else login.channel_max
        frame_max = seen.fields["frame_max"] if login.frame_max is None else login.frame_max
        tune = spec.Connection.TuneOk(channel_max, frame_max, login.heartbeat)
        return tune, spec.Connection.Open(login.vhost)

    return {"Connection.Start": start_ok, "Connection.Tune": tune_ok}


def _amqplain(login: Login) -> str:
    def entry(name: str, value: str) -> str:
        return f"{chr(len(name))}{name}S{struct.pack('>I', len(value)).decode()}{value}"

    return entry("LOGIN", login.user) + entry("PASSWORD", login.password)


def method_frame(channel: int, method: Any) -> bytes:
    """A method as one frame."""
    return bytes(frame.Method(channel, method).marshal())


def content_frames(channel: int, properties: Any, body: bytes, frame_max: int) -> bytes:
    """A content header, and the body in frames."""
    step = frame_max - 8
    pieces = [bytes(frame.Header(channel, len(body), properties).marshal())]
    pieces += [bytes(frame.Body(channel, body[i : i + step]).marshal()) for i in range(0, len(body), step)]
    return b"".join(pieces)


def _decode(payload: bytes) -> Any:
    kind = spec.methods[int.from_bytes(payload[:4])]
    method = kind.__new__(kind)  # some constructors insist on arguments
    method.decode(payload, 4)
    return method


def _fields(method: Any) -> dict[str, Any]:
    return dict(vars(method))
