"""A connection that ends after each frame of a pipeline's life, on the embedded broker: its client's, or that of the
worker of any of its three stages. No ending contradicts what ran, and no confirmed cast is lost.

Each test makes one call for each number of frames and each way, all at once, each on a client, servers and services of
its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.evidence import Ending, ending
from tests.support.recorded import NUMBERS, Recorded, check_evidence, dead_stages
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Client, Server
from warren.broker import Broker
from warren.broker.status import Status

#: Seconds that a call may take; no cut may cost so much, as both sides notice it.
_TIMEOUT = 20.0
#: The same where nobody but the timer can notice a reply that got lost.
_TIMER = 3.0
#: A connection outlives its part in a pipeline after so many frames, and one that undoes what it has done, too.
_ENOUGH = 8
_ENOUGH_TO_UNDO = 12

_MODES = {"report": "report", "again": "at-least-once", "once": "at-most-once"}
_CALLS = ("call, report", "call, again", "call, once", "lean, report", "undo, report", "undo, again")
_CASTS = ("cast, report", "cast, again", "cast, once", "cast undo, report")


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


class Watch:
    """What the broker is doing, asked for once for all who look at the same time."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._status: Status | None = None
        self._taken = 0.0

    @property
    def status(self) -> Status:
        if self._status is None or time.monotonic() - self._taken > 0.01:
            self._status, self._taken = self.broker.status(), time.monotonic()
        return self._status

    def waiting(self, *queues: str) -> int:
        """Messages in these queues, those with a worker included."""
        return sum(found.ready + found.unacked for found in self.status.queues if found.name in queues)

    def addresses(self, name: str) -> list[str]:
        """Where the connections of this name come from: others after a cut."""
        return [found.address for found in self.status.connections if found.name.startswith(f"{name}@")]


@dataclass
class Life:
    """One pipeline beside the connection that is cut during it."""

    watch: Watch
    name: str
    kind: str
    side: str
    client: AsyncClient
    blocking: Client | None
    recorded: Recorded
    servers: list[Server]
    timeout: float

    def begin(self) -> Awaitable[Any]:
        if self.blocking is not None:
            return asyncio.wrap_future(self.blocking.options(timeout=self.timeout).submit(self.recorded.whole, "x"))
        client = self.client.options(timeout=self.timeout)
        whole = self.recorded.undoing if "undo" in self.kind else self.recorded.whole
        return client.cast(whole, self.text) if "cast" in self.kind else client.call(whole, self.text)

    @property
    def text(self) -> str:
        return "bad" if "undo" in self.kind else "x"

    async def rest(self) -> None:
        """Wait until nothing is on its way."""
        await until(lambda: self.watch.waiting(*self.recorded.queues) == 0 and not any(map(_copies, self.servers)))

    @property
    def was_lean(self) -> bool:
        """Whether its first stage was handed over without a confirm."""
        return self.servers[0]._posts[0].worker._stages._used is not None

    async def warm(self) -> None:
        """All queues are said to take everything, right before this one."""
        await self.client.call(self.recorded.whole, "warm")
        await self.rest()
        for server in self.servers:
            server._posts[0].worker._stages._used = None


def _copies(server: Server) -> int:
    return len(server._posts[0].worker.copies)


def timer_ends(kind: str, side: str) -> bool:
    """The reply of an at-most-once stage that is lost with its worker is noticed by nobody but the timer."""
    return kind.endswith("once") and side == "3"


@asynccontextmanager
async def alive(watch: Watch, name: str, kind: str, side: str) -> AsyncIterator[Life]:
    """A client and three servers of their own, connected."""
    recorded, url = Recorded(name, _MODES[kind.partition(", ")[2]]), watch.broker.url
    timeout = _TIMER if timer_ends(kind, side) else _TIMEOUT
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(serving(service, url=url, name=f"{n}-{name}"))
            for n, service in zip(NUMBERS, recorded.services, strict=True)
        ]
        asks = f"{'other' if 'submit' in kind else 'client'}-{name}"
        client = await stack.enter_async_context(AsyncClient(url, name=asks))
        blocking = Client(url, name=f"client-{name}") if "submit" in kind else None
        try:
            if blocking is not None:
                await asyncio.to_thread(blocking.call, recorded.whole, "ready")
            life = Life(watch, name, kind, side, client, blocking, recorded, servers, timeout)
            await life.warm()
            yield life
        finally:
            if blocking is not None:
                await asyncio.to_thread(blocking.close)


async def cut_after(
    watch: Watch, frames: int, *, kind: str, side: str, to_client: bool, reset: bool
) -> tuple[int, ...]:
    """One pipeline's life, and what must be true of it; returns whether its connection was cut, and whether it was
    lean."""
    name = f"{frames}{'to' if to_client else 'from'}{'r' if reset else 'e'}"
    async with alive(watch, name, kind, side) as life:
        before, cut = life.watch.addresses(f"{side}-{name}"), f"{side}-{name}@.*"
        assert watch.broker.drop_connections_after(frames, to_clients=to_client, reset=reset, name=cut) == 1
        got = await ending(life.begin(), within=life.timeout)
        lean = life.was_lean
        await serves_again(life)
        await life.rest()
        said = check_evidence(got, life.recorded, life.text, f"{kind}, {side} cut, {name}")
        assert got.reason != "CLIENT_TIMER" or timer_ends(kind, side), said
        await check_kept(got, life, said)
        return life.watch.addresses(f"{side}-{name}") != before, lean


async def serves_again(life: Life) -> None:
    """The same client and workers run another pipeline; of those before it, one may meet the end of the connection."""
    patient, lost = life.client.options(timeout=life.timeout), {"WORKER_LOST", "CONNECTION_LOST", "CHANNEL_CLOSED"}
    if timer_ends(life.kind, life.side):
        lost.add("CLIENT_TIMER")
    for text in ("y", "yy", "yyy"):
        works = await ending(patient.call(life.recorded.whole, text), within=life.timeout)
        check_evidence(works, life.recorded, text, "afterwards")
        if works.value == f"{text}123":
            return
        assert works.reason in lost, works
    raise AssertionError(f"it does not work again: {works}")


async def check_kept(got: Ending, life: Life, said: str) -> None:
    """A confirmed cast has come to its end, or is kept and goes on from there; what has failed is undone, or kept."""
    kept = await dead_stages(life.watch.broker.url, life.recorded) if life.watch.waiting(*life.recorded.dead) else []
    said = f"{said}; kept {kept}"
    assert all(entry.text == life.text for entry in kept), said
    ran, undone = life.recorded.ran(life.text), life.recorded.were_undone(life.text)
    if "cast" not in life.kind and "undo" not in life.kind:
        assert kept == [], said
    elif "undo" in life.kind:
        assert all(undone[:2]) or kept or not ran[2], said
        for number in NUMBERS:  # what undoes is at-least-once
            assert undone[number - 1] <= (2 if life.side == str(number) else 1), said
            assert len(life.recorded.undo_ids[number, life.text]) <= 1, said
    elif got.error is None:
        assert ran[2] or kept, said
        await resume(life, said)


async def resume(life: Life, said: str) -> None:
    """Nothing that is kept is kept in vain; the connection may still be cut while it runs again."""
    for _ in range(3):
        if life.recorded.ran(life.text)[2]:
            return
        for entry in await dead_stages(life.watch.broker.url, life.recorded, resume=True):
            await until(lambda number=entry.stage: life.recorded.ran(life.text)[number - 1])  # type: ignore[misc]
        await life.rest()
    raise AssertionError(f"it does not go on: {said}")


@pytest.mark.scenario(
    200,
    "The connection of the client, or of any stage's worker, ends or is reset after each frame of a pipeline's call or"
    " cast, one way or the other (embedded broker): a result or an honest error that contradicts no stage, no second"
    " run unasked; a confirmed cast runs to its end, or is kept and resumed; the same peers go on.",
)
@pytest.mark.parametrize(
    ("kind", "side"),
    [
        *((kind, side) for kind in (*_CALLS, *_CASTS) for side in ("client", *map(str, NUMBERS))),
        ("submit, report", "client"),
    ],
)
async def test_a_cut_after_any_frame_of_a_pipeline_is_told_truly(broker: Broker, kind: str, side: str) -> None:
    enough, watch = _ENOUGH_TO_UNDO if "undo" in kind else _ENOUGH, Watch(broker)
    lives = await asyncio.gather(
        *(
            cut_after(watch, frames, kind=kind, side=side, to_client=to_client, reset=(frames + to_client) % 2 == 0)
            for frames in range(1, enough + 1)
            for to_client in (False, True)
        )
    )
    cut, lean = zip(*lives, strict=True)
    assert all(cut[:2]), "it was never cut"
    assert kind != "lean, report" or any(lean), "it was never lean"  # on a busy machine it is not each time
