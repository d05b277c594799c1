"""A user's test project, and its pytest sessions."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.raw import raw_channel

#: The top of the user's test module: a service of its own name, and what tests of it need.
MODULE = """
import asyncio
import threading
import time

import pytest

from warren import CallError, Cancelled, Client, DeadlineExceeded, Service, Unavailable, WorkerLost

service = Service("{name}", concurrency=2)
began, release = threading.Event(), threading.Event()


@service.method
def double(n: int) -> int:
    return 2 * n


@service.method
def hold() -> str:
    began.set()
    release.wait(60)
    return "done"


@service.method
async def hang() -> None:
    began.set()
    await asyncio.Event().wait()


@service.method(delivery="at-least-once")
async def patient() -> int:
    from warren import current_call

    if current_call().attempt == 1:
        await asyncio.Event().wait()
    return current_call().attempt
"""

CONFIGURATION = """
[pytest]
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore:Unknown config option
addopts = -p no:cacheprovider -p no:hypothesispytest
timeout = 60
"""


class Project:
    """A folder with tests of a user's service."""

    def __init__(self, pytester: pytest.Pytester, name: str) -> None:
        self._pytester = pytester
        self.name = name
        pytester.makefile(".ini", pytest=CONFIGURATION)

    def write(self, tests: str, *, header: str = MODULE) -> None:
        """Write the one test module."""
        self._pytester.makepyfile(test_user=header.format(name=self.name) + tests)

    def run(self, *options: str) -> pytest.RunResult:
        """Run it, in this process: what it leaves behind can be seen."""
        return self._pytester.runpytest_inprocess(*options)

    def passes(self, tests: str, *options: str, count: int = 1) -> None:
        """Write and run tests that all pass."""
        self.write(tests)
        self.run(*options).assert_outcomes(passed=count)


@pytest.fixture
def project(pytester: pytest.Pytester, service_name: str) -> Project:
    return Project(pytester, service_name)


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker_options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The options with which the user's session runs on one broker or the other."""
    return () if request.param == "embedded" else (f"--warren-url={request.getfixturevalue('url')}",)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Every session ends with the threads that it began with."""
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()
