"""Run a script on both brokers, and compare."""

from __future__ import annotations

import difflib
import pprint
from collections.abc import Callable
from typing import Any

import pytest

from tests.differential.differences import forgive
from tests.differential.peer import Peer
from tests.differential.wire import Seen
from warren.broker import Broker

_LINES = 60  # of a difference; what follows is mostly its consequence

Script = Callable[[Peer], None]
Operation = Callable[[], Seen]


class Brokers:
    """RabbitMQ and the embedded broker."""

    def __init__(self, rabbit: int, embedded: Broker) -> None:
        self.rabbit = rabbit
        self.embedded = embedded

    def compare(self, script: Script) -> None:
        """Run a script on both: they must show the client the same, and keep nothing of it."""
        expected = run(script, self.rabbit, "RabbitMQ")
        actual = run(script, self.embedded.port, "the embedded broker")
        if actual != expected:
            pytest.fail(describe(expected, actual), pytrace=False)
        assert not self.embedded.status().queues


def describe(expected: Any, actual: Any) -> str:
    """Where two records differ."""
    one, other = (pprint.pformat(record, width=150).splitlines() for record in (expected, actual))
    diff = list(difflib.unified_diff(one, other, "RabbitMQ", "the embedded broker", lineterm="", n=2))
    return "\n".join(diff[:_LINES] + ["..."] * (len(diff) > _LINES))


def run(script: Script, port: int, name: str) -> Any:
    """What a client of this broker saw."""
    peer = Peer(port)
    try:
        script(peer)
        return forgive(peer.record())
    except AssertionError as error:
        error.add_note(f"on {name}")
        raise
    finally:
        peer.clean()


def on_both(script: Script) -> Callable[[Brokers], None]:
    """Make a test of a script: `peer` is RabbitMQ, then the embedded broker."""

    def test(brokers: Brokers) -> None:
        brokers.compare(script)

    test.__name__, test.__doc__, test.__module__ = script.__name__, script.__doc__, script.__module__
    return test
