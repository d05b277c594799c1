"""Fixtures for testing services, and faults on demand. pytest finds them once Warren is installed; see docs/testing.md.

An edge: nothing of Warren imports it, and nothing of it runs before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pytest

from warren import AsyncClient, Client
from warren.broker import Broker
from warren.testing.kit import Serve as Serve
from warren.testing.kit import TestingError
from warren.testing.kit import Workers as Workers
from warren.testing.on_loop import AsyncServe as AsyncServe
from warren.testing.on_loop import AsyncWorkers as AsyncWorkers

try:
    from pytest_asyncio import fixture as _fixture_of_asyncio
except ImportError:  # nobody asks for what it would make: see `_runner`
    _fixture_of_asyncio = pytest.fixture  # type: ignore[assignment]

#: Seconds that a call of the clients here may take, unless the test says otherwise.
CALL_TIMEOUT = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--warren-url``."""
    parser.getgroup("warren").addoption(
        "--warren-url",
        metavar="URL",
        help="run Warren's fixtures on the RabbitMQ of this AMQP URL instead of the embedded broker",
    )


# --- the broker -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """The broker of ``--warren-url``."""

    url: str


@pytest.fixture(scope="session")
def warren_broker(pytestconfig: pytest.Config) -> Iterator[Broker | RabbitMQ]:
    """The session's broker: an embedded one on a free port, or the RabbitMQ of ``--warren-url``."""
    url = pytestconfig.getoption("--warren-url")
    if url is None:
        with Broker() as broker:
            yield broker
    else:
        with Client(url, name="pytest") as client:
            client.connect()  # that it cannot be reached is said at once, and once
        yield RabbitMQ(url)


@pytest.fixture(scope="session")
def warren_url(warren_broker: Broker | RabbitMQ) -> str:
    """The AMQP URL of the session's broker."""
    return warren_broker.url


# --- clients and workers ----------------------------------------------------------------------------------------------


@pytest.fixture
def warren_client(warren_url: str) -> Iterator[Client]:
    """A blocking client, connected; its calls take 10 s at most unless ``options(timeout=…)`` says otherwise."""
    with Client(warren_url, timeout=CALL_TIMEOUT, name="pytest") as client:
        client.connect()
        yield client


@pytest.fixture
def warren_async_client(request: pytest.FixtureRequest) -> AsyncClient:
    """An asyncio client on the test's event loop, connected; its calls take 10 s at most, as those of `warren_client`.

    Needs pytest-asyncio, or anyio's plugin with the asyncio backend.
    """
    client = request.getfixturevalue(f"_warren_client_of_{_runner(request, 'warren_async_client')}")
    assert isinstance(client, AsyncClient)
    return client


def _runner(request: pytest.FixtureRequest, fixture: str) -> str:
    """The plugin that runs this async test: each of the two ignores the other's fixtures."""
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend_name")
        if backend != "asyncio":
            pytest.fail(f"{fixture} needs asyncio; this test runs on {backend}", pytrace=False)
        return "anyio"
    if request.config.pluginmanager.has_plugin("asyncio"):
        return "asyncio"
    pytest.fail(f"{fixture} needs a plugin that runs async tests: pip install pytest-asyncio", pytrace=False)


@pytest.fixture
async def _warren_client_of_anyio(warren_url: str) -> AsyncIterator[AsyncClient]:
    async with _async_client(warren_url) as client:
        await client.connect()
        yield client


@_fixture_of_asyncio
async def _warren_client_of_asyncio(warren_url: str) -> AsyncIterator[AsyncClient]:
    async with _async_client(warren_url) as client:
        await client.connect()
        yield client


def _async_client(url: str) -> AsyncClient:
    return AsyncClient(url, timeout=CALL_TIMEOUT, name="pytest")


@pytest.fixture
def warren_serve(warren_url: str, warren_broker: Broker | RabbitMQ) -> Iterator[Serve]:
    """``warren_serve(service, workers=1, processes=False)`` serves a service until the test's end; see `Serve`."""
    serve = Serve(warren_url, shared=isinstance(warren_broker, RabbitMQ))
    yield serve
    serve.close()


@pytest.fixture
def warren_async_serve(request: pytest.FixtureRequest) -> AsyncServe:
    """``await warren_async_serve(service, workers=1)`` serves on the test's own event loop; see `AsyncServe`.

    Needs pytest-asyncio, or anyio's plugin with the asyncio backend.
    """
    serve = request.getfixturevalue(f"_warren_serve_of_{_runner(request, 'warren_async_serve')}")
    assert isinstance(serve, AsyncServe)
    return serve


@pytest.fixture
async def _warren_serve_of_anyio(warren_serve: Serve, warren_url: str) -> AsyncIterator[AsyncServe]:
    serve = AsyncServe(warren_serve, warren_url)
    yield serve
    await serve.close()


@_fixture_of_asyncio
async def _warren_serve_of_asyncio(warren_serve: Serve, warren_url: str) -> AsyncIterator[AsyncServe]:
    serve = AsyncServe(warren_serve, warren_url)
    yield serve
    await serve.close()


# --- faults -----------------------------------------------------------------------------------------------------------


class Fault:
    """A fault that lasts: until `end`, the end of its ``with`` block, or the end of the test."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def end(self) -> None:
        """End it. Again: nothing."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Faults:
    """What goes wrong on demand: the fixture ``warren_faults``. All of it is over when the test is.

    All but `kill_worker` are done by the embedded broker, so they fail with ``--warren-url``.
    """

    def __init__(self, broker: Broker | RabbitMQ, serve: Serve) -> None:
        self._broker = broker
        self._serve = serve
        self._faults: list[Fault] = []

    def drop_connections(self) -> None:
        """Cut the connections of all clients and workers, without a word, as a broken network does.

        They connect again. Calls under way end as `CONNECTION_LOST`, unless they are sent again or can carry on.
        """
        self._embedded("drop_connections").drop_connections()

    def block(self) -> Fault:
        """Take no more requests or replies, as RabbitMQ does when it is low on memory or disk.

        Clients are told, and read it a moment later: a request that crosses this news ends at its deadline as one that
        may have run (`UNKNOWN`), all later ones as not sent (`NOT_SENT`).
        """
        broker = self._embedded("block")
        broker.block(at_once=True)
        return self._lasting(broker.unblock)

    def stall(self) -> Fault:
        """Keep all connections and answer nothing, as a broker does that hangs."""
        broker = self._embedded("stall")
        broker.freeze()
        return self._lasting(broker.thaw)

    def delay(self, ms: float) -> Fault:
        """Deliver every request and every reply `ms` milliseconds later."""
        broker = self._embedded("delay")
        broker.delay_deliveries(ms / 1000)
        return self._lasting(lambda: broker.delay_deliveries(0))

    def duplicate_reply(self) -> None:
        """Deliver the next reply twice."""
        self._embedded("duplicate_reply").duplicate_deliveries(queue=_REPLY_QUEUES)

    def kill_worker(self, *, busy: bool = True) -> None:
        """Kill a worker process with SIGKILL while it runs a handler; another one takes its place.

        Needs ``warren_serve(service, processes=True)``, and works on any broker. In an async test:
        ``await asyncio.to_thread(warren_faults.kill_worker)``, as it waits until a handler runs, for 10 s at most.

        Args:
            busy: False kills a worker at once, whatever it does.
        """
        __tracebackhide__ = True
        try:
            self._serve.kill_worker(busy=busy)
        except TestingError as error:
            pytest.fail(str(error))

    def end(self) -> None:
        """End all faults that last."""
        while self._faults:
            self._faults.pop().end()

    def _lasting(self, end: Callable[[], None]) -> Fault:
        fault = Fault(end)
        self._faults.append(fault)
        return fault

    def _embedded(self, name: str) -> Broker:
        __tracebackhide__ = True
        if isinstance(self._broker, RabbitMQ):
            pytest.fail(f"{name}() is done by the embedded broker; this session runs on RabbitMQ (--warren-url)")
        return self._broker


#: Where the replies of Warren's clients come to, whichever way they ask for them.
_REPLY_QUEUES = r"amq\.gen-.*|warren\.reply\..*"


@pytest.fixture
def warren_faults(warren_broker: Broker | RabbitMQ, warren_serve: Serve) -> Iterator[Faults]:
    """Faults on demand; see `Faults`."""
    faults = Faults(warren_broker, warren_serve)
    yield faults
    faults.end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """End all faults before any fixture is taken down: clients and workers want to say good-bye to their broker."""
    faults = getattr(item, "funcargs", {}).get("warren_faults")
    if isinstance(faults, Faults):
        faults.end()
