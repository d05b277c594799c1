"""What may happen to streams, uploads and conversations, at each point, on RabbitMQ and, but for what
`test_every_frame_of_streams` has, on the embedded broker: they come whole, or end honestly.

Each test makes one call of each kind, delivery mode, queue and reply queue for each point, all at once; when all have
come to their points, it happens to all of them. Half of the handlers run in threads, and half of the callers are
threads: see `Place.flows`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from rabbit import Node
from tests.support.flows import (
    ALLOWED,
    BEGINNING,
    END,
    HANDLERS,
    IN_THREAD,
    POINTS,
    QUEUES,
    RESUMABLE,
    Flow,
    Flows,
    Gate,
    read_runs,
)
from tests.support.proxy import Proxy
from tests.support.serving import serving, victims
from tests.support.waiting import until
from warren import AsyncClient, Client, Server
from warren.broker import Broker
from warren.client import inlet, prepared, sending
from warren.protocol.streaming import Window, window_fields
from warren.server import inflow, streaming, upkeep

#: Seconds that a call may take; what happens to it is noticed long before.
_TIMEOUT = 120.0
#: The same where only the timer can notice it.
_SHORT = 6.0
_ITEMS, _WINDOW = 6, Window(2, 1024 * 1024)
_REPLIES: tuple[Literal["exclusive", "durable"], ...] = ("exclusive", "durable")
_QUICK: dict[str, Any] = {"heartbeat": 2, "liveness_timeout": 1.0}
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small window, and peers that soon ask whether the other one is still there."""
    for module in (inlet, inflow):
        monkeypatch.setattr(module, "DEFAULT_WINDOW", _WINDOW)
    monkeypatch.setattr(prepared, "_WINDOW", window_fields(_WINDOW))
    for module, name in ((streaming, "SIGN_OF_LIFE"), (sending, "SIGN_OF_LIFE"), (inflow, "TELL_AGAIN")):
        monkeypatch.setattr(module, name, 0.5)
    monkeypatch.setattr(upkeep, "INTERVAL", 3600.0)  # what is deleted is missed at once, or never


@pytest.fixture
def embedded() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture(params=["rabbit", "embedded"])
def node(request: pytest.FixtureRequest) -> Node | Broker:
    """A broker of either make."""
    found: Node | Broker = request.getfixturevalue(request.param)
    return found


@dataclass
class Place:
    """Where everything happens: a server and four clients, each side behind a proxy of its own.

    Attributes:
        clients: by their reply queues, and whether they block.
    """

    up: Proxy  # the clients'
    down: Proxy  # the server's
    server: Server
    services: dict[str, Flows]
    clients: dict[tuple[str, bool], AsyncClient | Client]

    def flows(self, points: tuple[str, ...] = POINTS) -> list[tuple[Flow, AsyncClient | Client]]:
        """One of each sort, for each of these points.

        Each point has all sorts of handlers and callers for each kind and mode: the one goes with the reply queue, the
        other with the service's queue, and the other way round at the next point.
        """
        sorts = itertools.product(ALLOWED, enumerate(QUEUES), enumerate(_REPLIES), enumerate(points))
        return [
            (
                self._flow(kind, mode, queue, f"{reply}/{point}", HANDLERS[(r + p) % 2]),
                self.clients[reply, bool((q + p) % 2)],
            )
            for (kind, mode), (q, queue), (r, reply), (p, point) in sorts
        ]

    def _flow(self, kind: str, mode: str, queue: str, key: str, handler: str) -> Flow:
        flows, key = self.services[queue], f"{queue} {key}/{next(_numbers)}"
        flows.gates[key] = Gate(key.split("/")[1])
        return Flow(flows, kind, mode, key, _ITEMS, handler)

    def go(self) -> None:
        """Nobody waits any more."""
        for flows in self.services.values():
            for gate in flows.gates.values():
                gate.open()

    async def serves(self) -> None:
        """One of each kind comes whole over each client: perhaps not the next one, if the sides were not back yet."""
        kinds = [("stream", "report"), ("upload", "report"), ("conversation", "at-most-once")]
        sorts = itertools.product(self.services.values(), self.clients.values(), kinds)
        await asyncio.gather(*(self._serves(flows, client, *kind) for flows, client, kind in sorts))

    async def _serves(self, flows: Flows, client: AsyncClient | Client, kind: str, mode: str) -> None:
        is_whole = False
        while not is_whole:
            number = next(_numbers)
            again = Flow(flows, kind, mode, f"again {number}", _ITEMS, HANDLERS[number % 2])
            await again.run(client, within=_TIMEOUT if mode == "report" else _SHORT)
            again.check()
            is_whole = again.error is None


@asynccontextmanager
async def placed(node: Node | Broker, name: str, *, served: bool = True, **options: Any) -> AsyncIterator[Place]:
    """All that is needed; without a server that runs, if it is not to be `served` yet."""
    async with AsyncExitStack() as stack:
        up, down = (stack.enter_context(Proxy(node.port)) for _ in range(2))
        services: dict[str, Flows] = {queue: Flows(f"{name}-{queue}", queue=queue, concurrency=500) for queue in QUEUES}
        server = serving(*(flows.service for flows in services.values()), url=down.url, **options)
        if served:
            await stack.enter_async_context(server)
        clients: dict[tuple[str, bool], AsyncClient | Client] = {}
        for reply in _REPLIES:
            client = clients[reply, False] = AsyncClient(up.url, reply=reply, **options)
            await stack.enter_async_context(client)
            await client.connect()
            blocking = clients[reply, True] = Client(up.url, reply=reply, **options)
            stack.push_async_callback(asyncio.to_thread, blocking.close)
            await asyncio.to_thread(blocking.connect)
        yield Place(up, down, server, services, clients)


class Row(NamedTuple):
    """How a call has ended, and all that is known of it."""

    kind: str
    mode: str
    handler: str
    reply: str
    point: str
    reason: str | None
    said: str


async def happens(
    place: Place,
    event: Callable[[Place], Any],
    *,
    timer: Callable[[Flow], bool],
    look: Callable[[], None] = lambda: None,
) -> set[Row]:
    """It happens to one of each sort, at each point; only those of `timer` may be ended by their timer.

    `look` finds out how far handlers of other processes have come.
    """
    flows = place.flows()
    tasks = [
        asyncio.create_task(flow.run(client, within=_SHORT if timer(flow) else _TIMEOUT)) for flow, client in flows
    ]

    def are_there() -> bool:
        look()
        return all(flow.waits or task.done() for (flow, _), task in zip(flows, tasks, strict=True))

    await until(are_there)
    if (happening := event(place)) is not None:
        await happening
    place.go()
    await asyncio.gather(*tasks)
    await until(lambda: all(flow.is_over for flow, _ in flows), seconds=_TIMEOUT / 2)
    for flow, _ in flows:
        flow.check()
        assert timer(flow) or flow.error is None or flow.error.reason != "CLIENT_TIMER", f"only its timer: {flow}"
    await place.serves()
    return {row_of(flow) for flow, _ in flows}


def row_of(flow: Flow) -> Row:
    sort, point, _ = flow.key.split("/")
    reason = None if flow.error is None else flow.error.reason
    return Row(flow.kind, flow.mode, flow.handler, sort.split()[1], point, reason, str(flow))


def never(_flow: Flow) -> bool:
    return False


def at_most_once(flow: Flow) -> bool:
    """Nobody has its request any more but its worker."""
    return flow.mode == "at-most-once"


# --- links, workers and brokers that are lost ---------------------------------------------------------------------

_HONEST = "all items, or the first ones of one run and an honest error; no second run unasked; both sides recover."
LINKS = pytest.mark.parametrize(
    ("node", "how"), [*(("rabbit", how) for how in ("rst", "fin", "silent")), ("embedded", "silent")], indirect=["node"]
)
CUTS: dict[str, Callable[[Proxy], None]] = {
    "rst": lambda proxy: proxy.cut("rst"),
    "fin": lambda proxy: proxy.cut("fin"),
    "silent": lambda proxy: proxy.abandon("up", "down"),
}


@pytest.mark.scenario(
    171,
    "The caller's connection is reset, closed or silent at any point of a stream, upload or conversation:"
    " CONNECTION_LOST; with durable replies a stream comes whole. No generator or handler stays behind.",
)
@LINKS
async def test_a_callers_link_that_is_lost(node: Node | Broker, service_name: str, how: str) -> None:
    async with placed(node, service_name, **_QUICK) as place:
        rows = await happens(place, lambda place: CUTS[how](place.up), timer=never)
    for row in rows:
        allowed: set[str | None] = {None} if row.reply == "durable" else {"CONNECTION_LOST"}
        if row.kind != "stream":  # with durable replies it goes on if nothing was being sent
            allowed |= {"CONNECTION_LOST"}
        if row.reply == "durable" and how == "silent" and row.kind != "upload":
            # What the broker's dead connection was given comes back behind newer items, as it notices that late.
            allowed |= {"STREAM_BROKEN"}
        assert row.reason in allowed, row


def check_lost_worker(rows: set[Row]) -> None:
    """What a report says, what is run again, and what nobody but the timer can know."""
    for row in rows:
        if row.mode == "report":
            allowed: set[str | None] = {"WORKER_LOST", "CONNECTION_LOST"}
        elif row.mode == RESUMABLE:
            allowed = {None}
        elif row.mode == "at-least-once":
            allowed = {None if row.point == BEGINNING else "STREAM_BROKEN"}
        else:
            allowed = {"WORKER_LOST", "CLIENT_TIMER", "CONNECTION_LOST"}
            if row.handler == IN_THREAD:
                # It may end before the loop knows that the link is gone: then its reply goes over the next one. It says
                # how many items there were, of which the last ones may be lost, or that an upload is broken.
                allowed |= {None, "STREAM_BROKEN"}
        assert row.reason in allowed, row


@pytest.mark.scenario(
    172,
    "The worker's connection is reset, closed or silent at any point: report says WORKER_LOST, an at-least-once stream"
    " runs again, and is STREAM_BROKEN if items had come, or comes whole if it is resumable; at-most-once ends at its"
    " timer, an upload within 7 s.",
)
@LINKS
async def test_a_workers_link_that_is_lost(node: Node | Broker, service_name: str, how: str) -> None:
    async with placed(node, service_name, **_QUICK) as place:
        check_lost_worker(await happens(place, lambda place: CUTS[how](place.down), timer=at_most_once))


@pytest.mark.scenario(173, "The worker is killed at any point: the same, and another one serves what comes next.")
async def test_a_worker_that_is_killed(rabbit: Node, service_name: str, tmp_path: Path) -> None:
    log = tmp_path / "runs"
    async with placed(rabbit, service_name, served=False) as place:
        with victims(1, service_name, rabbit.url, module="tests.support.flows", RUNS=str(log)) as (victim,):

            def look() -> None:
                for key, runs in read_runs(log).items():
                    place.services[key.split()[0]].runs[key] = runs

            async def kill(place: Place) -> None:
                victim.end()
                look()
                await stack.enter_async_context(place.server)

            async with AsyncExitStack() as stack:
                rows = await happens(place, kill, timer=at_most_once, look=look)
    check_lost_worker(rows)


@pytest.mark.scenario(174, f"The broker restarts at any point: {_HONEST}")
async def test_a_broker_that_restarts(breakable_rabbit: Node, service_name: str) -> None:
    async with placed(breakable_rabbit, service_name) as place:
        rows = await happens(place, lambda _place: asyncio.to_thread(breakable_rabbit.restart), timer=at_most_once)
    check_lost_worker({row for row in rows if row.reply == "durable"})
    assert {row.reason for row in rows if row.reply == "exclusive"} == {"CONNECTION_LOST"}


# --- queues that are deleted --------------------------------------------------------------------------------------


def delete(node: Node | Broker, *names: str) -> None:
    """Have the broker delete these queues, whoever they belong to."""
    for name in names:
        if isinstance(node, Broker):
            node.delete_queue(name)
            continue
        node.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{name}">>)),'
            ' rabbit_amqqueue:delete(Q, false, false, <<"tests">>), ok'
        )


def service_queues(place: Place) -> list[str]:
    return [flows.name for flows in place.services.values()]


def reply_queues(place: Place) -> list[str]:
    cores = [
        client._shared.core() if isinstance(client, AsyncClient) else client._shared.io()._calls._core
        for client in place.clients.values()
    ]
    return [core._replies.address.decode() for core in cores if core is not None]


def items_queues(place: Place) -> list[str]:
    return [post.uploads.queue.name for post in place.server._posts]


def control_queue(place: Place) -> list[str]:
    assert place.server._upkeep.answering is not None
    return [place.server._upkeep.answering._queue]


def nothing(_row: Row) -> set[str | None]:
    return {None}


def no_items(row: Row) -> set[str | None]:
    if row.kind == "stream":
        return {None}
    return {"STREAM_BROKEN", None} if row.point == END else {"STREAM_BROKEN"}  # the end may have come before, or not


@pytest.mark.scenario(
    175,
    "A queue is deleted at any point (service, reply, items or control queue): what does not need it comes whole, the"
    " others end at once in one honest error, and the queue is there again for the next ones.",
)
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (service_queues, nothing),  # what was in there is lost; these were out of it
        (control_queue, nothing),
        (items_queues, no_items),
        (reply_queues, lambda _row: {"CONNECTION_LOST"}),
    ],
)
async def test_a_queue_that_is_deleted(
    node: Node | Broker,
    service_name: str,
    names: Callable[[Place], list[str]],
    expected: Callable[[Row], set[str | None]],
) -> None:
    async with placed(node, service_name) as place:
        rows = await happens(place, lambda place: asyncio.to_thread(delete, node, *names(place)), timer=never)
    for row in rows:
        assert row.reason in expected(row), row


# --- consumers ----------------------------------------------------------------------------------------------------


@pytest.mark.scenario(176, "A caller cancels at any point: handlers and generators are ended, and items closed.")
async def test_a_consumer_that_is_gone(node: Node | Broker, service_name: str) -> None:
    async with placed(node, service_name) as place:
        flows = place.flows()
        tasks = [  # half of them are busy with an item when they go, and do not wait for one
            asyncio.create_task(flow.run(client, within=_TIMEOUT, pause=0.1 * (at % 2)))
            for at, (flow, client) in enumerate(flows)
        ]
        await until(lambda: all(flow.waits for flow, _ in flows))
        for (flow, _), task in zip(flows, tasks, strict=True):
            flow.leave()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        uploads = [flow for flow, client in flows if flow.kind == "upload" and isinstance(client, Client)]
        await until(lambda: all(flow.is_over for flow, _ in flows if flow not in uploads))  # their gates stay closed
        for reply in _REPLIES:  # there is no other way to give up what a thread uploads
            await asyncio.to_thread(place.clients.pop((reply, True)).close)
        await until(lambda: all(flow.is_over for flow in uploads))
        place.go()
        await place.serves()


@pytest.mark.scenario(177, "A consumer that is slow gets all items, each once.")
async def test_a_consumer_that_is_slow(rabbit: Node, service_name: str) -> None:
    async with placed(rabbit, service_name) as place:
        flows = place.flows(("never",))
        await asyncio.gather(*(flow.run(client, within=_TIMEOUT, pause=0.1) for flow, client in flows))
        for flow, _ in flows:
            flow.check()
            assert flow.error is None, flow
