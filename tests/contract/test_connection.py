"""Getting a connection, losing it, and getting it back."""

import asyncio
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import warren
from rabbit import free_ports
from tests.contract.brokers import BrokerUnderTest, private_broker, tls_port
from tests.support.serving import ROOT, serving
from tests.support.tls import Certificates, make_certificates
from tests.support.waiting import until
from warren import AsyncClient, CallError, Client, Execution, PermissionDenied, Server, Service, Unavailable


def free_port() -> int:
    """A port on which nothing listens."""
    return free_ports(1)[0]


def address(url: str) -> str:
    """Host and port of a URL."""
    return urlsplit(url).netloc.rpartition("@")[2]


def make_echo(name: str) -> Service:
    service = Service(name)

    @service.method
    async def echo(text: str) -> str:
        return text

    return service


@pytest.fixture
async def echo(url: str, service_name: str) -> AsyncIterator[str]:
    """The name of a running echo method."""
    async with serving(make_echo(service_name), url=url):
        yield f"{service_name}.echo"


async def failure(client: AsyncClient, *, fail_fast: bool = False) -> CallError:
    async with client:
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(client.options(fail_fast=fail_fast).call("any.thing"), 10)
    return caught.value


# --- settings -----------------------------------------------------------------------------------------------------


async def test_keywords_override_the_url(url: str, echo: str) -> None:
    async with AsyncClient(
        f"amqp://nobody@{address(url)}/nowhere", username="guest", password="guest", vhost="/", heartbeat=7
    ) as client:
        assert await client.call(echo, "x") == "x"


async def test_a_url_without_user_and_password_is_the_guest(url: str, echo: str) -> None:
    async with AsyncClient(f"amqp://{address(url)}") as client:
        assert await client.call(echo, "x") == "x"


async def test_a_wrong_password_is_one_clear_error_at_once(url: str) -> None:
    error = await failure(AsyncClient(f"amqp://guest:wrong@{address(url)}"))
    assert isinstance(error, PermissionDenied)
    assert (error.code.value, error.reason, error.execution) == (
        "UNAUTHENTICATED",
        "AUTHENTICATION",
        Execution.NOT_SENT,
    )
    assert "refuses user 'guest'" in str(error)
    assert "wrong" not in str(error).replace("wrong password", "")


async def test_a_user_without_password_in_the_url_is_refused_clearly(url: str) -> None:
    assert isinstance(await failure(AsyncClient(f"amqp://guest@{address(url)}")), PermissionDenied)


async def test_a_missing_vhost_is_one_clear_error_at_once(url: str) -> None:
    error = await failure(AsyncClient(url, vhost="nowhere"))
    assert (error.reason, error.execution) == ("VHOST", Execution.NOT_SENT)
    assert "there is no vhost 'nowhere'" in str(error)


async def test_a_refused_connection_ends_a_call_at_its_deadline_with_the_reason() -> None:
    begun = time.monotonic()
    error = await failure(AsyncClient(f"amqp://127.0.0.1:{free_port()}", timeout=1.0))
    assert time.monotonic() - begun >= 1.0
    assert isinstance(error, Unavailable)
    assert (error.reason, error.execution) == ("NOT_CONNECTED", Execution.NOT_SENT)
    assert "connection refused: does RabbitMQ run there?" in str(error)


async def test_connect_tells_at_once_that_the_broker_cannot_be_reached() -> None:
    async with AsyncClient(f"amqp://127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unavailable, match="connection refused"):
            await asyncio.wait_for(client.connect(), 10)
    with Client(f"amqp://127.0.0.1:{free_port()}") as blocking, pytest.raises(Unavailable, match="connection refused"):
        blocking.connect()


async def test_a_fail_fast_call_does_not_wait_for_a_connection() -> None:
    async with AsyncClient(f"amqp://127.0.0.1:{free_port()}", timeout=60) as client:
        with pytest.raises(Unavailable, match="connection refused"):
            await asyncio.wait_for(client.options(fail_fast=True).call("any.thing"), 10)
        with pytest.raises(Unavailable, match="connection refused"):
            await asyncio.wait_for(client.options(fail_fast=True).call("any.thing"), 10)


async def test_an_unknown_host_is_named(echo: str) -> None:
    error = await failure(AsyncClient("amqp://no-such-host.invalid"), fail_fast=True)  # however long DNS takes
    assert "cannot connect to no-such-host.invalid:5672: the name cannot be resolved" in str(error)


async def test_a_port_that_never_answers_is_given_up_and_the_next_host_tried(url: str, echo: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},{address(url)}"
        async with AsyncClient(f"amqp://{hosts}", connect_timeout=0.5) as client:
            assert await client.call(echo, "x") == "x"


async def test_dead_and_unresolvable_hosts_are_skipped(url: str, echo: str) -> None:
    urls = ["amqp://no-such-host.invalid", f"amqp://127.0.0.1:{free_port()}", url]
    async with AsyncClient(urls) as client:
        assert await client.call(echo, "x") == "x"


async def test_the_broker_lists_the_connections_name(broker: BrokerUnderTest, url: str) -> None:
    async with AsyncClient(url, name="ledger") as client:
        await client.connect()
        names = await asyncio.to_thread(broker.connection_names)
    place = f"{socket.gethostname()}:{os.getpid()}"
    assert any(f"ledger@{place}" in name for name in names)


async def test_a_connection_without_a_name_says_where_it_comes_from(broker: BrokerUnderTest, url: str) -> None:
    async with AsyncClient(url) as client:
        await client.connect()
        names = await asyncio.to_thread(broker.connection_names)
    place = f"{socket.gethostname()}:{os.getpid()}"
    assert any(place in name and f"@{place}" not in name for name in names)


@pytest.mark.rabbitmq_only("the embedded broker lists names only")
async def test_the_broker_lists_warren_as_the_product_with_its_version(broker: BrokerUnderTest, url: str) -> None:
    async with AsyncClient(url) as client:
        await client.connect()
        (line, *_) = [x for x in await asyncio.to_thread(broker.connection_names) if str(os.getpid()) in x]
    assert "{<<'product'>>,longstr,<<'Warren'>>}" in line
    assert f"{{<<'version'>>,longstr,<<'{warren.__version__}'>>}}" in line
    assert re.search(r"<<'platform'>>,longstr,<<'Python [0-9.]+, Pika [0-9.]+'>>", line), line


async def test_a_password_may_come_from_an_async_function(url: str, echo: str) -> None:
    async def password() -> str:
        return "guest"

    async with AsyncClient(url, password=password) as client:
        assert await client.call(echo, "x") == "x"
    with Client(url, password=password) as blocking:
        assert await asyncio.to_thread(blocking.call, echo, "x") == "x"


async def test_a_password_function_that_gives_something_else_is_one_clear_error_at_once(url: str) -> None:
    error = await failure(AsyncClient(url, password=lambda: None))  # type: ignore[arg-type]
    assert (error.reason, error.execution) == ("PASSWORD", Execution.NOT_SENT)
    assert "the password function returned None: it must return a str" in str(error)


async def test_a_server_that_is_refused_ends_with_the_error(url: str, service_name: str) -> None:
    with pytest.raises(PermissionDenied, match="wrong password"):
        await Server(make_echo(service_name), url=url, password="wrong").serve()


# --- TLS ----------------------------------------------------------------------------------------------------------


async def test_a_server_logs_that_it_is_connected_and_then_that_it_serves(
    url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "warren")
    service = Service(service_name)

    @service.method
    async def ping() -> None: ...

    async with Server(service, url=url):
        pass
    connected, serving, drained = (record.getMessage() for record in caplog.records)
    assert connected.startswith("connected to ")
    assert serving == f"serving {service_name} (ping), 100 at a time"
    assert drained.startswith(f"{service_name}: drained in ")


async def test_a_server_logs_that_it_serves_again_once_its_queue_is_back(
    url: str, raw: Any, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(make_echo(service_name), url=url):
        raw.queue_delete(service_name)
        await until(lambda: f"{service_name}: serving again" in caplog.text)
        async with AsyncClient(url) as client:
            assert await client.call(f"{service_name}.echo", "back") == "back"


async def test_a_time_limit_that_cut_a_handler_off_is_told_with_its_seconds(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method(time_limit=0.25)
    async def hang() -> None:
        await asyncio.Event().wait()

    async with serving(service, url=url), AsyncClient(url) as client:
        with pytest.raises(CallError, match=r"time_limit of 0\.25 s") as caught:
            await client.call(hang)
    assert caught.value.reason == "TIME_LIMIT"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_url(broker_kind: str, certificates: Certificates) -> Iterator[str]:
    """URL of a broker that demands a client certificate."""
    with tls_port(broker_kind, certificates) as port:
        yield f"amqps://localhost:{port}"


async def test_mutual_tls_carries_calls(tls_url: str, certificates: Certificates) -> None:
    context = certificates.client_context()
    async with (
        serving(make_echo("tls"), url=tls_url, ssl=context),
        AsyncClient(tls_url, ssl=context) as client,
    ):
        text = "0123456789abcdef" * 65536
        assert await client.call("tls.echo", text) == text
        assert await asyncio.gather(*(client.call("tls.echo", str(n)) for n in range(200))) == [
            str(n) for n in range(200)
        ]


async def test_a_port_with_tls_and_one_without_are_told_apart(
    tls_url: str, url: str, certificates: Certificates
) -> None:
    plain_to_tls = await failure(AsyncClient(tls_url.replace("amqps://", "amqp://"), timeout=2))
    assert "TLS" in plain_to_tls.message
    assert "amqps://" in plain_to_tls.message
    tls_to_plain = await failure(AsyncClient(url, ssl=certificates.client_context(), timeout=2))
    assert "does not speak TLS" in tls_to_plain.message


async def test_an_untrusted_certificate_is_one_clear_error_at_once(tls_url: str) -> None:
    error = await failure(AsyncClient(tls_url))
    assert error.reason == "TLS"
    assert "its certificate is not trusted" in str(error)


async def test_a_certificate_for_another_host_is_refused(tls_url: str, certificates: Certificates) -> None:
    url = tls_url.replace("localhost", "127.0.0.2")  # the certificate names localhost and 127.0.0.1
    error = await failure(AsyncClient(url, ssl=certificates.client_context(), timeout=3))
    assert error.reason in ("TLS", "NOT_CONNECTED")  # the broker listens on 127.0.0.1 only, where that is enforced


async def test_a_missing_client_certificate_is_reported(tls_url: str, certificates: Certificates) -> None:
    context: ssl.SSLContext = certificates.client_context(with_certificate=False)
    error = await failure(AsyncClient(tls_url, ssl=context, timeout=2))
    assert isinstance(error, Unavailable)
    assert error.execution is Execution.NOT_SENT


# --- loss and return ----------------------------------------------------------------------------------------------


async def test_a_lost_connection_ends_the_calls_in_flight_and_comes_back(
    broker: BrokerUnderTest, url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    service = make_echo(service_name)
    started = asyncio.Event()

    @service.method
    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    async with serving(service, url=url, drain_timeout=0.2) as server, AsyncClient(url) as client:
        call = asyncio.create_task(client.call(hang))
        await started.wait()
        await asyncio.to_thread(broker.close_connections)
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(call, 10)
        assert (caught.value.reason, caught.value.execution) == ("CONNECTION_LOST", Execution.UNKNOWN)
        # Both sides have new connections, queues and consumers: a round trip proves it.
        assert await client.options(timeout=20).call(f"{service_name}.echo", "again") == "again"
        server.stop()


@pytest.fixture
def own_broker(broker_kind: str) -> Iterator[BrokerUnderTest]:
    """A broker that nobody else uses."""
    with private_broker(broker_kind) as broker:
        yield broker


async def test_calls_made_while_the_broker_is_down_wait_for_it(own_broker: BrokerUnderTest, service_name: str) -> None:
    async with serving(make_echo(service_name), url=own_broker.url), AsyncClient(own_broker.url) as client:
        assert await client.call(f"{service_name}.echo", "before") == "before"
        await asyncio.to_thread(own_broker.go_away)
        waiting = asyncio.create_task(client.options(timeout=60).call(f"{service_name}.echo", "after"))
        with pytest.raises(Unavailable) as caught:
            await client.options(timeout=0.3).call(f"{service_name}.echo", "too early")
        assert (caught.value.reason, caught.value.execution) == ("NOT_CONNECTED", Execution.NOT_SENT)
        await asyncio.to_thread(own_broker.come_back)
        # The server may come back a moment after the client, so the queue may not have a consumer yet.
        assert await waiting == "after"


async def test_a_deleted_reply_queue_is_replaced(broker: BrokerUnderTest, url: str, echo: str) -> None:
    async with AsyncClient(url) as client:
        assert await client.call(echo, "x") == "x"
        queues = [name for name in await asyncio.to_thread(broker.queue_names) if name.startswith("amq.gen-")]
        assert queues
        for queue in queues:
            # Another connection may not touch an exclusive queue, so the broker's own console has to.
            await asyncio.to_thread(broker.delete_queue, queue)
        assert await _retry(lambda: client.options(timeout=5).call(echo, "y")) == "y"


async def test_a_durable_reply_queue_goes_with_its_client_without_a_word(
    broker: BrokerUnderTest, url: str, echo: str, caplog: pytest.LogCaptureFixture
) -> None:
    def reply_queues() -> list[str]:
        return [name for name in broker.queue_names() if name.startswith("warren.reply.")]

    async with AsyncClient(url, reply="durable") as client:
        assert await client.call(echo, "x") == "x"
        assert len(await asyncio.to_thread(reply_queues)) == 1
    assert await asyncio.to_thread(reply_queues) == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_deleted_service_queue_is_declared_and_consumed_again(
    broker: BrokerUnderTest, url: str, echo: str, service_name: str
) -> None:
    async with AsyncClient(url) as client:
        assert await client.call(echo, "x") == "x"
        await asyncio.to_thread(broker.delete_queue, service_name)
        assert await _retry(lambda: client.options(timeout=5).call(echo, "y")) == "y"


async def test_a_deleted_exchange_ends_calls_with_typed_errors_and_is_declared_again(
    url: str, raw: Any, echo: str, service_name: str
) -> None:
    async with AsyncClient(url) as client:
        assert await client.call(echo, "x") == "x"
        raw.exchange_delete("warren")
        with pytest.raises(Unavailable) as caught:
            await client.options(timeout=5).call(echo, "y")
        assert caught.value.reason == "CHANNEL_CLOSED"
        # The exchange is back, but not the binding: only a server knows it, and none was told.
        with pytest.raises(Unavailable) as caught:
            await client.options(timeout=5).call(echo, "y")
        assert caught.value.reason == "NO_ROUTE"
        async with serving(make_echo(f"{service_name}-2"), url=url):
            assert await client.call(f"{service_name}-2.echo", "z") == "z"


async def test_a_server_finds_out_that_the_exchange_was_deleted_and_binds_again(
    url: str, raw: Any, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren.server.upkeep.INTERVAL", 0.2)
    async with serving(make_echo(service_name), url=url), AsyncClient(url, timeout=5) as client:
        assert await client.call(f"{service_name}.echo", "x") == "x"
        raw.exchange_delete("warren")
        assert await _retry(lambda: client.call(f"{service_name}.echo", "y")) == "y"


# --- heartbeats ---------------------------------------------------------------------------------------------------

BLOCKED = """
import asyncio, sys, time
from warren import Server, Service
service = Service(sys.argv[2])
@service.method
async def block(seconds: float) -> str:
    time.sleep(seconds)          # the mistake: the event loop cannot turn
    return "still here"
@service.method
def work(seconds: float) -> str:
    time.sleep(seconds)
    return "still here"
async def main():
    server = Server(service, url=sys.argv[1], heartbeat=1)
    task = asyncio.create_task(server.serve())
    await server.ready()
    print("ready", flush=True)
    await task
asyncio.run(main())
"""


@pytest.mark.parametrize("method", ["work", "block"])
async def test_a_handler_does_not_stop_heartbeats_however_long_it_runs(
    client: AsyncClient, url: str, service_name: str, method: str, tmp_path: Path
) -> None:
    """RabbitMQ closes a connection that is silent for 3 heartbeats; these handlers run for 4.5."""
    script = tmp_path / "blocked.py"
    script.write_text(BLOCKED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, str(script), url, service_name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        assert await client.options(timeout=30).call(f"{service_name}.{method}", 4.5) == "still here"
    finally:
        process.send_signal(signal.SIGKILL)
        _out, errors = process.communicate()
    assert "lost the connection" not in errors
    if method == "block":
        assert "the event loop has been blocked" in errors


async def _retry(call: Callable[[], object]) -> object:
    """Until the other side has noticed the change, calls may end as `Unavailable` (and nothing else)."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()  # type: ignore[misc]
            except (Unavailable, TimeoutError):
                await asyncio.sleep(0.05)
