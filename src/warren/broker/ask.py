"""Asking a running broker for its status: a small blocking AMQP client, for a TCP or Unix socket."""

from __future__ import annotations

import json
import socket

from warren.amqp import methods as amqp
from warren.amqp.frames import BODY, HEADER, HEARTBEAT, Properties, content_frames, encode_properties
from warren.amqp.methods import Kind, Method, encode_method
from warren.amqp.tables import encode_table
from warren.broker.frames import PROTOCOL_HEADER, FrameReader, decode_method
from warren.broker.replies import REPLY_TO
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
    asker.expect(amqp.Connection.Start)
    capabilities = {"capabilities": {"authentication_failure_close": True}, "connection_name": "warren broker status"}
    asker.send(0, amqp.Connection.StartOk(encode_table(capabilities), "PLAIN", f"\0{user}\0{password}", "en_US"))
    asker.expect(amqp.Connection.Tune)
    asker.send(0, amqp.Connection.TuneOk(1, _FRAME_MAX, 0))
    asker.send(0, amqp.Connection.Open(vhost))
    asker.expect(amqp.Connection.OpenOk)
    asker.send(1, amqp.Channel.Open())
    asker.expect(amqp.Channel.OpenOk)
    asker.send(1, amqp.Basic.Consume(queue=REPLY_TO, no_ack=True))
    asker.expect(amqp.Basic.ConsumeOk)
    question = b"".join(content_frames(1, encode_properties(Properties(reply_to=REPLY_TO.encode())), b"", _FRAME_MAX))
    asker.send(1, amqp.Basic.Publish(routing_key=QUEUE, mandatory=True), question)
    asker.expect(amqp.Basic.Deliver)
    status = parse_status(json.loads(asker.content()))
    asker.send(0, amqp.Connection.Close(200, "bye", 0, 0))
    asker.expect(amqp.Connection.CloseOk)
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
                    raise AskError("the broker closed the connection: is this an AMQP port, and without TLS?")
                self._reader.feed(data)
            elif frame[0] != HEARTBEAT:
                return frame[0], frame[2]

    def expect(self, kind: Kind) -> None:
        """Read methods until the one wanted."""
        while True:
            method = decode_method(self._frame()[1])
            if method.kind is kind:
                return
            if method.kind is amqp.Basic.Return:
                raise AskError(
                    "this broker does not tell its status: it is none of Warren's; ask RabbitMQ's rabbitmqctl"
                )
            if method.kind in (amqp.Connection.Close, amqp.Channel.Close):
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
