"""A published message on its way in: header and body frames put together [4.2.6]. Pure."""

from __future__ import annotations

from warren.amqp.frames import BODY, HEADER
from warren.broker.errors import AmqpError
from warren.broker.frames import Publish, describe_frame
from warren.broker.message import Message

_NO_HEADER = "expected content header for class 60, got non content header frame instead"


class Content:
    """What follows a Basic.Publish."""

    __slots__ = ("_chunks", "_header", "_limit", "_missing", "publish")

    def __init__(self, publish: Publish, limit: int) -> None:
        self.publish = publish
        self._limit = limit
        self._header: bytes | None = None
        self._missing = 0
        self._chunks: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> Message | None:
        """One frame; the message with the last of them.

        Raises:
            AmqpError: a frame that does not belong here, a message that is too large or wants the impossible.
            FrameError: properties that do not add up.
        """
        if self._header is None:
            if kind != HEADER:
                raise AmqpError(505, _NO_HEADER)
            return self._take_header(payload)
        if kind != BODY:
            raise AmqpError(505, "expected content body, got non content body frame instead")
        return self._take_body(self._header, payload)

    def _take_header(self, payload: bytes) -> Message | None:
        if len(payload) < 14:
            raise AmqpError(501, describe_frame(HEADER, payload) + ": unknown_frame")
        if payload[:2] != b"\x00\x3c":
            other = int.from_bytes(payload[:2])
            raise AmqpError(505, f"expected content header for class 60, got one for class {other} instead")
        size = int.from_bytes(payload[4:12])
        if size > self._limit:
            raise AmqpError(406, f"message size {size} is larger than configured max size {self._limit}")
        self._header = header = payload[12:]
        self._missing = size
        return None if size else self._message(header, b"")

    def _take_body(self, header: bytes, payload: bytes) -> Message | None:
        self._missing -= len(payload)
        if self._missing < 0:
            raise AmqpError(501, "content body is longer than its header says")
        if self._missing:
            if payload:  # frames of nothing may go on for ever
                self._chunks.append(payload)
            return None
        return self._message(header, b"".join((*self._chunks, payload)) if self._chunks else payload)

    def _message(self, header: bytes, body: bytes) -> Message:
        publish = self.publish
        if publish.immediate:
            raise AmqpError(540, "immediate=true")
        return Message(publish.exchange, publish.key, publish.route, header, body)
