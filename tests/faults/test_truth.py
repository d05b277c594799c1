"""What callers were told falsely, and what was run too often, in situations that take a whole broker to show."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pika
import pytest

from rabbit import Node
from tests.faults.books import parse_runs
from tests.faults.soak import Workers
from tests.support import tables
from tests.support.evidence import Counting, Ending, ending, messages
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel, take
from tests.support.serving import lines, serving
from tests.support.soaked import MAX_ATTEMPTS
from tests.support.waiting import until
from warren import AsyncClient, Execution, Server, Service
from warren.broker import Broker
from warren.protocol import topology
from warren.protocol.dead_message import Death

both_queues = pytest.mark.parametrize("queue", ["classic", "quorum"])


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url) as client:
        await client.connect()
        yield client


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    with raw_channel(url) as channel:
        yield channel


# --- nothing runs too often -----------------------------------------------------------------------------------------


@asynccontextmanager
async def one_worker_after_the_other(service: str, url: str, folder: Path) -> AsyncIterator[Workers]:
    """A worker process that is replaced when it ends, and holds several requests at a time."""
    workers = Workers(url, service.rpartition("-")[0], folder)
    watching = asyncio.create_task(workers.watch())
    try:
        workers.start(service)
        yield workers
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        workers.end()


async def served(client: AsyncClient, service: str) -> None:
    """Wait until a worker that was started takes requests: before, there is no queue for them."""
    while (told := await ending(client.options(timeout=5).call(f"{service}.ping"), within=5)).error is not None:
        assert told.reason in ("NO_ROUTE", "CLIENT_TIMER", "QUEUE_TTL")
        await asyncio.sleep(0.05)


@pytest.mark.scenario(
    150,
    "A request that takes its only worker along, which could hold more of them, runs max_attempts times and is dead"
    " once, with its cause; nothing of it stays in the queue.",
)
@both_queues
async def test_a_poisonous_request_does_not_multiply(
    client: AsyncClient, rabbit: Node, url: str, raw: Any, service_name: str, queue: str, tmp_path: Path
) -> None:
    service = f"{service_name}-{queue}"
    dead = topology.dead_queue(service)
    async with one_worker_after_the_other(service, url, tmp_path):
        await served(client, service)
        view = client.options(timeout=120)
        told = await ending(view.call(f"{service}.at-least-once", "call", 0.0, "die"), within=120)
        await view.cast(f"{service}.at-least-once-async", "cast", 0.0, "die")
        await until(lambda: depth(raw, dead) == 2)
        await until(lambda: messages(rabbit, service) == 0)
        await client.options(timeout=60).call(f"{service}.ping")  # what had multiplied would be before this
    assert told.evidence == ("POISON", Execution.UNKNOWN)
    runs = [run.key for run in parse_runs(lines(tmp_path / "runs"))]
    assert runs == ["call"] * MAX_ATTEMPTS + ["cast"] * MAX_ATTEMPTS
    assert (depth(raw, service), depth(raw, dead)) == (0, 2)
    assert {Death.read(message[0].headers).reason for message in iter(lambda: take(raw, dead), None)} == {"POISON"}


# --- places ---------------------------------------------------------------------------------------------------------


def burst(url: str, queue: str, seconds: list[float]) -> None:
    """Publish calls that have so much time, from another connection; some of their bodies take time to read."""
    heavy = b"[[" + b",".join([b"[]"] * 1000) + b"]]"
    with raw_channel(url) as channel:
        for number, left in enumerate(seconds):
            properties = pika.BasicProperties(
                type="nap",
                content_type="application/json",
                correlation_id=str(number),
                reply_to="nobody",
                headers={"rpc-v": 1, "rpc-timeout-ms": int(left * 1000)},
            )
            channel.basic_publish(topology.EXCHANGE, queue, heavy if number % 3 else b"[]", properties)
            if number % 60 == 0:
                channel.connection.process_data_events(0.02)


@pytest.mark.scenario(
    151, "Thousands of calls with deadlines of a few milliseconds cost their worker none of its places."
)
async def test_bursts_of_short_deadlines_cost_no_place(
    client: AsyncClient, url: str, raw: Any, service_name: str, seed: int
) -> None:
    service = Service(service_name)
    rng = random.Random(seed)

    @service.method
    async def nap(what: list[Any] | None = None) -> int:
        await asyncio.sleep(0.05)
        return 1

    async with serving(service, url=url) as server:
        left = [rng.choice([0.001, 0.003, 0.009, 0.02, 0.05]) for _ in range(1500)]
        await asyncio.to_thread(burst, url, service_name, left)
        await until(lambda: depth(raw, service_name) == 0)
        assert await client.call(nap) == 1
        await until(lambda: not tables.left(tables.of_server(server)))


# --- evidence -------------------------------------------------------------------------------------------------------


class Paying:
    """A service of one method that must not be said to have been left undone when it was done."""

    def __init__(self, name: str, **options: Any) -> None:
        self.runs: list[int] = []
        self.release = asyncio.Event()
        self.service = Service(name, concurrency=1, **options)
        self.method = f"{name}.pay"

    def declare(self, delivery: Literal["report", "at-most-once"]) -> Any:
        """The method, which runs until `release` is set."""

        @self.service.method(delivery=delivery)
        async def pay(number: int) -> int:
            self.runs.append(number)
            await self.release.wait()
            return number

        return pay


@pytest.mark.scenario(
    152,
    "A full queue refuses the newest call and says for certain that it did not run; what a worker that was cut off had"
    " run stays in it, and is never said to be undone.",
)
@both_queues
@pytest.mark.usefixtures("unhurried")
async def test_a_full_queue_does_not_drop_what_a_worker_has_run(
    client: AsyncClient, raw: Any, proxy: Proxy, service_name: str, queue: str
) -> None:
    paying = Paying(service_name, queue=queue, max_length=1)
    pay = paying.declare("report")
    async with serving(paying.service, url=proxy.url, drain_timeout=0.1):
        first = asyncio.create_task(ending(client.options(timeout=6).call(pay, 1), within=6))
        await until(lambda: paying.runs == [1])
        second = asyncio.create_task(ending(client.options(timeout=6).call(pay, 2), within=6))
        await until(lambda: depth(raw, service_name) == 1)
        refused = await one_that_is_refused(client, pay)
        proxy.refuse()
        proxy.cut("rst")
        told = [await first, await second]
        proxy.accept()
    assert refused.evidence == ("QUEUE_FULL", Execution.NOT_EXECUTED)
    assert [one.execution for one in told] == [Execution.UNKNOWN] * 2
    assert set(paying.runs) == {1}


async def one_that_is_refused(client: AsyncClient, pay: Any) -> Ending:
    """The first of a few calls that is not taken: a quorum queue takes some more before it knows that it is full."""
    told = [await ending(client.options(timeout=0.5).call(pay, number), within=0.5) for number in range(3, 9)]
    return next(one for one in told if one.reason == "QUEUE_FULL")


@pytest.mark.scenario(
    153,
    "The ack before an at-most-once handler is lost, and its request expires in the queue, where it is again: its"
    " caller is not told that it did not run.",
)
async def test_an_expired_at_most_once_call_may_have_run(client: AsyncClient, proxy: Proxy, service_name: str) -> None:
    paying = Paying(service_name)
    pay = paying.declare("at-most-once")
    async with serving(paying.service, url=proxy.url, drain_timeout=0.1):
        proxy.drop("up", "Basic.Ack")
        call = asyncio.create_task(ending(client.options(timeout=4).call(pay, 1), within=4))
        await until(lambda: paying.runs == [1])
        proxy.refuse()
        proxy.cut("rst")
        told = await call
        proxy.accept()
    assert told.error is not None
    assert (told.error.code.value, told.execution) == ("DEADLINE_EXCEEDED", Execution.UNKNOWN)
    assert paying.runs == [1]


async def test_a_refused_publish_says_nothing_of_those_before_it() -> None:
    paying = Paying("paying")
    pay = paying.declare("report")
    with Broker() as broker:
        async with serving(paying.service, url=broker.url), AsyncClient(broker.url) as client:
            await client.connect()
            broker.delay_confirms(5)
            call = asyncio.create_task(ending(client.call(pay, 1), within=30))
            await until(lambda: paying.runs == [1])
            broker.close_channels(403, "ACCESS_REFUSED - access to exchange 'warren' in vhost '/' refused")
            paying.release.set()
            told = await call
    assert told.value == 1 or told.execution is Execution.UNKNOWN
    assert paying.runs == [1]


# --- calls that carry on --------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    154,
    "A durable call that the broker has confirmed survives the loss of its link, and the loss of the next one while"
    " another call's publish has the number there that its own had.",
)
async def test_a_confirmed_durable_call_survives_the_second_loss_of_the_link(
    url: str, proxy: Proxy, counting: Counting
) -> None:
    async with (
        serving(counting.service, url=url),
        AsyncClient(proxy.url, reply="durable", timeout=60) as client,
    ):
        await client.cast(counting.echo, "number 1")
        await client.cast(counting.echo, "number 2")
        first = asyncio.create_task(ending(client.call(counting.hold, "first"), within=60))
        await until(lambda: counting.runs["first"] == 1)
        await client.cast(counting.echo, "its confirm comes behind the first's")
        proxy.cut("rst")
        await client.call(counting.repeat, "number 1 of the new channel")  # sent again if it came too early
        proxy.drop("down", "Basic.Ack")
        later = [asyncio.create_task(ending(client.call(counting.hold, text), within=60)) for text in ("2", "3", "4")]
        await until(lambda: counting.runs["4"] == 1)
        proxy.forget_rules()
        proxy.cut("rst")
        counting.release.set()
        assert (await first).value == "first"
        await asyncio.gather(*later)
        await client.call(counting.repeat, "whole again")  # else nobody deletes the reply queue before it expires
    assert counting.runs["first"] == 1


async def test_a_correlation_id_tells_nothing_of_the_next(client: AsyncClient, raw: Any, service_name: str) -> None:
    """Who serves one call could answer the others: all replies of a client come to one queue."""
    raw.queue_declare(service_name)
    calls = [asyncio.create_task(client.call_bare(service_name, b"")) for _ in range(30)]
    await until(lambda: depth(raw, service_name) == 30)
    ids = [message[0].correlation_id for message in iter(lambda: take(raw, service_name), None)]
    for call in calls:
        call.cancel()
    for one, other in itertools.combinations(ids, 2):
        rest = one[
            sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))) :
        ]
        assert len(rest) >= 16, (one, other)
    await asyncio.gather(*calls, return_exceptions=True)


# --- what counts as an attempt --------------------------------------------------------------------------------------


def waits(server: Server, service: str, count: int) -> bool:
    """Whether so many requests wait in the worker."""
    return bool(server.statistics()["services"][service]["waiting"] == count)


@pytest.mark.scenario(
    155,
    "A worker's link is cut as often as a request may be attempted, while it waits for a place there: it never ran, and"
    " is dead all the same; its caller and the dead message say that nobody knows whether it had begun.",
)
@both_queues
async def test_what_only_waited_at_workers_that_were_lost_is_dead_and_says_so(
    client: AsyncClient, raw: Any, proxy: Proxy, service_name: str, queue: Literal["classic", "quorum"]
) -> None:
    service, runs, free = Service(service_name, queue=queue, concurrency=3), list[str](), asyncio.Event()

    @service.method(delivery="at-least-once", max_attempts=2, concurrency=1)
    async def hold(key: str) -> None:
        runs.append(key)
        await free.wait()

    async with serving(service, url=proxy.url) as server:
        first = asyncio.create_task(ending(client.options(timeout=120).call(hold, "first"), within=120))
        await until(lambda: runs == ["first"])
        call = asyncio.create_task(ending(client.options(timeout=120).call(hold, "call"), within=120))
        await client.cast(hold, "cast")
        for count in (2, 3):  # the first run goes on, without its link, and with it the only place is taken
            await until(partial(waits, server, service_name, count))
            proxy.cut("rst")
        told = [await call, await first]
        await until(lambda: depth(raw, topology.dead_queue(service_name)) == 3)
        free.set()
    assert runs == ["first"]
    assert [one.evidence for one in told] == [("POISON", Execution.UNKNOWN)] * 2
    dead = [Death.read(p.headers) for p, _ in iter(lambda: take(raw, topology.dead_queue(service_name)), None)]
    for text in [str(told[0].error), *(one.text or "" for one in dead)]:
        assert "2 times" in text
        assert "may only have waited" in text
