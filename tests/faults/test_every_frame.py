"""A connection that ends after each frame of a call's life, on the embedded broker: no ending contradicts the handler.

Each test makes one call for each number of frames, all at once, each on a client, a server and a service of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.evidence import Counting, Ending, ending, endings
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, Execution
from warren.broker import Broker
from warren.protocol import topology

#: Seconds that a call may take; no cut may cost so much, as both sides notice it.
_TIMEOUT = 20.0
#: A connection outlives a call after so many: a publish and a delivery have three frames, a confirm and an ack one.
_ENOUGH = 10
_CALLS = ("call", "call by function", "call again", "call with durable replies", "call at most once")
_CASTS = ("cast", "cast by function", "cast again")


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@dataclass
class Life:
    """One call beside the connection that is cut during it."""

    broker: Broker
    name: str
    client: AsyncClient
    counting: Counting
    once: Any
    timeout: float

    def begin(self, kind: str) -> Awaitable[Any]:
        """The call; those by function are of an at-least-once method, those again have `resend`."""
        client = self.client.options(timeout=self.timeout, resend=True if "again" in kind else None)
        method: Any = self.counting.repeat if "function" in kind else self.counting.echo
        method = self.once if "at most once" in kind else method
        return client.cast(method, "x") if "cast" in kind else client.call(method, "x")

    def waiting(self, queue: str) -> int:
        """Messages in a queue, those with a worker included."""
        queues = self.broker.status().queues
        return sum(found.ready + found.unacked for found in queues if found.name == queue)

    def address(self, side: str) -> list[str]:
        """Where a side's connection comes from: another one after a cut."""
        return [
            found.address for found in self.broker.status().connections if found.name.startswith(f"{side}-{self.name}@")
        ]


def timer_ends(kind: str, side: str) -> bool:
    """A reply of an at-most-once method that is lost with its server is noticed by nobody but the timer."""
    return kind == "call at most once" and side == "server"


@asynccontextmanager
async def alive(broker: Broker, name: str, kind: str, timeout: float = _TIMEOUT) -> AsyncIterator[Life]:
    """A client and a server of their own, connected."""
    counting = Counting(name)

    async def once(text: str) -> str:
        counting.count(text)
        return text

    once = counting.service.method(delivery="at-most-once")(once)
    reply: Any = "durable" if "durable" in kind else "exclusive"
    async with (
        serving(counting.service, url=broker.url, name=f"server-{name}"),
        AsyncClient(broker.url, name=f"client-{name}", reply=reply) as client,
    ):
        await client.call(counting.echo, "ready")
        life = Life(broker, name, client, counting, once, timeout)
        await until(lambda: life.waiting(name) == 0)
        yield life


async def cut_after(broker: Broker, frames: int, *, kind: str, side: str, to_client: bool, reset: bool) -> bool:
    """One call's life, and what must be true of it; returns whether its connection was cut."""
    timeout = 2.0 if timer_ends(kind, side) else _TIMEOUT
    async with alive(broker, f"svc-{frames}", kind, timeout) as life:
        before = life.address(side)
        name = f"{side}-{life.name}"
        assert broker.drop_connections_after(frames, to_clients=to_client, reset=reset, name=f"{name}@.*") == 1
        got = await ending(life.begin(kind), within=timeout)
        works = await ending(
            life.client.options(timeout=_TIMEOUT, resend=True).call(life.counting.echo, "y"), within=20
        )
        assert works.value == "y" or works.reason == "WORKER_LOST", works
        await until(lambda: life.waiting(life.name) == 0)
        check(got, life, f"{frames} frames", may_repeat="by function" in kind or "again" in kind)
        assert got.reason != "CLIENT_TIMER" or timer_ends(kind, side), got
        return life.address(side) != before


def check(got: Ending, life: Life, when: str, *, may_repeat: bool) -> None:
    """The ending and the runs of the handler do not contradict each other."""
    runs, set_aside = life.counting.runs["x"], life.waiting(topology.dead_queue(life.name))
    said = f"after {when}: {got}, {got.evidence}, and the handler ran {runs} times, {set_aside} in the dead queue"
    assert runs <= 1 or may_repeat, said
    assert len(life.counting.ids["x"]) <= 1, said
    if got.error is None:
        assert got.value in ("x", None), said
        assert runs or (got.value is None and set_aside), said
    elif got.execution is Execution.EXECUTED:
        assert runs, said
    elif got.execution is not Execution.UNKNOWN:
        assert runs == 0, said


@pytest.mark.scenario(
    140,
    "The connection of the client or the server ends, or is reset, after each frame of a call or cast, one way or the"
    " other (embedded broker): a result or an honest error, never a second run unasked, no confirmed cast is lost.",
)
@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("to_client", [False, True], ids=["from", "to"])
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("kind", [*_CALLS, *_CASTS])
async def test_a_cut_after_any_frame_gives_a_result_or_an_honest_error(
    broker: Broker, kind: str, side: str, to_client: bool, reset: bool
) -> None:
    cut = await asyncio.gather(
        *(
            cut_after(broker, frames, kind=kind, side=side, to_client=to_client, reset=reset)
            for frames in range(1, _ENOUGH + 1)
        )
    )
    assert cut[0], "it was never cut"


@pytest.mark.scenario(141, "Confirms out of order (embedded broker) each reach their own call and cast.")
@pytest.mark.usefixtures("unhurried")
async def test_confirms_out_of_order_reach_their_own_casts(broker: Broker) -> None:
    async with alive(broker, "svc", "cast") as life:
        broker.reorder_confirms(4)
        broker.nack_publishes(1)
        casts = [ending(life.client.cast(life.counting.echo, text), within=_TIMEOUT) for text in "abcd"]
        got = await asyncio.gather(*casts)
        assert [one.reason for one in got] == ["QUEUE_FULL", None, None, None]
        await until(lambda: life.counting.runs.total() == 4)
        assert [life.counting.runs[text] for text in "abcd"] == [0, 1, 1, 1]


@pytest.mark.scenario(141, "Confirms that come after the replies, and out of order, harm no call.")
@pytest.mark.usefixtures("unhurried")
async def test_confirms_out_of_order_reach_their_own_calls(broker: Broker) -> None:
    async with alive(broker, "svc", "call") as life:
        life.client._shared.core()._endings.lean.forget()  # else they ask for no confirms
        broker.reorder_confirms(8)
        broker.nack_publishes(1)
        calls = [life.client.options(timeout=_TIMEOUT).call(life.counting.echo, text) for text in "abcdefgh"]
        got = await endings(*calls, within=_TIMEOUT)
        assert [one.reason for one in got] == ["QUEUE_FULL", *[None] * 7]
        assert [one.value for one in got[1:]] == list("bcdefgh")
        assert await life.client.call(life.counting.echo, "i") == "i"
