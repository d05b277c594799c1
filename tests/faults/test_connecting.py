"""Getting a connection: what a client may expect of a broker that is late, mute, full, or hangs up."""

import asyncio
import logging
import socket
import time

import pytest
from pika import spec

from rabbit import Node
from tests.support.evidence import Counting, ending, works_again
from tests.support.proxy import HOST, How, Proxy, Way
from tests.support.rogue import Rogue
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Execution, Unavailable
from warren.connection.dial import open_link
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
