"""Fixtures around one private RabbitMQ node per test session.

The node boots when the first test asks for it. Without RabbitMQ these tests fail, they never skip. All
of them share the default vhost (making one takes a second), so they keep apart by `service_name`.
"""

import itertools
import os
from collections.abc import Iterator

import pytest

from rabbit import Node

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Node]:
    """The session's node; `rabbit.ctl(...)` runs rabbitmqctl on it."""
    with Node(name="warren-tests") as node:
        yield node


@pytest.fixture(scope="session")
def url(rabbit: Node) -> str:
    """AMQP URL of the session's node."""
    return rabbit.url


@pytest.fixture
def service_name() -> str:
    """A name that no other test uses, for the service and its queues."""
    return f"svc-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def breakable_rabbit(rabbit: Node) -> Iterator[Node]:
    """The session's node for a test that kills, freezes or restarts it; whole again afterwards."""
    yield rabbit
    if rabbit.running:
        rabbit.thaw()
    rabbit.start()
