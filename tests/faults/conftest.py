"""What every fault test has: a proxy, a counting service, and a look at what is left behind."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from rabbit import Node
from tests.support.evidence import Counting, reply_queues, sockets, threads
from tests.support.proxy import Proxy
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Faults make Warren log what it should; a test that fails shows it."""
    caplog.set_level(logging.CRITICAL, "pika")
    caplog.set_level(logging.INFO)  # last, as it is also what `caplog.text` gets


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """When a test is over and its clients and servers are closed, no thread, socket or task of theirs is left."""
    loop_tasks, open_sockets, running = asyncio.all_tasks(), sockets(), threads()
    yield
    loop_tasks |= {task for task in [asyncio.current_task()] if task}

    def clean() -> bool:
        return sockets() <= open_sockets and threads() <= running and asyncio.all_tasks() <= loop_tasks

    try:
        await until(clean)
    except TimeoutError:
        tasks = asyncio.all_tasks() - loop_tasks
        pytest.fail(f"left behind: {sockets() - open_sockets} sockets, threads {threads() - running}, tasks {tasks}")


@pytest.fixture(autouse=True)
async def no_reply_queue_is_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """The same for reply queues, where the test uses the session's node."""
    node: Node | None = request.getfixturevalue("rabbit") if "rabbit" in request.fixturenames else None
    yield
    if node is not None:
        await until(lambda: reply_queues(node) == 0)


@pytest.fixture
def proxy(rabbit: Node) -> Iterator[Proxy]:
    """A fault proxy in front of the session's node."""
    with Proxy(rabbit.port) as proxy:
        yield proxy


@pytest.fixture
async def counting(service_name: str) -> Counting:
    """A service of its own, not running yet."""
    return Counting(service_name)
