"""Getting a connection: what a client may expect of a broker that is late, mute, full, or hangs up."""

import asyncio
import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from pika import spec

from rabbit import Node
from tests.support.evidence import Counting, ending, works_again
from tests.support.proxy import HOST, How, Proxy, Way
from tests.support.rogue import Rogue
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Execution, Unavailable
from warren.connection import addresses
from warren.connection.addresses import Address
from warren.connection.dial import open_link
from warren.connection.errors import ConnectFailed
from warren.connection.settings import make_settings


@pytest.mark.scenario(
    1, "A call made while the broker is down returns its result once it is up, or ends at its deadline, NOT_SENT."
)
async def test_calls_wait_for_a_broker_that_is_late(breakable_rabbit: Node, counting: Counting) -> None:
    node = breakable_rabbit
    await asyncio.to_thread(node.shutdown)
    async with AsyncClient(node.url) as client:
        patient = asyncio.create_task(ending(client.options(timeout=60).call(counting.echo, "patient"), within=60))
        hasty = await ending(client.options(timeout=1).call(counting.echo, "hasty"), within=1)
        assert hasty.evidence == ("NOT_CONNECTED", Execution.NOT_SENT)
        assert "connection refused" in str(hasty)
        assert hasty.seconds >= 1
        await asyncio.to_thread(node.start)
        async with serving(counting.service, url=node.url):
            # The client may be first; then nobody has declared the queue yet, which a call is told at once.
            if (await patient).reason == "NO_ROUTE":
                assert await client.call(counting.echo, "patient") == "patient"
            await works_again(client, counting.echo)
    assert (counting.runs["patient"], counting.runs["hasty"]) == (1, 0)


async def test_the_end_of_a_trouble_is_as_loud_as_its_beginning_and_else_nobody_is_warned(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "warren.amqp")

    def told() -> list[tuple[str, str]]:
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
        return [
            (level, re.sub(r"127[\d.]+:\d+|[\d.]+ s", "…", line)) for level, line in lines if "connected to" in line
        ]

    async with AsyncClient(proxy.url) as client:
        await client.connect()
        proxy.cut()
        await until(lambda: len(told()) == 2)
        await client.connect()
    proxy.refuse()
    async with AsyncClient(proxy.url) as client:
        trying = asyncio.create_task(ending(client.call("any.thing"), within=60))
        await until(lambda: "connection refused" in caplog.text)
        proxy.accept()
        await trying
    assert told() == [
        ("INFO", "connected to …"),
        ("WARNING", "connected to … again: it took …; all goes on"),
        ("WARNING", "connected to …: it took …; all goes on"),
    ]


@pytest.mark.scenario(2, "A wrong password is one authentication error within 2 s, after one attempt.")
async def test_a_wrong_password_is_tried_once(proxy: Proxy) -> None:
    async with AsyncClient(proxy.url, password="wrong", timeout=30) as client:
        got = await ending(client.call("any.thing"), within=2)
        assert got.evidence == ("AUTHENTICATION", Execution.NOT_SENT)
        assert (await ending(client.call("any.thing"), within=0.1)).reason == "AUTHENTICATION"
    assert len(proxy.accepted) == 1


@pytest.mark.scenario(3, "A vhost that does not exist is one configuration error at once, after one attempt.")
async def test_an_unknown_vhost_is_tried_once(proxy: Proxy) -> None:
    async with AsyncClient(proxy.url, vhost="nowhere", timeout=30) as client:
        got = await ending(client.call("any.thing"), within=2)
        assert got.evidence == ("VHOST", Execution.NOT_SENT)
        assert "there is no vhost 'nowhere'" in str(got)
    assert len(proxy.accepted) == 1


@pytest.mark.scenario(4, "A connection limit at the broker is retried, named in errors, and no obstacle once lifted.")
async def test_a_connection_limit_is_waited_for(proxy: Proxy, rabbit: Node, counting: Counting) -> None:
    async with serving(counting.service, url=rabbit.url):
        await asyncio.to_thread(rabbit.ctl, "set_vhost_limits", '{"max-connections": 0}')
        try:
            async with AsyncClient(proxy.url) as client:
                patient = asyncio.create_task(client.options(timeout=60).call(counting.echo, "patient"))
                hasty = await ending(client.options(timeout=1).call(counting.echo, "hasty"), within=1)
                assert hasty.evidence == ("NOT_CONNECTED", Execution.NOT_SENT)
                assert "limit" in str(hasty)
                await until(lambda: len(proxy.accepted) >= 2)
                await asyncio.to_thread(rabbit.ctl, "set_vhost_limits", '{"max-connections": -1}')
                assert await patient == "patient"
                await works_again(client, counting.echo)
        finally:
            await asyncio.to_thread(rabbit.ctl, "clear_vhost_limits")
    assert (counting.runs["patient"], counting.runs["hasty"]) == (1, 0)


@pytest.mark.scenario(5, "A broker that takes the connection and says nothing is given up at the connect timeout.")
async def test_a_mute_broker_is_given_up(breakable_rabbit: Node) -> None:
    breakable_rabbit.freeze()
    async with AsyncClient(breakable_rabbit.url, connect_timeout=0.5) as client:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=r"no answer within 0\.5 s"):
            await asyncio.wait_for(client.connect(), 5)
        assert time.monotonic() - begun >= 0.5


@pytest.mark.scenario(5, "After a host that says nothing the next one is tried.")
async def test_the_host_after_a_mute_one_is_tried(proxy: Proxy, rabbit: Node, counting: Counting) -> None:
    proxy.down.silent = True
    hosts = f"amqp://guest:guest@{HOST}:{proxy.port},{HOST}:{rabbit.port}/"
    async with serving(counting.service, url=rabbit.url), AsyncClient(hosts, connect_timeout=1.5) as client:
        got = await ending(client.options(timeout=20).call(counting.echo, "hello"), within=20)
        assert got.value == "hello"
        assert len(proxy.accepted) == 1
        await works_again(client, counting.echo)


@pytest.mark.scenario(6, "With a dead host first in the list, the second is connected within one connect timeout.")
async def test_a_dead_host_in_the_list_costs_nothing(rabbit: Node, counting: Counting) -> None:
    with socket.socket() as sock:
        sock.bind((HOST, 0))  # bound and not listening: refused
        hosts = f"amqp://guest:guest@{HOST}:{sock.getsockname()[1]},{HOST}:{rabbit.port}/"
        async with serving(counting.service, url=rabbit.url), AsyncClient(hosts, connect_timeout=5) as client:
            await ending(client.connect(), within=5)
            await works_again(client, counting.echo)


@contextlib.contextmanager
def listening(host: str) -> Iterator[Address]:
    """An address that takes connections and says nothing."""
    with socket.create_server((host, 0)) as sock:
        yield address_of(sock)


@contextlib.contextmanager
def refusing(host: str) -> Iterator[Address]:
    """One that refuses connections."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        yield address_of(sock)


@contextlib.contextmanager
def hanging_up(host: str) -> Iterator[Address]:
    """One that closes each connection at once, as a proxy without a broker behind it does."""
    with socket.create_server((host, 0)) as sock:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address_of(sock)
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def black_hole(host: str) -> Iterator[Address]:
    """One of which nothing comes back at all: its queue of connections is full."""
    with socket.create_server((host, 0), backlog=0) as sock, socket.socket() as first, socket.socket() as more:
        for one in (first, more):
            one.setblocking(False)
            one.connect_ex(sock.getsockname())
        yield address_of(sock)


def address_of(sock: socket.socket) -> Address:
    return Address(socket.AF_INET, socket.SOCK_STREAM, 0, sock.getsockname())


DEAD = [listening, refusing, hanging_up, black_hole]
Place = Callable[[str], contextlib.AbstractContextManager[Address]]


@pytest.fixture
def name_stands_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which addresses every name has."""

    def say(*found: Address) -> None:
        async def resolve(_host: str, _port: int) -> list[Address]:
            return list(found)

        monkeypatch.setattr(addresses, "resolve", resolve)

    return say


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("dead", DEAD)
def test_a_dead_address_leaves_time_for_those_behind_it(
    rabbit: Node, dead: Place, name_stands_for: Callable[..., None], loop_factory: Any
) -> None:
    async def main(first: Address, second: Address) -> None:
        name_stands_for(first, second, Address(socket.AF_INET, socket.SOCK_STREAM, 0, (HOST, rabbit.port)))
        settings = make_settings("amqp://rabbit.test", connect_timeout=3)
        link = await open_link(settings, *settings.hosts[0])
        await link.close()

    with dead("127.0.0.2") as first, dead("127.0.0.3") as second, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main(first, second))


async def test_the_error_names_each_address_and_what_was_wrong_with_it(name_stands_for: Callable[..., None]) -> None:
    with contextlib.ExitStack() as stack:
        name_stands_for(*(stack.enter_context(dead(f"127.0.0.{n}")) for n, dead in enumerate(DEAD, 2)))
        settings = make_settings("amqp://rabbit.test", connect_timeout=2)
        with pytest.raises(ConnectFailed) as caught:
            await open_link(settings, *settings.hosts[0])
    assert not caught.value.permanent
    text = str(caught.value)
    assert re.search(r"cannot connect to rabbit\.test:5672: ", text)
    assert re.search(r"127\.0\.0\.2: no answer within [0-9.]+ s", text), text
    assert "127.0.0.3: connection refused: does RabbitMQ run there?" in text
    assert re.search(r"127\.0\.0\.4: the server closed the connection without an answer", text), text
    assert "127.0.0.5: no answer within 2 s" in text


@contextlib.contextmanager
def saying(words: bytes) -> Iterator[str]:
    """A server of another protocol: it answers whatever comes with these words, and hangs up; its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def serve() -> None:
            while True:
                try:
                    peer = sock.accept()[0]
                except OSError:
                    return
                with peer, contextlib.suppress(OSError):
                    peer.recv(1000)
                    peer.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("scheme", "words", "said"),
    [
        ("amqp", b"HTTP/1.1 400 Bad Request\r\n\r\n", "this is not an AMQP 0-9-1 server: it speaks HTTP"),
        ("amqp", b"AMQP\x00\x01\x00\x00", "this is not an AMQP 0-9-1 server: it asks for AMQP 1.0"),
        ("amqp", b"\x15\x03\x01\x00\x02\x02\n", "the server speaks TLS on this port: use amqps://"),
        ("amqp", b"", "the server closed the connection without an answer"),
        ("amqps", b"AMQP\x00\x00\x09\x01", "the server does not speak TLS on this port: use amqp://"),
    ],
    ids=["http", "amqp 1.0", "tls", "nothing", "no tls"],
)
async def test_connect_and_call_say_what_the_peer_speaks(scheme: str, words: bytes, said: str) -> None:
    with saying(words) as peer:
        async with AsyncClient(f"{scheme}://{peer}", timeout=1.0) as client:
            with pytest.raises(CallError, match=said):
                await client.connect()
            with pytest.raises(CallError, match=said) as caught:
                await client.call("calc.fib", 3)
    assert caught.value.execution is Execution.NOT_SENT


async def test_a_reason_that_all_addresses_share_is_told_once(name_stands_for: Callable[..., None]) -> None:
    with refusing("127.0.0.2") as first, refusing("127.0.0.3") as second:
        name_stands_for(first, second)
        settings = make_settings("amqp://rabbit.test")
        with pytest.raises(ConnectFailed, match=r"RabbitMQ run there\? \(at 127\.0\.0\.2, 127\.0\.0\.3\)$"):
            await open_link(settings, *settings.hosts[0])


async def test_what_the_broker_refuses_at_one_address_is_not_tried_at_the_next(
    rabbit: Node, proxy: Proxy, name_stands_for: Callable[..., None]
) -> None:
    name_stands_for(*(Address(socket.AF_INET, socket.SOCK_STREAM, 0, (HOST, p)) for p in (rabbit.port, proxy.port)))
    settings = make_settings("amqp://guest:wrong@rabbit.test")
    with pytest.raises(ConnectFailed, match="refuses user 'guest'"):
        await open_link(settings, *settings.hosts[0])
    assert not proxy.accepted


async def test_an_attempt_that_is_cancelled_leaves_nothing(name_stands_for: Callable[..., None]) -> None:
    settings = make_settings("amqp://rabbit.test")
    for dead in DEAD:
        with dead("127.0.0.2") as first, dead("127.0.0.3") as second:
            name_stands_for(first, second)
            opening = asyncio.create_task(open_link(settings, *settings.hosts[0]))
            await asyncio.sleep(0.05)
            opening.cancel()
            await asyncio.wait([opening])


async def test_a_link_whose_closing_is_cancelled_is_closed_all_the_same() -> None:
    async with Rogue(spec.Connection.Close, b"") as rogue:  # says nothing to that
        settings = make_settings(rogue.url)
        link = await open_link(settings, *settings.hosts[0])
        closing = asyncio.create_task(link.close(patience=60))
        await rogue.reached.wait()
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        assert link.closed.done()


STEPS: list[tuple[Way, str]] = [
    ("up", "Protocol"),
    ("down", "Connection.Start"),
    ("up", "Connection.StartOk"),
    ("down", "Connection.Tune"),
    ("up", "Connection.Open"),
    ("down", "Connection.OpenOk"),
    ("down", "Exchange.DeclareOk"),
    ("down", "Queue.DeclareOk"),
    ("down", "Basic.ConsumeOk"),
    ("down", "Confirm.SelectOk"),
]


@pytest.mark.scenario(
    7, "A connection that breaks at any step of the handshake or the set-up is tried again; nothing escapes."
)
@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize(("way", "step"), STEPS)
async def test_a_handshake_that_breaks_is_tried_again(
    proxy: Proxy,
    rabbit: Node,
    counting: Counting,
    caplog: pytest.LogCaptureFixture,
    way: Way,
    step: str,
    how: How,
) -> None:
    proxy.cut_at(way, step, how=how)
    async with serving(counting.service, url=rabbit.url), AsyncClient(proxy.url) as client:
        got = await ending(client.options(timeout=20).call(counting.echo, "hello"), within=20)
        assert got.value == "hello"
    assert counting.runs["hello"] == 1
    assert len(proxy.accepted) == 2
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]


@pytest.mark.scenario(
    7, "A set-up that takes longer than the connect timeout, as the broker is slow, goes on as long as answers come."
)
async def test_a_set_up_may_take_its_time_while_the_broker_answers(proxy: Proxy, service_name: str) -> None:
    proxy.down.delay = 0.05
    services = [Counting(f"{service_name}-{number}").service for number in range(3)]
    began = time.monotonic()
    async with serving(*services, url=proxy.url, connect_timeout=1.0):
        assert time.monotonic() - began > 1.0
    assert len(proxy.accepted) == 1


@pytest.mark.scenario(
    7, "A set-up in which one answer does not come is given up at the connect timeout, though the broker still lives."
)
async def test_a_set_up_without_an_answer_is_given_up(proxy: Proxy, counting: Counting) -> None:
    proxy.drop("down", "Queue.DeclareOk", nth=1)
    async with serving(counting.service, url=proxy.url, connect_timeout=3.0, liveness_timeout=1.0):
        assert len(proxy.accepted) == 2
