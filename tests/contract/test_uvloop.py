"""The same on uvloop, which many web applications run on: its transports and its turns are not quite asyncio's."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop

from tests.contract.brokers import BrokerUnderTest, tls_port
from tests.support.proxy import Proxy
from tests.support.serving import serving
from tests.support.tls import Certificates, make_certificates
from warren import AsyncClient, Client, Execution, Service, Unavailable
from warren.broker import Broker


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 60))


class Echo:
    """A service to call; `begun` is set once its `hang` runs."""

    def __init__(self, name: str) -> None:
        self.service = service = Service(name)
        self.begun = begun = asyncio.Event()

        @service.method
        async def echo(text: str) -> str:
            return text

        @service.method
        def in_thread(text: str) -> str:
            return text

        @service.method
        async def block(seconds: float) -> str:
            time.sleep(seconds)  # noqa: ASYNC251 - the mistake: the event loop cannot turn
            return "still here"

        @service.method
        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        self.echo, self.in_thread, self.block, self.hang = echo, in_thread, block, hang


@pytest.fixture
def echo(service_name: str) -> Echo:
    return Echo(service_name)


def test_handlers_of_both_kinds_answer_and_casts_are_confirmed(url: str, echo: Echo) -> None:
    async def main() -> None:
        async with serving(echo.service, url=url), AsyncClient(url) as client:
            texts = [str(n) for n in range(300)]
            for method in (echo.echo, echo.in_thread):
                assert await asyncio.gather(*(client.call(method, text) for text in texts)) == texts
            await client.cast(echo.echo, "x")

    run(main())


def test_more_than_a_socket_takes_goes_through_in_both_directions(url: str, echo: Echo) -> None:
    async def main() -> None:
        text = "0123456789abcdef" * 65536
        async with serving(echo.service, url=url), AsyncClient(url) as client:
            assert await asyncio.gather(*(client.call(echo.echo, text) for _ in range(30))) == [text] * 30

    run(main())


def test_tls_carries_calls(broker_kind: str, certificates: Certificates, echo: Echo) -> None:
    async def main(url: str) -> None:
        context, text = certificates.client_context(), "0123456789abcdef" * 65536
        async with serving(echo.service, url=url, ssl=context), AsyncClient(url, ssl=context) as client:
            assert await client.call(echo.echo, text) == text

    with tls_port(broker_kind, certificates) as port:
        run(main(f"amqps://localhost:{port}"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def test_a_lost_connection_ends_its_calls_and_comes_back(broker: BrokerUnderTest, url: str, echo: Echo) -> None:
    async def main() -> None:
        async with serving(echo.service, url=url, drain_timeout=0.2) as server, AsyncClient(url) as client:
            call = asyncio.create_task(client.call(echo.hang))
            await echo.begun.wait()
            await asyncio.to_thread(broker.close_connections)
            with pytest.raises(Unavailable) as caught:
                await call
            assert (caught.value.reason, caught.value.execution) == ("CONNECTION_LOST", Execution.UNKNOWN)
            assert await client.options(timeout=20).call(echo.echo, "again") == "again"
            server.stop()

    run(main())


def test_silence_is_noticed(url: str, proxy: Proxy, echo: Echo) -> None:
    async def main() -> None:
        async with serving(echo.service, url=url), AsyncClient(proxy.url, liveness_timeout=1) as client:
            assert await client.call(echo.echo, "x") == "x"
            proxy.abandon("up", "down")
            assert await client.options(timeout=20, resend=True).call(echo.echo, "y") == "y"

    run(main())


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with Proxy(urlsplit(url).port or 0) as proxy:
        yield proxy


def test_heartbeats_continue_while_the_loop_is_blocked(url: str, echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(echo.service, url=url, heartbeat=1), AsyncClient(url, heartbeat=1) as client:
            assert await client.call(echo.block, 4.0) == "still here"

    run(main())
    told = [record for record in caplog.records if record.name.startswith("warren")]
    warnings = [record.getMessage() for record in told if record.levelno >= logging.WARNING]
    assert warnings
    assert all("heartbeats continue without it" in text for text in warnings)


def test_a_blocking_client_has_the_loop_of_the_policy(url: str, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)

    def call() -> list[str]:
        with Client(url) as client:
            futures = [client.submit(echo.echo, str(n)) for n in range(100)]
            return [client.call(echo.echo, "x"), *(future.result() for future in futures)]

    async def main() -> None:
        async with serving(echo.service, url=url):
            assert await asyncio.to_thread(call) == ["x", *map(str, range(100))]

    run(main())


def test_the_embedded_broker_runs_on_it(echo: Echo) -> None:
    async def main() -> None:
        async with Broker() as broker, serving(echo.service, url=broker.url), AsyncClient(broker.url) as client:
            text = "0123456789abcdef" * 65536
            assert await asyncio.gather(*(client.call(echo.echo, text) for _ in range(10))) == [text] * 10
            broker.drop_connections(reset=True)
            assert await client.options(timeout=20, resend=True).call(echo.echo, "again") == "again"

    run(main())
