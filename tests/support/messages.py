"""Requests for tests: as Warren writes them, and as other clients do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pika import spec

from tests.support import pika_frames
from warren.amqp.frames import Delivery
from warren.protocol import codecs
from warren.protocol.request import Request, RequestTemplate, encode_headers


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


def warren_request(headers: Mapping[str, Any] | None = None, **given: Any) -> Request:
    """A request as Warren writes it: 30 s, until epoch second 2,000,000,000."""
    own = encode_headers(headers or {})
    return read_request(template(**given).encode_own(b"p.1", b"p.1", 30_000, 2_000_000_000_000, b"30000", own))


def properties_of(encoded: bytes) -> spec.BasicProperties:
    return pika_frames.decode_properties(encoded)


def read_request(properties: bytes) -> Request:
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = properties
    return Request(delivery)
