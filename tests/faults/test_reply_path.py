"""The way of a reply to its caller: lost, late, doubled, foreign or damaged, it ends its own call or none."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pika
import pytest

from rabbit import Node
from tests.support.evidence import (
    LATE,
    NO_CONTROL_QUEUE,
    Counting,
    ending,
    endings,
    messages,
    reply_queues,
    works_again,
)
from tests.support.proxy import Proxy
from tests.support.raw import raw_channel
from tests.support.serving import ROOT, serving
from tests.support.waiting import until
from warren import AsyncClient, Execution, Service
from warren.protocol import topology

NO_READER = "a reply was returned, as its caller is gone"


@pytest.fixture
async def served(rabbit: Node, counting: Counting) -> AsyncIterator[Counting]:
    """The counting service, running on a connection that nothing happens to."""
    async with serving(counting.service, url=rabbit.url):
        yield counting
        counting.release.set()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[AsyncClient]:
    """A connected client behind the proxy."""
    async with AsyncClient(proxy.url) as client:
        await client.connect()
        yield client


class RawServer:
    """A plain Pika peer in the place of a server: the test answers by hand."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._channel = channel
        self.queue = queue
        channel.queue_declare(queue, durable=True, arguments={"x-dead-letter-exchange": topology.BOUNCE_EXCHANGE})
        channel.queue_bind(queue, topology.EXCHANGE, queue)

    async def request(self) -> Any:
        """The properties of the next request, which is acknowledged."""
        return await until(self._take)

    def _take(self) -> Any:
        method, properties, _body = self._channel.basic_get(self.queue, auto_ack=True)
        return method and properties

    def reply(self, address: str, body: bytes, **properties: Any) -> None:
        properties = {"content_type": "application/json", **properties}
        self._channel.basic_publish("", address, body, pika.BasicProperties(**properties))

    def delete(self) -> None:
        self._channel.queue_delete(self.queue)

    def depth(self) -> int:
        return int(self._channel.queue_declare(self.queue, passive=True).method.message_count)


@pytest.fixture
def server(rabbit: Node, client: AsyncClient, service_name: str) -> Iterator[RawServer]:
    with raw_channel(rabbit.url) as channel:
        yield RawServer(channel, f"{service_name}-raw")


def delete_reply_queues(node: Node) -> None:
    """As an operator may; a connection may not touch another's exclusive queue."""
    node.eval(
        '[rabbit_amqqueue:delete(Q, false, false, <<"tests">>) || Q <- rabbit_amqqueue:list(<<"/">>),'
        ' binary:match(element(4, amqqueue:get_name(Q)), [<<"amq.gen">>, <<"warren.reply">>]) =/= nomatch,'
        f" {NO_CONTROL_QUEUE}]"
    )


def waiting_replies(node: Node) -> int:
    """Messages in durable reply queues."""
    return int(
        node.eval(
            'lists:sum([N || Q <- rabbit_amqqueue:list(<<"/">>),'
            ' binary:match(element(4, amqqueue:get_name(Q)), <<"warren.reply">>) =/= nomatch,'
            " [{messages, N}] <- [rabbit_amqqueue:info(Q, [messages])]])"
        )
    )


# --- the way back is gone ---------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    20,
    "Cut while the handler runs: the call ends at once, CONNECTION_LOST, UNKNOWN; it ran once, its reply is dropped.",
)
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_cut_while_the_handler_runs_ends_the_call_at_once(
    client: AsyncClient,
    proxy: Proxy,
    served: Counting,
    rabbit: Node,
    how: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    call = asyncio.create_task(ending(client.options(timeout=30).call(served.hold, "x"), within=30))
    await until(lambda: served.runs["x"])
    proxy.cut(how)
    got = await asyncio.wait_for(call, LATE)
    assert got.evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
    await works_again(client, served.echo)
    await until(lambda: reply_queues(rabbit) == 1)  # the new one; the broker has noticed, too
    served.release.set()
    await until(lambda: NO_READER in caplog.text)
    assert served.runs["x"] == 1
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(
    20,
    'With reply="durable" the call carries on over the cut: its result arrives, also one that came meanwhile; one run.',
)
@pytest.mark.parametrize("replied", ["while away", "when back"])
async def test_a_durable_reply_outlives_a_cut(proxy: Proxy, served: Counting, rabbit: Node, replied: str) -> None:
    async with AsyncClient(proxy.url, reply="durable") as client:
        call = asyncio.create_task(ending(client.options(timeout=30).call(served.hold, "x"), within=30))
        await until(lambda: served.runs["x"])
        await client.cast(served.echo, "once this is confirmed, so is the call")
        proxy.refuse()
        proxy.cut()
        await until(lambda: proxy.open == 0)
        if replied == "while away":
            served.release.set()
            await until(lambda: waiting_replies(rabbit) == 1)
        proxy.accept()
        if replied == "when back":
            await works_again(client, served.echo)
            served.release.set()
        assert (await call).value == "x"
        await works_again(client, served.echo)
        assert client.ignored_replies == 0
    assert served.runs["x"] == 1
    assert (messages(rabbit, served.queue), waiting_replies(rabbit)) == (0, 0)


@pytest.mark.scenario(
    20, "The same when the link goes silent instead: noticed within liveness_timeout, result, one run, nothing twice."
)
async def test_a_durable_reply_outlives_a_silent_link(proxy: Proxy, served: Counting, rabbit: Node) -> None:
    async with AsyncClient(proxy.url, reply="durable", liveness_timeout=1, heartbeat=1) as client:
        call = asyncio.create_task(ending(client.options(timeout=30).call(served.hold, "x"), within=30))
        await until(lambda: served.runs["x"])
        await client.cast(served.echo, "once this is confirmed, so is the call")
        proxy.abandon("up", "down")
        served.release.set()  # the broker sends the reply into the silence, and again once it has noticed
        assert (await call).value == "x"
        await works_again(client, served.echo)
        assert client.ignored_replies == 0
    assert served.runs["x"] == 1
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(
    20,
    'The broker restarts, reply="durable": a report call that ran ends as WORKER_LOST, UNKNOWN, after one run; one that'
    " was still in its queue is served.",
)
async def test_durable_calls_outlive_a_restart_of_the_broker(breakable_rabbit: Node, served: Counting) -> None:
    node, later = breakable_rabbit, Counting(f"{served.queue}-later")
    async with serving(later.service, url=node.url):
        pass  # its queue is there
    async with AsyncClient(node.url, reply="durable", timeout=60) as client:
        running = asyncio.create_task(ending(client.call(served.hold, "x"), within=60))
        queued = asyncio.create_task(ending(client.call(later.echo, "y"), within=60))
        await until(lambda: served.runs["x"])
        await client.cast(served.echo, "once this is confirmed, so are the calls")
        await asyncio.to_thread(node.restart)
        async with serving(later.service, url=node.url):
            assert (await queued).value == "y"
            assert (await running).evidence == ("WORKER_LOST", Execution.UNKNOWN)
        served.release.set()
        await works_again(client, served.echo)
    assert (served.runs["x"], later.runs["y"]) == (1, 1)
    assert messages(node, served.queue) == 0


@pytest.mark.scenario(
    20, "An at-least-once function, cut while it runs: sent again with the same id; result after two runs, one dropped."
)
async def test_a_cut_while_an_at_least_once_handler_runs_is_mended_by_sending_again(
    client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node
) -> None:
    call = asyncio.create_task(ending(client.options(timeout=30).call(served.keep, "x"), within=30))
    await until(lambda: served.runs["x"])
    proxy.cut()
    await until(lambda: served.runs["x"] == 2)
    served.release.set()
    assert (await call).value == "x"
    await works_again(client, served.echo)
    assert (served.runs["x"], len(served.ids["x"])) == (2, 1)
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(
    20,
    "What is known of a second attempt is not known of the call: no error after a resend says that it did not run.",
)
@pytest.mark.parametrize("how", ["expires", "closed", "no route", "refused"])
async def test_an_error_after_a_resend_does_not_claim_that_nothing_ran(
    client: AsyncClient, proxy: Proxy, server: RawServer, how: str
) -> None:
    view = client.options(timeout=3.0 if how == "expires" else 30, resend=True)
    call = asyncio.create_task(ending(view.call(f"{server.queue}.x"), within=30))
    await server.request()  # taken: for all that the client can know, it runs
    proxy.refuse()
    proxy.cut()
    await until(lambda: proxy.open == 0)
    if how == "no route":
        server.delete()
    if how != "expires":
        await ending(client.options(timeout=0.3).call(f"{server.queue}.x"), within=0.3)  # the client has noticed
    if how == "closed":
        await client.close()
    if how in ("no route", "refused"):
        proxy.accept()
    if how == "refused":
        request = await server.request()
        evidence = {"rpc-status": "UNAVAILABLE", "rpc-reason": "BUSY", "rpc-executed": "NOT_EXECUTED"}
        server.reply(request.reply_to, b"{}", correlation_id=request.correlation_id, type="error", headers=evidence)
    reason = {"expires": "CONNECTION_LOST", "closed": "CLOSED", "no route": "NO_ROUTE", "refused": "BUSY"}[how]
    assert (await call).evidence == (reason, Execution.UNKNOWN)


@pytest.mark.scenario(21, "After a reconnect requests name the new reply queue, and 100 calls return.")
async def test_replies_go_to_the_new_address_after_a_reconnect(
    client: AsyncClient, proxy: Proxy, server: RawServer, served: Counting
) -> None:
    addresses = []
    for number in range(3):
        await works_again(client, served.echo)
        call = asyncio.create_task(client.options(timeout=20).call(f"{server.queue}.x"))
        request = await server.request()
        addresses.append(request.reply_to)
        server.reply(request.reply_to, b"%d" % number, correlation_id=request.correlation_id)
        assert await call == number
        proxy.cut()
    assert len(set(addresses)) == 3
    await works_again(client, served.echo)


@pytest.mark.scenario(
    22,
    "An operator deletes the reply queue: the 5 calls pending end at once, CONNECTION_LOST, UNKNOWN; then a new one.",
)
async def test_a_deleted_reply_queue_ends_what_waits_for_it_and_is_replaced(
    client: AsyncClient, served: Counting, rabbit: Node
) -> None:
    texts = [f"x{number}" for number in range(5)]
    calls = asyncio.create_task(
        endings(*(client.options(timeout=30).call(served.hold, text) for text in texts), within=30)
    )
    await until(lambda: sum(served.runs.values()) == 5)
    delete_reply_queues(rabbit)
    for got in await asyncio.wait_for(calls, LATE):
        assert got.evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
    served.release.set()
    await works_again(client, served.echo)
    assert [served.runs[text] for text in texts] == [1] * 5
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(
    22,
    "The same with a durable one: replies may have been lost with it, so that what waits for them ends at once, too.",
)
async def test_a_deleted_durable_reply_queue_ends_what_waits_for_it(served: Counting, rabbit: Node) -> None:
    async with AsyncClient(rabbit.url, reply="durable") as client:
        call = asyncio.create_task(ending(client.options(timeout=60).call(served.hold, "x"), within=60))
        await until(lambda: served.runs["x"])
        await works_again(client, served.echo)  # so that the broker has confirmed it
        delete_reply_queues(rabbit)
        got = await asyncio.wait_for(call, 2 * LATE)
        assert got.evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
        served.release.set()
        await works_again(client, served.echo)


CALLER = """
import sys
import threading
from warren import Client
with Client(sys.argv[1]) as client:
    client.call(sys.argv[2], "x")
"""


@pytest.mark.scenario(
    23, "The caller is killed before the reply: the request is acknowledged, run once, and one line is logged."
)
async def test_a_reply_to_a_caller_that_died_is_dropped(
    client: AsyncClient, served: Counting, rabbit: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, rabbit.url, served.hold],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.DEVNULL,
    )
    try:
        await until(lambda: served.runs["x"])
    finally:
        caller.kill()
        caller.wait()
    await until(lambda: reply_queues(rabbit) == 1)  # the broker has noticed: only the other client's is left
    served.release.set()
    await until(lambda: NO_READER in caplog.text)
    await works_again(client, served.echo)
    assert len(re.findall(NO_READER, caplog.text)) == 1
    assert served.runs["x"] == 1
    assert messages(rabbit, served.queue) == 0


# --- replies that nobody waits for ------------------------------------------------------------------------------------


@pytest.mark.scenario(
    24, "Replies after the deadline are dropped and counted; the next calls are not touched; ids are never used again."
)
async def test_late_replies_are_counted_and_dropped(client: AsyncClient, served: Counting, rabbit: Node) -> None:
    service = Service(f"{served.queue}-slow", concurrency=50)
    release = threading.Event()

    @service.method
    def slow() -> None:
        release.wait(30)  # a thread is not cut off at the deadline

    try:
        async with serving(service, url=rabbit.url):
            view = client.options(timeout=2.0)  # time enough for all to begin
            late = await endings(*(view.call(slow) for _ in range(50)), within=2.0)
            assert {got.evidence for got in late} == {("CLIENT_TIMER", Execution.UNKNOWN)}
            assert client.ignored_replies == 0
            release.set()
            await until(lambda: client.ignored_replies == 50)
    finally:
        release.set()
    await works_again(client, served.echo)
    assert client.ignored_replies == 50
    ids = [got.error.call_id for got in late if got.error] + [i for ids in served.ids.values() for i in ids]
    assert len(ids) == len({*ids}) == 50 + 101
    assert messages(rabbit, service.name) == 0


@pytest.mark.scenario(25, "Two replies to one call: the first is the result, the second is dropped and counted.")
async def test_the_first_of_two_replies_wins(client: AsyncClient, server: RawServer) -> None:
    call = asyncio.create_task(client.call(f"{server.queue}.x"))
    request = await server.request()
    for body in (b"1", b"2"):
        server.reply(request.reply_to, body, correlation_id=request.correlation_id)
    assert await call == 1
    await until(lambda: client.ignored_replies == 1)
    assert server.depth() == 0


@pytest.mark.scenario(
    26, "Foreign messages on the reply queue (unknown, missing, damaged correlation id) are ignored and counted."
)
async def test_foreign_messages_on_the_reply_queue_touch_no_call(client: AsyncClient, server: RawServer) -> None:
    call = asyncio.create_task(client.call(f"{server.queue}.x"))
    request = await server.request()
    foreign: list[Any] = ["nobody.1", None, b"\xff\xfe", "", f"{request.correlation_id}1", "9" * 255]
    for correlation_id in foreign:
        server.reply(request.reply_to, b"666", correlation_id=correlation_id)
    await until(lambda: client.ignored_replies == len(foreign))
    assert not call.done()
    server.reply(request.reply_to, b"1", correlation_id=request.correlation_id)
    assert await call == 1
    assert client.ignored_replies == len(foreign)


@pytest.mark.scenario(
    27, "A result that cannot be read: DECODE_REPLY, EXECUTED, for that call only; the others get their results."
)
@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (b"{", {}),
        (b"", {}),
        (b"1", {"content_type": "application/x-unknown"}),
        (b"\xc1", {"content_type": "application/msgpack"}),
        (b"[" * 100_000, {}),
        (b"no problem", {"type": "error", "headers": {"rpc-status": "INTERNAL"}}),  # does not say whether it ran
    ],
    ids=["bad JSON", "empty", "unknown type", "bad msgpack", "deep nesting", "bad problem"],
)
async def test_an_unreadable_reply_fails_its_own_call_only(
    client: AsyncClient, server: RawServer, body: bytes, properties: dict[str, Any]
) -> None:
    calls = [asyncio.create_task(ending(client.call(f"{server.queue}.x"), within=30)) for _ in range(3)]
    first, second, third = [await server.request() for _ in calls]
    server.reply(first.reply_to, b"1", correlation_id=first.correlation_id)
    server.reply(second.reply_to, body, correlation_id=second.correlation_id, **properties)
    server.reply(third.reply_to, b"3", correlation_id=third.correlation_id)
    good, bad, also_good = await asyncio.gather(*calls)
    assert (good.value, also_good.value) == (1, 3)
    assert bad.evidence == ("DECODE_REPLY", Execution.UNKNOWN if properties.get("type") else Execution.EXECUTED)
    assert client.ignored_replies == 0
    assert server.depth() == 0
