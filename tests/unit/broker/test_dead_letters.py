"""Dead letters: why, where to, what is on record, and when a circle ends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pika import spec

from tests.support.sessions import Peer, connect, make_state, method, publish

TO_GRAVE = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "grave"}
NOW = datetime.fromtimestamp(1_700_001_000, UTC)  # what 1000 s on the broker's clock is


def with_queues(**arguments: Any) -> Peer:
    """A client, a queue and its grave."""
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="grave"))
    peer.call(
        spec.Queue.Declare(queue="q", arguments=TO_GRAVE | {k.replace("_", "-"): v for k, v in arguments.items()})
    )
    return peer


def take(peer: Peer, queue: str = "grave") -> Any:
    """The properties of the next message, or None."""
    peer.send(method(1, spec.Basic.Get(queue=queue, no_ack=True)))
    frames = peer.frames()
    return frames[1].properties if len(frames) > 1 else None


def death(reason: str, **more: Any) -> dict[str, Any]:
    record = {"count": 1, "reason": reason, "queue": "q", "time": NOW, "exchange": "", "routing-keys": ["q"]}
    return record | more


def test_a_rejected_message_tells_its_story() -> None:
    peer = with_queues()
    peer.send(publish("q", headers={"mine": "x"}, priority=3), method(1, spec.Basic.Get(queue="q")))
    peer.send(method(1, spec.Basic.Reject(1, requeue=False)))
    peer.methods()
    properties = take(peer)
    assert properties.headers == {
        "mine": "x",
        "x-death": [death("rejected")],
        "x-first-death-reason": "rejected",
        "x-first-death-queue": "q",
        "x-first-death-exchange": "",
        "x-last-death-reason": "rejected",
        "x-last-death-queue": "q",
        "x-last-death-exchange": "",
    }
    assert properties.priority == 3


def test_an_expired_message_loses_its_expiration_but_for_the_record() -> None:
    peer = with_queues()
    peer.send(publish("q", expiration="5"))
    peer.state.advance(1000.005)
    properties = take(peer)
    assert properties.expiration is None
    assert properties.headers["x-death"] == [death("expired", **{"original-expiration": "5"})]


def test_a_dropped_message_says_maxlen() -> None:
    peer = with_queues(x_max_length=1)
    peer.send(publish("q"), publish("q"))
    assert take(peer).headers["x-first-death-reason"] == "maxlen"


def test_a_refused_publish_can_be_dead_lettered_too() -> None:
    peer = with_queues(x_max_length=1, x_overflow="reject-publish-dlx")
    peer.send(publish("q"), publish("q"))
    assert take(peer).headers["x-first-death-reason"] == "maxlen"


def test_a_message_that_came_back_too_often_says_delivery_limit() -> None:
    peer = connect(make_state())
    arguments = TO_GRAVE | {"x-queue-type": "quorum", "x-delivery-limit": 0}
    peer.call(spec.Queue.Declare(queue="grave"))
    peer.call(spec.Queue.Declare(queue="q", durable=True, arguments=arguments))
    peer.send(publish("q"), method(1, spec.Basic.Get(queue="q")), method(1, spec.Basic.Nack(1, requeue=True)))
    peer.methods()
    assert take(peer).headers["x-first-death-reason"] == "delivery_limit"


def test_a_second_death_in_the_same_way_is_counted() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q", arguments={"x-dead-letter-exchange": ""}))
    peer.send(publish("q"))
    for tag in (1, 2):
        peer.send(method(1, spec.Basic.Get(queue="q")), method(1, spec.Basic.Reject(tag, requeue=False)))
    peer.methods()
    assert take(peer, "q").headers["x-death"] == [death("rejected", count=2)]


def test_a_circle_without_a_client_in_it_ends() -> None:
    peer = connect(make_state())
    peer.call(spec.Queue.Declare(queue="q", arguments={"x-dead-letter-exchange": "", "x-message-ttl": 10}))
    peer.send(publish("q"))
    peer.state.advance(1001.0)
    assert peer.call(spec.Queue.Declare(queue="q", passive=True)).message_count == 0


def test_keys_and_copies_survive_unless_there_is_a_dead_letter_key() -> None:
    peer = connect(make_state())
    for queue in ("grave", "copy"):
        peer.call(spec.Queue.Declare(queue=queue))
        peer.call(spec.Queue.Bind(queue=queue, exchange="amq.direct", routing_key=queue))
    peer.call(spec.Queue.Bind(queue="grave", exchange="amq.direct", routing_key="q"))
    arguments = {"x-dead-letter-exchange": "amq.direct", "x-message-ttl": 0}
    peer.call(spec.Queue.Declare(queue="q", arguments=arguments))
    peer.send(publish("q", headers={"CC": ["copy"]}))
    assert take(peer, "copy").headers == {"CC": ["copy"]}  # the message itself
    for queue in ("copy", "grave"):
        headers = take(peer, queue).headers
        assert headers["CC"] == ["copy"]
        assert headers["x-death"][0]["routing-keys"] == ["q", "copy"]


@pytest.mark.parametrize("exchange", ["nowhere", ""])
def test_a_dead_letter_that_nobody_takes_is_gone(exchange: str) -> None:
    peer = connect(make_state())
    arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "nobody", "x-message-ttl": 0}
    peer.call(spec.Queue.Declare(queue="q", arguments=arguments))
    peer.send(publish("q"))
    assert peer.frames() == []


def test_headers_that_python_cannot_hold_survive() -> None:
    """A timestamp beyond the year 9999 next to x-death."""
    peer = with_queues(x_message_ttl=0)
    entry = b"\x04late" + b"T" + (2**60).to_bytes(8)
    header = b"\x00\x3c" + bytes(10) + b"\x20\x00" + len(entry).to_bytes(4) + entry
    frame = b"\x02\x00\x01" + len(header).to_bytes(4) + header + b"\xce"
    peer.send(method(1, spec.Basic.Publish(routing_key="q")), frame)
    peer.send(method(1, spec.Basic.Get(queue="grave", no_ack=True)))
    data = peer.session.take_output()
    assert entry in data
    assert b"x-first-death-reason" in data
