"""Requests for tests: as Warren writes them, and as other clients do."""

from __future__ import annotations

from typing import Any

from pika import spec

from tests.support import pika_frames
from warren.amqp.frames import Delivery
from warren.protocol import codecs
from warren.protocol.request import Request, RequestTemplate


def request_with(body: bytes = b"", **properties: Any) -> Request:
    """A request as another client, writing through Pika, would send it."""
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = pika_frames.properties(spec.BasicProperties(**properties))
    delivery.body = body
    return Request(delivery)


def template(**given: Any) -> RequestTemplate:
    parts: dict[str, Any] = {
        "content_type": codecs.JSON,
        "reply_to": b"amq.gen-1",
        "bounce": True,
        "durable": False,
    }
    return RequestTemplate("fib", **(parts | given))


def warren_request(**given: Any) -> Request:
    """A request as Warren writes it: 30 s, until epoch second 2,000,000,000."""
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = template(**given).encode(b"p.1", b"p.1", 30_000, 2_000_000_000_000, b"30000")
    return Request(delivery)


def properties_of(encoded: bytes) -> spec.BasicProperties:
    return pika_frames.decode_properties(encoded)


def read_request(properties: bytes) -> Request:
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = properties
    return Request(delivery)
