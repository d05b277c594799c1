"""The embedded broker for what other tools see of Warren: which broker it is makes no difference to them."""

from collections.abc import Iterator

import pytest

from warren.broker import Broker


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with Broker() as broker:
        yield broker.url
