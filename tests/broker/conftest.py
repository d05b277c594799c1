"""An embedded broker for each test."""

from collections.abc import Iterator

import pytest

from warren.broker import Broker


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A running broker, on a thread of its own."""
    with Broker() as broker:
        yield broker
