"""What the tests of machines have in common."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def leftovers() -> Iterator[None]:
    """What a machine has left behind is collected under its own filter of warnings, and not in somebody's test."""
    yield
    gc.collect()
