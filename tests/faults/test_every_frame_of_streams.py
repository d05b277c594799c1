"""A connection that ends after each frame of a call that sends or yields items, on the embedded broker.

Each test makes one call for each number of frames, one way and the other, many at once. What is not cut is shared: one
server for many clients, or one client for many servers, which must not notice that the others were cut.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.flows import HANDLERS, RESUMABLE, Flow, Flows
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient
from warren.broker import Broker, Status
from warren.client import inlet, prepared, sending
from warren.protocol.streaming import Window, window_fields
from warren.server import inflow, streaming

#: Seconds that a call may take; no cut may cost so much, as both sides notice it.
_TIMEOUT = 60.0
#: Items of each call, and how many a side may be ahead: so it waits, and is told to go on, within a few frames.
_ITEMS, _WINDOW = 4, Window(2, 1024 * 1024)
#: What is cut: kind, delivery mode, and the client's reply queue.
_CALLS: dict[str, tuple[str, str, Any]] = {
    "stream": ("stream", "report", "exclusive"),
    "stream with durable replies": ("stream", "report", "durable"),
    "stream again": ("stream", "at-least-once", "exclusive"),
    "stream again with durable replies": ("stream", "at-least-once", "durable"),
    "resumable stream": ("stream", RESUMABLE, "durable"),
    "stream at most once": ("stream", "at-most-once", "exclusive"),
    "upload": ("upload", "report", "exclusive"),
    "upload with durable replies": ("upload", "report", "durable"),
    "upload at most once": ("upload", "at-most-once", "exclusive"),
    "conversation": ("conversation", "report", "exclusive"),
    "conversation at most once": ("conversation", "at-most-once", "exclusive"),
}
#: How many calls are made at a time, each with its number of frames.
_AT_ONCE = 12
_numbers = itertools.count()


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small window, and peers that soon ask whether the other one is still there."""
    for module in (inlet, inflow):
        monkeypatch.setattr(module, "DEFAULT_WINDOW", _WINDOW)
    monkeypatch.setattr(prepared, "_WINDOW", window_fields(_WINDOW))
    monkeypatch.setattr(streaming, "SIGN_OF_LIFE", 0.5)
    monkeypatch.setattr(sending, "SIGN_OF_LIFE", 0.5)
    monkeypatch.setattr(sending, "_GRACE", 0.5)
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.5)


@dataclass
class Life:
    """A client and a service, one of which has a connection that will be cut."""

    broker: Broker
    flows: Flows
    client: AsyncClient
    cut: str  # the name of that connection

    def address(self, status: Status) -> list[str]:
        """Where it comes from: another one after a cut."""
        return [one.address for one in status.connections if one.name.startswith(f"{self.cut}@")]

    async def serves(self) -> None:
        """Another stream on the same objects comes whole: perhaps not the next one, if they were not back yet."""
        is_whole = False
        while not is_whole:
            again = Flow(self.flows, "stream", "report", f"again {next(_numbers)}", 3)
            await again.run(self.client, within=_TIMEOUT)
            again.check()
            assert again.error is None or again.error.reason in ("CONNECTION_LOST", "WORKER_LOST"), again
            is_whole = again.error is None


@asynccontextmanager
async def lives(broker: Broker, side: str, reply: Any, count: int) -> AsyncIterator[list[Life]]:
    """So many, whose clients have connections of their own, or their servers, as `side` says."""
    async with AsyncExitStack() as stack:

        async def client(name: str) -> AsyncClient:
            client = AsyncClient(broker.url, name=name, reply=reply)
            await stack.enter_async_context(client)
            await client.connect()
            return client

        async def server(name: str) -> Flows:
            flows = Flows(f"svc-{name}")
            await stack.enter_async_context(serving(flows.service, url=broker.url, name=name))
            return flows

        names = [f"cut-{next(_numbers)}" for _ in range(count)]
        if side == "client":
            flows = await server(f"shared-{names[0]}")
            clients = await asyncio.gather(*map(client, names))
            yield [Life(broker, flows, one, name) for one, name in zip(clients, names, strict=True)]
        else:
            shared = await client("shared")
            services = await asyncio.gather(*map(server, names))
            yield [Life(broker, flows, shared, name) for flows, name in zip(services, names, strict=True)]


@dataclass(frozen=True)
class Cut:
    """When a connection is cut, and how, and where the handler runs."""

    frames: int
    to_client: bool
    reset: bool
    handler: str

    def __str__(self) -> str:
        return f"{'reset' if self.reset else 'end'} after {self.frames} {'to' if self.to_client else 'from'}"


def cuts_after(frames: range, ways: list[bool], what: str) -> list[Cut]:
    """One after each of these frames. What is cut in one way here is cut in another for the next kind of call.

    So each frame of streams, of uploads and of conversations is met by both handlers, and ended and reset, in one kind
    or the other, and that costs no more time.
    """
    kind = list(_CALLS).index(what)
    return [
        Cut(number, to_client, reset=(number + kind) % 2 == 0, handler=HANDLERS[(number // 2 + kind) % 2])
        for to_client in ways
        for number in frames
    ]


async def one_call(life: Life, cut: Cut, what: str, within: float) -> Flow:
    """Make it, and wait until neither side does anything for it."""
    kind, mode, _reply = _CALLS[what]
    name = f"{life.cut}@.*"
    assert life.broker.drop_connections_after(cut.frames, to_clients=cut.to_client, reset=cut.reset, name=name) == 1
    flow = await Flow(life.flows, kind, mode, str(cut), _ITEMS, cut.handler).run(life.client, within=within)
    await until(lambda: flow.is_over, seconds=_TIMEOUT / 2)  # by far before its deadline would end it
    return flow


def check(flow: Flow, *, was_cut: bool, may_wait: bool) -> None:
    """It is honest, and was not ended by its timer, unless nobody else can know; nor by anything if nothing was cut."""
    flow.check()
    by_timer = flow.error is not None and flow.error.reason == "CLIENT_TIMER"
    assert may_wait or not by_timer, f"only its timer ended it: {flow}"
    assert was_cut or by_timer or flow.error is None, f"nothing was cut, and it failed: {flow}"
    assert flow.mode != RESUMABLE or flow.error is None or not flow.items, f"it does not go on: {flow}"


async def cut_all(broker: Broker, cuts: list[Cut], what: str, side: str) -> list[bool]:
    """One call for each of them, all at once; which connections were cut."""
    # Nobody but the timer notices that a worker is lost which had taken the request off its queue: of an upload, until
    # it has said where items go.
    may_wait = side == "server" and "at most once" in what
    async with lives(broker, side, _CALLS[what][2], len(cuts)) as all_lives:
        before = [life.address(broker.status()) for life in all_lives]
        calls = (
            one_call(life, cut, what, 3.0 if may_wait else _TIMEOUT) for life, cut in zip(all_lives, cuts, strict=True)
        )
        flows = await asyncio.gather(*calls)
        await until(lambda: not any(queue.unacked for queue in broker.status().queues if "svc" in queue.name))
        after = broker.status()
        were_cut = [life.address(after) != address for life, address in zip(all_lives, before, strict=True)]
        for flow, was_cut in zip(flows, were_cut, strict=True):
            check(flow, was_cut=was_cut, may_wait=may_wait)
        await asyncio.gather(*(life.serves() for life in all_lives))
        return were_cut


@pytest.mark.scenario(
    170,
    "The connection of the client or the worker ends or is reset, in turn, after each frame of a stream, upload or"
    " conversation, its handler on the loop or in a thread,"
    " one way or the other (embedded broker): all items, or the first ones of one run and an honest"
    " error; a resumable one that has begun comes whole; no second run unasked, no short upload, generators are closed,"
    " and both sides serve the next one.",
)
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("what", _CALLS)
async def test_a_cut_after_any_frame_makes_nothing_short_and_nothing_come_twice(
    broker: Broker, what: str, side: str
) -> None:
    ways = [False, True]  # whether what goes to the client is counted
    first = 1
    while ways:  # those that have more frames
        frames = range(first, first + _AT_ONCE)
        cut = await cut_all(broker, cuts_after(frames, ways, what), what, side)
        assert first > 1 or all(cut[::_AT_ONCE]), "it was never cut"
        lasts = [cut[end - 4 : end] for end in range(_AT_ONCE, len(cut) + 1, _AT_ONCE)]  # of both handlers
        ways = [way for way, last in zip(ways, lasts, strict=True) if any(last)]
        first += _AT_ONCE
