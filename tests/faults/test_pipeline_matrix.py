"""What else can go at every point of a pipeline of three stages: queues, consumers, the network, the broker, a stage of
another make. Each test has a pipeline for each point, delivery mode and kind, all at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pika
import pytest

from rabbit import Node
from tests.faults.test_reply_path import delete_reply_queues
from tests.support.evidence import Ending, ending
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel
from tests.support.recorded import NUMBERS, Recorded, argument, check_evidence, dead_stages
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Execution, Server
from warren.amqp.frames import Properties, encode_properties
from warren.broker import Broker
from warren.protocol import topology

MODES = ("report", "at-least-once", "at-most-once")
QUEUES = ("classic", "quorum")
SIDES: tuple[int | str, ...] = ("client", *NUMBERS)
#: `undo` is a call that fails in its last stage, and what was done before is undone.
Kind = Literal["call", "cast", "undo"]
#: Seconds of a call that something else than its timer has to end.
PATIENT = 60.0
#: The same where nobody but the timer can.
SHORT = 10.0
#: Silence is noticed within a second, by the broker within six.
QUICK: dict[str, Any] = {"heartbeat": 2, "liveness_timeout": 1.0}


@pytest.fixture
def embedded() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@dataclass
class Life:
    """One pipeline that stands in one of its stages while something goes."""

    recorded: Recorded
    kind: Kind
    client: AsyncClient
    timeout: float = PATIENT
    gone: Any = None
    end: asyncio.Task[Ending] | None = None

    @property
    def what(self) -> str:
        r = self.recorded
        return f"{self.kind}, {r.delivery}, in stage {r.held}, {self.gone} goes"

    @property
    def text(self) -> str:
        return "bad" if self.kind == "undo" else "x"

    def begin(self) -> None:
        client = self.client.options(timeout=self.timeout)
        whole = self.recorded.undoing if self.kind == "undo" else self.recorded.whole
        call = client.cast(whole, self.text) if self.kind == "cast" else client.call(whole, self.text)
        self.end = asyncio.create_task(ending(call, within=self.timeout))

    async def check(self, raw: Any, url: str, *, timer: bool = False) -> Ending:
        """What must be true once all is over; what was kept is resumed."""
        assert self.end is not None
        got = await self.end
        await until(lambda: all(in_queue(raw, queue) == 0 for queue in self.recorded.queues))
        await self.over(raw, got)
        said = check_evidence(got, self.recorded, self.text, self.what)
        assert timer or got.reason != "CLIENT_TIMER", said
        if self.kind == "cast" and got.error is None and not self.recorded.ran("x")[2]:
            kept = await dead_stages(url, self.recorded, resume=True)
            assert kept, f"{said}: it is lost"
            assert all(entry.text == "x" for entry in kept)
            await until(lambda: self.recorded.ran("x")[2])
        return got

    async def over(self, raw: Any, got: Ending) -> None:
        """Wait until a cast that was taken has come to an end, or is kept; and what has failed is undone, or kept."""
        if self.kind == "undo":
            await until(lambda: all(self.recorded.were_undone("bad")[:2]) or self.is_kept(raw) or self.failed_at_once)
        elif self.kind == "cast" and got.error is None:
            await until(lambda: self.recorded.ran("x")[2] or self.is_kept(raw))

    @property
    def failed_at_once(self) -> bool:
        """Its first stage has failed, which is not undone itself; its request is not stored, its caller was told."""
        return self.recorded.held == 1 and not self.recorded.ran("bad")[1]

    def is_kept(self, raw: Any) -> bool:
        return any(depth(raw, queue) for queue in self.recorded.dead)

    async def serves_again(self) -> None:
        """The same client and workers run another pipeline."""
        self.recorded.held = 0
        client = self.client.options(timeout=PATIENT)
        assert await client.call(self.recorded.whole, "y") == "y123", self.what


@dataclass
class Lives:
    """Pipelines whose stages of one number are served together."""

    url: str
    name: str
    all: list[Life] = field(default_factory=list)

    def add(self, mode: str, held: int, kind: Kind, client: AsyncClient, queue: str, **more: Any) -> Life:
        recorded = Recorded(f"{self.name}-{len(self.all)}", mode, queue=queue)
        recorded.held = held
        life = Life(recorded, kind, client, **more)
        self.all.append(life)
        return life

    def server(self, number: int, url: str | None = None, **options: Any) -> Server:
        services = [life.recorded.services[number - 1] for life in self.all]
        return serving(*services, url=url or self.url, name=f"worker-{number}", **options)

    @asynccontextmanager
    async def served(self, at: int = 0, url: str | None = None, **options: Any) -> AsyncIterator[list[Server]]:
        """While the block runs; those of one number by another address."""
        async with AsyncExitStack() as stack:
            servers = []
            for n in NUMBERS:
                server = self.server(n, url, **options) if n == at else self.server(n)
                servers.append(await stack.enter_async_context(server))
            yield servers

    async def reach(self) -> None:
        """All begin, and stand in their stages."""
        for life in self.all:
            life.begin()
        for life in self.all:
            await asyncio.wait_for(life.recorded.begun.wait(), PATIENT)

    def go_on(self) -> None:
        for life in self.all:
            life.recorded.go.set()

    async def check(self, raw: Any, timers: list[Life] | None = None) -> dict[str, Ending]:
        """See `Life.check`; by what they are."""
        return {
            life.what: await life.check(raw, self.url, timer=timers is not None and life in timers) for life in self.all
        }

    async def serve_again(self) -> None:
        await asyncio.gather(*(life.serves_again() for life in self.all))


def in_queue(raw: Any, queue: str) -> int | None:
    """Messages in a queue; None while there is none."""
    channel = raw.connection.channel()
    try:
        return depth(channel, queue)
    except pika.exceptions.ChannelClosedByBroker:
        return None
    finally:
        if channel.is_open:
            channel.close()


def kinds_of(mode: str) -> list[Kind]:
    """An at-most-once stage might lose what there is to undo."""
    return ["call", "cast"] if mode == "at-most-once" else ["call", "cast", "undo"]


BROKERS = [("rabbit", "classic"), ("rabbit", "quorum"), ("embedded", "classic"), ("embedded", "quorum")]


@pytest.fixture(params=BROKERS, ids=" ".join)
def where(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A broker's address, and the kind of queues."""
    broker, queue = request.param
    return request.getfixturevalue(broker).url, queue


@pytest.mark.scenario(
    201,
    "The queue of the stage that runs, or of the next one, is deleted while each stage runs (classic and quorum;"
    " embedded broker, too): its service declares it again and the pipeline goes on, or its caller is told.",
)
async def test_a_queue_that_is_deleted_at_any_point_loses_nothing_silently(
    where: tuple[str, str], service_name: str
) -> None:
    url, queue = where
    async with AsyncExitStack() as stack:
        raw = stack.enter_context(raw_channel(url))
        shared = await stack.enter_async_context(AsyncClient(url))
        lives = Lives(url, service_name)
        for mode in MODES:
            for held in NUMBERS:
                for number in {held, min(held + 1, 3)}:
                    lives.add(mode, held, "call", shared, queue, gone=number)
                    lives.add(mode, held, "cast", shared, queue, gone=number)
        await stack.enter_async_context(lives.served())
        await lives.reach()
        for life in lives.all:
            raw.queue_delete(life.recorded.queues[life.gone - 1])
        lives.go_on()
        ends = await lives.check(raw)
        for what, end in ends.items():
            assert end.reason in (None, "NO_ROUTE"), (what, end)
        await lives.serve_again()


@pytest.mark.scenario(
    205,
    "The reply queue is deleted while each stage of a pipeline runs: calls hear so at once, or are sent again.",
)
@pytest.mark.parametrize("broker", ["rabbit", "embedded"])
async def test_a_reply_queue_that_is_deleted_at_any_point_is_told(
    request: pytest.FixtureRequest, broker: str, service_name: str
) -> None:
    found = request.getfixturevalue(broker)
    async with AsyncExitStack() as stack:
        raw = stack.enter_context(raw_channel(found.url))
        client = await stack.enter_async_context(AsyncClient(found.url))
        lives = Lives(found.url, service_name)
        for mode in MODES:
            for held in NUMBERS:
                lives.add(mode, held, "call", client, "classic", gone="the reply queue")
        await stack.enter_async_context(lives.served())
        await lives.reach()
        if isinstance(found, Node):
            delete_reply_queues(found)
        else:
            found.delete_queue(client._shared.core()._replies.address.decode())
        again = [life for life in lives.all if life.recorded.delivery == "at-least-once"]
        for life in lives.all:
            if life not in again:
                assert life.end is not None
                assert (await life.end).evidence == ("CONNECTION_LOST", Execution.UNKNOWN), life.what
        lives.go_on()
        await lives.check(raw)
        for life in lives.all:
            await until(lambda life=life: life.recorded.ran("x")[2])  # type: ignore[misc]
            assert life not in again or (life.end is not None and (await life.end).value == "x123"), life.what
            assert life in again or life.recorded.ran("x") == [1, 1, 1], life.what
        await lives.serve_again()


@pytest.mark.scenario(
    202,
    "The broker restarts while each stage of a pipeline runs, in each delivery mode, on classic and quorum queues:"
    " calls are told, or go on where they may run twice; casts run to their end, or are kept and resumed;"
    " what has failed is undone, or kept.",
)
async def test_a_restart_of_the_broker_at_any_point_loses_nothing_silently(
    breakable_rabbit: Node, service_name: str
) -> None:
    url = breakable_rabbit.url
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(url))
        lives = Lives(url, service_name)
        for mode in MODES:
            for held in NUMBERS:
                for kind in kinds_of(mode):
                    for queue in QUEUES:
                        lives.add(mode, held, kind, client, queue, gone="the broker")
        await stack.enter_async_context(lives.served())
        await lives.reach()
        await asyncio.to_thread(breakable_rabbit.restart)
        lives.go_on()
        raw = stack.enter_context(raw_channel(url))
        ends = await lives.check(raw)
        told = {None, "CONNECTION_LOST", "WORKER_LOST", "CHANNEL_CLOSED"}
        assert {end.reason for end in ends.values()} <= told
        await lives.serve_again()


@pytest.mark.scenario(
    203,
    "Nothing passes any more between the broker and the client, or the worker of any stage, while each stage of a"
    " pipeline runs (classic and quorum): noticed; a result or an honest error, casts run to their end, or are kept and"
    " resumed.",
)
@pytest.mark.parametrize("side", SIDES)
async def test_silence_at_any_point_is_noticed_and_told(
    proxy: Proxy, url: str, service_name: str, side: int | str
) -> None:
    async with AsyncExitStack() as stack:
        raw = stack.enter_context(raw_channel(url))
        through = proxy.url if side == "client" else url
        client = await stack.enter_async_context(AsyncClient(through, **QUICK))
        lives = Lives(url, service_name)
        for mode in MODES:
            lost = mode == "at-most-once" and side == 3
            for held in NUMBERS:
                for number, kind in enumerate(kinds_of(mode), held + SIDES.index(side)):
                    queue = QUEUES[number % 2]  # both for each mode, stage and kind, from side to side
                    lives.add(mode, held, kind, client, queue, gone=side, timeout=SHORT if lost else PATIENT)
        at = 0 if side == "client" else int(side)
        await stack.enter_async_context(lives.served(at, proxy.url, **QUICK))
        await lives.reach()
        proxy.abandon("up", "down")
        lives.go_on()
        timers = [life for life in lives.all if life.recorded.delivery == "at-most-once" and side == 3]
        ends = await lives.check(raw, timers)
        told = {None, "CONNECTION_LOST", "WORKER_LOST", "CHANNEL_CLOSED", "CLIENT_TIMER", "HANDLER_EXCEPTION"}
        assert {end.reason for end in ends.values()} <= told
        await lives.serve_again()


@pytest.mark.scenario(
    204,
    "The workers of any stage are stopped while it runs, or before its request comes: its caller is told which stage;"
    " casts wait, or are kept and resumed.",
)
@pytest.mark.parametrize("number", NUMBERS)
async def test_a_stage_whose_workers_are_stopped_is_named(
    where: tuple[str, str], service_name: str, number: int
) -> None:
    url, queue = where
    async with AsyncExitStack() as stack:
        raw = stack.enter_context(raw_channel(url))
        client = await stack.enter_async_context(AsyncClient(url))
        lives = Lives(url, service_name)
        kinds: tuple[Kind, ...] = ("call", "cast")
        for mode in MODES:
            for kind in kinds:
                lives.add(mode, number, kind, client, queue, gone="its worker")
                lives.add(mode, 0, kind, client, queue, gone="its worker before", timeout=3.0)
        for n in NUMBERS:
            if n != number:
                await stack.enter_async_context(lives.server(n))
        running = [life for life in lives.all if life.recorded.held]
        waiting = [life for life in lives.all if not life.recorded.held]
        async with lives.server(number, drain_timeout=0.2):
            for life in running:
                life.begin()
            for life in running:
                await asyncio.wait_for(life.recorded.begun.wait(), PATIENT)
        for life in waiting:
            life.begin()
        for life in waiting:
            assert life.end is not None
            got = await life.end
            assert life.recorded.ran("x")[number - 1] == 0
            if life.kind == "call":
                check_late(got, number, life.what)
        lives.go_on()
        await stack.enter_async_context(lives.server(number))
        for life in lives.all:
            got = await life.check(raw, url, timer=life in waiting)
            if life in running and life.kind == "call":
                assert got.evidence == ("DRAIN", Execution.EXECUTED), (life.what, got)
        await lives.serve_again()


@pytest.mark.scenario(
    206,
    "A lean request comes back to a worker whose channel, or connection, is closed before it is given up (embedded"
    " broker): its caller is told which stage has no queue.",
)
@pytest.mark.parametrize("gone", ["connection", "channel"])
async def test_the_error_of_a_stage_that_came_back_is_told_though_its_channel_is_closed(
    embedded: Broker, service_name: str, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("client.lean", "server.lean_stages"):
        monkeypatch.setattr(f"warren.{module}.TRUST", 60.0)  # the machine may be slow
    recorded = Recorded(service_name)
    one, two, three = recorded.services
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(one, url=embedded.url, name="first"))
        await stack.enter_async_context(serving(three, url=embedded.url))
        client = await stack.enter_async_context(AsyncClient(embedded.url, timeout=30))
        worker = server._posts[0].worker
        async with serving(two, url=embedded.url):
            assert await client.call(recorded.whole, "y") == "y123"
            recorded.held = 1
            call = asyncio.create_task(ending(client.call(recorded.whole, "x"), within=30))
            await until(lambda: recorded.runs[1, "x"])
        embedded.delete_queue(two.name)
        recorded.go.set()
        await until(lambda: len(worker.copies))
        used = worker._stages._used
        assert used is not None, "it was not lean"
        if gone == "channel":
            used.publish(b"there is none", b"", encode_properties(Properties()), b"")
            used.flush()
        else:
            embedded.drop_connections_after(0, name="first@.*")
        await until(lambda: used.closed is not None)
        assert len(worker.copies), "it was given up before"
        got = await call
        assert got.evidence == ("NO_ROUTE", Execution.EXECUTED)
        check_evidence(got, recorded, "x", f"its queue and then its {gone} are gone")
        async with serving(two, url=embedded.url):
            assert await client.call(recorded.whole, "z") == "z123"


# --- a stage of another make --------------------------------------------------------------------------------------


class PlainStage:
    """A worker in plain Pika that takes part as docs/wire.md says, for one request."""

    def __init__(self, url: str, name: str, number: int) -> None:
        self._url, self._name, self._number = url, name, number

    def serve(self, publishes: bool, acks: bool) -> None:
        """Take the next request, do so much of what there is to do, and die."""
        with raw_channel(self._url) as channel:
            channel.confirm_delivery()
            method, request, body = channel.basic_get(f"{self._name}-{self._number}")
            while method is None:
                channel.connection.sleep(0.01)
                method, request, body = channel.basic_get(f"{self._name}-{self._number}")
            assert request.type == "run>"
            result = json.dumps(json.loads(body)[0] + str(self._number)).encode()
            if publishes:
                self._publish(channel, request, result)
            if acks:
                channel.basic_ack(method.delivery_tag)

    def _publish(self, channel: Any, request: Any, result: bytes) -> None:
        slip = json.loads(request.headers["rpc-slip"])
        at = slip.get("at", 0) + 1
        if at == len(slip["stages"]):
            if request.reply_to:
                reply = pika.BasicProperties(content_type=request.content_type, correlation_id=request.correlation_id)
                channel.basic_publish("", request.reply_to, result, reply, mandatory=True)
            return
        service, _, method = slip["stages"][at]["to"].rpartition(".")
        kept = {name: value for name, value in request.headers.items() if not name.startswith("x-")}
        request.headers = {**kept, "rpc-slip": json.dumps({**slip, "at": at, "lean": False})}
        request.headers.pop("rpc-lean", None)
        request.type = f"{method}>"
        channel.basic_publish(topology.EXCHANGE, service, b"[" + result + b"]", request, mandatory=True)


@pytest.mark.scenario(
    207,
    "A stage of another make (plain Pika) dies with a request in hand, before it hands over, before its ack or behind:"
    " whoever gets the request again tells its stage, or keeps the cast; the pipeline goes on behind it.",
)
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("publishes", "acks"), [(False, False), (True, False), (True, True)])
async def test_a_plain_stage_that_dies_is_told_as_any(
    url: str, service_name: str, number: int, publishes: bool, acks: bool
) -> None:
    async with AsyncExitStack() as stack:
        raw = stack.enter_context(raw_channel(url))
        client = await stack.enter_async_context(AsyncClient(url))
        lives = Lives(url, service_name)
        kinds: tuple[Kind, ...] = ("call", "cast")
        for kind in kinds:
            lives.add("report", 0, kind, client, "classic", gone="a plain stage")
        async with lives.served():
            pass  # all queues are there
        for n in NUMBERS:
            if n != number:
                await stack.enter_async_context(lives.server(n))
        for life in lives.all:
            plain = PlainStage(url, life.recorded.queues[0].removesuffix("-1"), number)
            life.begin()
            await asyncio.to_thread(plain.serve, publishes, acks)
            life.recorded.runs[number, argument(number, "x")] += 1
        async with lives.server(number):
            for life in lives.all:
                got = await life.check(raw, url)
                if publishes and got.error is None:
                    assert life.kind == "cast" or got.value == "x123"
                elif life.kind == "call":
                    assert got.reason == "WORKER_LOST", (life.what, got)
                    assert got.error is not None
                    assert got.error.stage is not None
                    assert got.error.stage.number == number
                    assert got.execution is (Execution.EXECUTED if number > 1 else Execution.UNKNOWN)
            await lives.serve_again()


def check_late(got: Ending, number: int, what: str) -> None:
    """The time was over in the queue of a stage: its bounce says so, if that comes before the caller's timer rings."""
    if got.evidence == ("CLIENT_TIMER", Execution.UNKNOWN):
        return
    assert got.evidence == ("QUEUE_TTL", Execution.EXECUTED if number > 1 else Execution.UNKNOWN), what
    assert got.error is not None
    assert got.error.stage is not None
    assert got.error.stage.number == number
