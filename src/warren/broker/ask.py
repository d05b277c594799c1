"""Asking a running broker for its status: a small blocking AMQP client, for a TCP or Unix socket."""

from __future__ import annotations

import json
import socket

from pika import spec

from warren.amqp.frames import BODY, HEADER, HEARTBEAT, Properties, content_frames, encode_properties
from warren.broker.frames import PROTOCOL_HEADER, FrameReader, Method, decode_method, encode_method
from warren.broker.model import REPLY_TO
from warren.broker.status import QUEUE, Status, parse_status

_FRAME_MAX = 131072


class AskError(Exception):
    """There is no answer; the text says why."""


def ask_status(sock: socket.socket, user: str, password: str, vhost: str = "/") -> Status:
    """Ask the broker behind a connected socket what it is doing.

    Raises:
        AskError: it refuses, or it is none of Warren's.
        OSError: the connection is lost, or its timeout is over.
    """
    asker = _Asker(sock)
    sock.sendall(PROTOCOL_HEADER)
    asker.expect(spec.Connection.Start)
    capabilities = {"capabilities": {"authentication_failure_close": True}, "connection_name": "warren broker status"}
    asker.send(0, spec.Connection.StartOk(capabilities, "PLAIN", f"\0{user}\0{password}", "en_US"))
    asker.expect(spec.Connection.Tune)
    asker.send(0, spec.Connection.TuneOk(1, _FRAME_MAX, 0))
    asker.send(0, spec.Connection.Open(vhost))
    asker.expect(spec.Connection.OpenOk)
    asker.send(1, spec.Channel.Open())
    asker.expect(spec.Channel.OpenOk)
    asker.send(1, spec.Basic.Consume(queue=REPLY_TO, no_ack=True))
    asker.expect(spec.Basic.ConsumeOk)
    question = b"".join(content_frames(1, encode_properties(Properties(reply_to=REPLY_TO.encode())), b"", _FRAME_MAX))
    asker.send(1, spec.Basic.Publish(routing_key=QUEUE, mandatory=True), question)
    asker.expect(spec.Basic.Deliver)
    status = parse_status(json.loads(asker.content()))
    asker.send(0, spec.Connection.Close(200, "bye", 0, 0))
    asker.expect(spec.Connection.CloseOk)
    return status


class _Asker:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(_FRAME_MAX)

    def send(self, channel: int, method: Method, content: bytes = b"") -> None:
        self._sock.sendall(encode_method(channel, method) + content)

    def _frame(self) -> tuple[int, bytes]:
        while True:
            frame = self._reader.next()
            if frame is None:
                data = self._sock.recv(65536)
                if not data:
                    raise AskError("the broker closed the connection")
                self._reader.feed(data)
            elif frame[0] != HEARTBEAT:
                return frame[0], frame[2]

    def expect(self, kind: type) -> None:
        """Read methods until the one wanted."""
        while True:
            method = decode_method(self._frame()[1])
            if isinstance(method, kind):
                return
            if isinstance(method, spec.Basic.Return):
                raise AskError("this broker does not tell its status: it is none of Warren's")
            if isinstance(method, spec.Connection.Close | spec.Channel.Close):
                raise AskError(f"the broker refuses: {method.reply_text}")

    def content(self) -> bytes:
        """The body of a message."""
        kind, header = self._frame()
        assert kind == HEADER
        missing = int.from_bytes(header[4:12])
        chunks = []
        while missing:
            kind, chunk = self._frame()
            assert kind == BODY
            chunks.append(chunk)
            missing -= len(chunk)
        return b"".join(chunks)
