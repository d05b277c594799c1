"""Fixtures for every test; the broker's live in `tests.support.broker`, fault tables in `tests.support.scenarios`."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "pytester",
    "tests.support.both_ways",
    "tests.support.broker",
    "tests.support.hangs",
    "tests.support.heeded",
    "tests.support.lanes",
    "tests.support.reports",
    "tests.support.scenarios",
    "tests.support.seeds",
]

# No deadline per example and no complaint about slow ones: the machine may be busy, that is not what is tested.
# `pytest --hypothesis-profile=thorough` searches for minutes instead of seconds, `quick` for less than one.
settings.register_profile(
    "warren",
    deadline=None,
    max_examples=100,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", settings.get_profile("warren"), max_examples=2000)
settings.register_profile("quick", settings.get_profile("warren"), max_examples=20)
settings.load_profile("warren")


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors get the time that a busy broker takes to say how a queue stands, where a test looks at what it said."""
    monkeypatch.setattr("warren.connection.explainer.LIMIT", 10.0)
