"""Frames as Pika writes and reads them: the oracle for Warren's own codec."""

from __future__ import annotations

from typing import Any

from pika import data, frame, spec
from pika.compat import long


def method(channel: int, which: Any) -> bytes:
    """The frame of a method, for example ``spec.Basic.Ack(1)``."""
    return bytes(frame.Method(channel, which).marshal())


def publish(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    return method(channel, spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory))


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    return method(channel, spec.Basic.Ack(tag, multiple))


def nack(channel: int, tag: int, *, multiple: bool = False, requeue: bool = False) -> bytes:
    return method(channel, spec.Basic.Nack(tag, multiple, requeue))


def heartbeat() -> bytes:
    return bytes(frame.Heartbeat().marshal())


def header(channel: int, size: int, props: spec.BasicProperties) -> bytes:
    return bytes(frame.Header(channel, size, props).marshal())


def body(channel: int, chunk: bytes) -> bytes:
    return bytes(frame.Body(channel, chunk).marshal())


def content(channel: int, props: spec.BasicProperties, payload: bytes, frame_max: int) -> bytes:
    """The header frame and the body frames, cut as Pika's own `Connection` cuts them."""
    step = frame_max - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE
    chunks = [payload[i : i + step] for i in range(0, len(payload), step)]
    return header(channel, len(payload), props) + b"".join(body(channel, chunk) for chunk in chunks)


def properties(props: spec.BasicProperties) -> bytes:
    """The property flags and list of a content header."""
    return b"".join(props.encode())


def decode_properties(encoded: bytes) -> spec.BasicProperties:
    return spec.BasicProperties().decode(encoded)


def table(headers: dict[str, Any]) -> bytes:
    """A field table without its length."""
    pieces: list[bytes] = []
    data.encode_table(pieces, headers)
    return b"".join(pieces)[4:]


def int64(value: int) -> int:
    """An integer that Pika writes with 64 bits however small it is."""
    number: int = long(value)
    return number
