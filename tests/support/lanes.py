"""What parallel workers (`pytest -n auto --dist loadgroup`) share out among them, and what stays together.

Each worker is a process with a RabbitMQ node and an embedded broker of its own, and takes one test after the other.
Tests that share a fixture of their module (a cluster, a running service, a run of the benchmark) go to one worker, so
that it is set up once. Such groups begin first and unit tests come last, so that all workers end at the same time.
"""

import os

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core, as half of a worker's time is waiting; no more than eight, each with a broker in memory."""
    return min(2 * (os.cpu_count() or 1), 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _shares_a_fixture(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _shares_a_fixture(item: pytest.Item) -> bool:
    """Whether a test uses a fixture that other tests of its module use, too."""
    if not isinstance(item, pytest.Function):
        return False
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    return any(fixture.scope == "module" for definitions in fixtures for fixture in definitions)
