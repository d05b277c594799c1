"""The request path of a server: whatever is delivered is settled once and answered at most once, and nothing raises."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import spec

from tests.property import strategies as some
from tests.support import pika_frames
from tests.support.fake_channel import Bench
from warren.amqp import frames
from warren.amqp.frames import Delivery

ROUTE = b"\x06warren\x03any"


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """The worker logs each refusal at ERROR."""
    logger = logging.getLogger("warren.server")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def delivery(properties: bytes, body: bytes | None, *, redelivered: bool = False) -> Delivery:
    made = Delivery(7, redelivered, ROUTE)
    made.properties, made.body, made.body_size = properties, body, len(body or b"")
    return made


def handle(made: Delivery, *, draining: bool) -> None:
    async def run() -> None:
        await Bench(draining=draining).take(made)

    asyncio.run(run())


content_types = st.sampled_from(
    ["application/json", "application/msgpack", "text/plain", "application/octet-stream", "APPLICATION/JSON; x=y", "x"]
)
#: Near to what a request may be: right names more often than not, and numbers where numbers belong.
requests = st.fixed_dictionaries(
    {},
    optional={
        "content_type": content_types | some.short,
        "type": st.sampled_from(["text", "typed", "again", "once"]) | some.short,
        "reply_to": st.sampled_from(["replies", "amq.rabbitmq.reply-to.x.y"]) | some.short,
        "correlation_id": some.short,
        "message_id": some.short,
        "user_id": st.sampled_from(["server", "bob"]),
        "expiration": some.short,
        "headers": st.dictionaries(
            st.sampled_from(["rpc-v", "rpc-timeout-ms", "rpc-deadline", "rpc-attempt", "rpc-user", "CC", "x-a", "a"]),
            st.integers(-(2**63), 2**63 - 1) | st.sampled_from([1, 30_000, "x", None, ["r"], {"a": 1}]),
            max_size=5,
        ),
    },
)
bodies = st.none() | st.binary(max_size=60) | st.sampled_from([b"[1]", b'["a"]', b'{"n":1,"names":["a"]}', b"\x91\x01"])


@given(requests | some.property_sets, bodies, st.booleans(), st.booleans())
def test_every_request_is_settled_once_and_answered_at_most_once(
    properties: dict[str, Any], body: bytes | None, redelivered: bool, draining: bool
) -> None:
    encoded = pika_frames.properties(spec.BasicProperties(**properties))
    handle(delivery(encoded, body, redelivered=redelivered), draining=draining)


@given(st.binary(max_size=120), bodies, st.booleans(), st.booleans())
@example(b"\x20\x00\x00\x00\x00\x02\x05r", b"", False, False)
@example(b"\x22\x00\x00\x00\x00\x02\x05r\x01q", b"", False, False)
def test_every_sequence_of_bytes_in_place_of_properties_is_settled_once(
    properties: bytes, body: bytes | None, redelivered: bool, draining: bool
) -> None:
    handle(delivery(properties, body, redelivered=redelivered), draining=draining)


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("less", [0, 10, 30, 200])
def test_headers_that_fill_a_frame_never_make_one_that_is_too_large(less: int, draining: bool) -> None:
    size = 131_072 - frames.OVERHEAD - frames.CONTENT_HEAD - 2 - 4 - less
    table = b"\x01hS" + (size - 7).to_bytes(4, "big") + b"x" * (size - 7)
    handle(delivery(b"\x20\x00" + len(table).to_bytes(4, "big") + table, b"\xff"), draining=draining)
