"""Clients that are held back: publishers under an alarm, and those who do not read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from pika import spec

from rabbit import Node
from tests.differential.both import Brokers, describe, run
from tests.differential.peer import Peer
from warren.amqp.frames import HEARTBEAT_FRAME
from warren.broker import Broker
from warren.broker.state import Settings

PATIENCE = 30.0  # seconds

Alarm = Callable[[], Any]


@contextmanager
def alarm(raise_it: Alarm, end_it: Alarm) -> Iterator[None]:
    raise_it()
    try:
        yield
    finally:
        end_it()


@pytest.mark.parametrize("body", ["", "hello"])
def test_under_an_alarm_the_first_message_is_held_if_it_has_a_body(brokers: Brokers, rabbit: Node, body: str) -> None:
    def script(raise_alarm: Alarm, end_alarm: Alarm, peer: Peer) -> None:
        channel = peer.channel()
        channel.queue("q")
        channel.confirms()
        with alarm(raise_alarm, end_alarm):
            channel.publish("q", body)
            channel.connection.expect(lambda seen: seen.name == "Connection.Blocked")
            if not body:
                peer.wait_for("q", 1)
            channel.publish("q", "second")
            peer.note(peer.count("q"))
        channel.connection.expect(lambda seen: seen.name == "Connection.Unblocked")
        channel.confirmed(2)
        peer.note(peer.count("q"))

    raise_ = partial(
        rabbit.ctl, "eval", "gen_event:sync_notify(rabbit_alarm, {set_alarm, {{resource_limit, memory, node()}, []}})."
    )
    end = partial(
        rabbit.ctl, "eval", "gen_event:sync_notify(rabbit_alarm, {clear_alarm, {resource_limit, memory, node()}})."
    )
    expected = run(partial(script, raise_, end), rabbit.port, "RabbitMQ")
    embedded = brokers.embedded
    actual = run(partial(script, embedded.block, embedded.unblock), embedded.port, "the embedded broker")
    assert actual == expected, describe(expected, actual)


def test_a_client_that_sends_heartbeats_and_reads_nothing_is_cut_off() -> None:
    """After `send_timeout`, 30 s by default, which would be long for a test: here it is one second at both."""
    with Node(name="warren-send", extra_conf="tcp_listen_options.send_timeout = 1000") as node:
        _reads_nothing(node.port)
    with Broker() as broker:
        broker._running().state.settings = Settings(send_timeout=1.0)
        _reads_nothing(broker.port)


def _reads_nothing(port: int) -> None:
    """Come back when the broker has given up a consumer that reads nothing: what it was sent is in the queue again."""
    peer = Peer(port)
    channel = peer.channel()
    channel.queue("q", durable=True)
    for _ in range(60):
        channel.publish("q", bytes(500_000))
    peer.wait_for("q", 60)
    deaf = peer.connect().channel()
    deaf.connection.wire.send(deaf.number, spec.Basic.Consume(queue="q", consumer_tag="deaf"))
    end = time.monotonic() + PATIENCE
    while peer.count("q") == (60, 0) and time.monotonic() < end:
        time.sleep(0.01)
    while peer.count("q") != (60, 0):
        assert time.monotonic() < end
        with suppress(OSError):
            deaf.connection.wire.send_bytes(HEARTBEAT_FRAME)
        time.sleep(0.05)
    peer.clean()
