"""An embedded broker for each test."""

from collections.abc import Iterator

import pytest

from warren.broker import Broker

#: What messages may hold: every kind of header that a client can write, and text beyond ASCII.
HEADERS = {"text": "ünïcödé \U0001f430", "number": 7, "negative": -1, "huge": 2**40, "yes": True, "none": None}


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A running broker, on a thread of its own."""
    with Broker() as broker:
        yield broker
