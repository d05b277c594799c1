"""The two brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rabbit import Node
from tests.differential.both import Brokers
from warren.broker import Broker


@pytest.fixture(scope="session")
def embedded() -> Iterator[Broker]:
    """One embedded broker for the session; scripts leave nothing behind on it."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def brokers(rabbit: Node, embedded: Broker) -> Brokers:
    """Both, ready for a script."""
    return Brokers(rabbit.port, embedded)
