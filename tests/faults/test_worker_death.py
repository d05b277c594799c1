"""The death of a worker at each point of a call's life: docs/reference.md, Delivery, for both kinds of queues."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.doomed import BEFORE_ACK, BEFORE_DECODING, BEFORE_REPLY, MODES, POINTS, RUNNING, make_service
from tests.support.raw import depth, raw_channel, take
from tests.support.serving import doomed, lines, serving
from tests.support.waiting import PATIENCE, until
from warren import AsyncClient, CallError
from warren.protocol import topology

both_queues = pytest.mark.parametrize("queue", ["classic", "quorum"])


class Cell(NamedTuple):
    """What one death must lead to.

    Attributes:
        outcome: ``result``, or reason and execution of the caller's error.
        runs: how often the handler ran in all.
        held: how many requests the broker still has after the death.
        late: replies that come when the call has ended already.
    """

    outcome: str
    runs: int
    held: int
    late: int = 0


LOST = "WORKER_LOST, UNKNOWN"
TIMEOUT = "CLIENT_TIMER, UNKNOWN"

TABLE = {
    ("report", BEFORE_DECODING): Cell(LOST, runs=0, held=1),
    ("report", RUNNING): Cell(LOST, runs=1, held=1),
    ("report", BEFORE_REPLY): Cell(LOST, runs=1, held=1),
    ("report", BEFORE_ACK): Cell("result", runs=1, held=1, late=1),
    ("at-least-once", BEFORE_DECODING): Cell("result", runs=1, held=1),
    ("at-least-once", RUNNING): Cell("result", runs=2, held=1),
    ("at-least-once", BEFORE_REPLY): Cell("result", runs=2, held=1),
    ("at-least-once", BEFORE_ACK): Cell("result", runs=2, held=1, late=1),
    # Not acknowledged yet when its arguments are read, so the broker gives it to another worker, which reports.
    ("at-most-once", BEFORE_DECODING): Cell(LOST, runs=0, held=1),
    ("at-most-once", RUNNING): Cell(TIMEOUT, runs=1, held=0),
    ("at-most-once", BEFORE_REPLY): Cell(TIMEOUT, runs=1, held=0),
    ("at-most-once", BEFORE_ACK): Cell("result", runs=1, held=0),
}


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url) as client:
        await client.connect()
        yield client


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    with raw_channel(url) as channel:
        yield channel


async def outcome_of(call: asyncio.Task[str], result: str) -> str:
    """What a call ended in, in the words of `TABLE`."""
    try:
        assert await asyncio.wait_for(call, 30) == result
    except CallError as error:
        return f"{error.reason}, {error.execution.value}"
    return "result"


@pytest.mark.scenario(
    28,
    "A worker dies at any point of a call's life: report tells the caller at once and runs nothing twice,"
    " at-least-once runs again, at-most-once never does; nothing stays at the broker.",
)
@both_queues
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", POINTS)
async def test_the_death_of_a_worker_leads_to_what_the_delivery_mode_promises(
    client: AsyncClient, url: str, raw: Any, service_name: str, queue: str, mode: str, point: str, tmp_path: Path
) -> None:
    runs, reached = tmp_path / "runs", tmp_path / "reached"
    cell = TABLE[mode, point]
    with doomed(1, service_name, url, runs, queue=queue, POINT=point, REACHED=str(reached)) as (victim,):
        # Only where nothing but the caller's own timer can end the call does it have to be waited for.
        view = client.options(timeout=2.5 if cell.outcome == TIMEOUT else 60)
        call = asyncio.create_task(view.call(f"{service_name}.{mode}", "k"))
        await until(reached.exists)
        if point == BEFORE_ACK:
            assert await outcome_of(call, "k done") == "result"
        victim.end()
        await until(lambda: depth(raw, service_name) == cell.held)
    async with serving(make_service(service_name, queue, runs), url=url):
        assert await outcome_of(call, "k done") == cell.outcome
        await until(lambda: client.ignored_replies >= cell.late)
        await client.call(f"{service_name}.ping")
    assert lines(runs) == ["k"] * cell.runs
    assert depth(raw, service_name) == 0  # the server is gone: what it had not acknowledged would be back
    assert depth(raw, topology.dead_queue(service_name)) == 0
    assert client.ignored_replies == cell.late


@pytest.mark.scenario(
    34,
    "A request that kills its workers kills max_attempts of them and not one more, is answered POISON and found in"
    " the dead queue with the reason; other requests are served throughout.",
)
@both_queues
@pytest.mark.parametrize("point", [BEFORE_DECODING, RUNNING, BEFORE_REPLY])
async def test_a_poisonous_request_kills_no_more_workers_than_its_limit(
    client: AsyncClient, url: str, raw: Any, service_name: str, queue: str, point: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with doomed(3, service_name, url, runs, queue=queue, POINT=point, MAX_ATTEMPTS="2") as workers:
        call = asyncio.create_task(client.options(timeout=60).call(f"{service_name}.at-least-once", "k"))
        others = 0
        while not call.done() or others < 10:
            await client.call(f"{service_name}.ping")
            others += 1
        with pytest.raises(CallError) as caught:
            await call
        # Their connections are closed a moment before they can be reaped.
        await until(lambda: [w.process.poll() for w in workers].count(None) == 1)
        assert await client.call(f"{service_name}.ping") in {w.pid for w in workers}
    assert (caught.value.reason, caught.value.execution.value) == ("POISON", "UNKNOWN")
    assert lines(runs) == ["k"] * (0 if point == BEFORE_DECODING else 2)
    dead = take(raw, topology.dead_queue(service_name))
    assert dead is not None
    assert dead[0].headers["rpc-dead-reason"] == "POISON"
    assert dead[0].message_id == caught.value.call_id
    assert dead[1] == b'["k"]'
    assert (depth(raw, topology.dead_queue(service_name)), depth(raw, service_name)) == (0, 0)


#: mode -> (runs in all, reason in the dead queue)
CASTS = {"report": (1, "WORKER_LOST"), "at-least-once": (2, None), "at-most-once": (1, None)}


@pytest.mark.scenario(
    28, "A worker dies over a cast: report sets it aside, at-least-once runs it again, at-most-once loses it."
)
@both_queues
@pytest.mark.parametrize("mode", MODES)
async def test_a_cast_whose_worker_dies_is_set_aside_run_again_or_lost_as_its_mode_says(
    client: AsyncClient, url: str, raw: Any, service_name: str, queue: str, mode: str, tmp_path: Path
) -> None:
    runs, reached = tmp_path / "runs", tmp_path / "reached"
    with doomed(1, service_name, url, runs, queue=queue, POINT=RUNNING, REACHED=str(reached)) as (victim,):
        await client.cast(f"{service_name}.{mode}", "k")
        await until(reached.exists)
        victim.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(victim.process.wait, PATIENCE)
    expected_runs, reason = CASTS[mode]
    async with serving(make_service(service_name, queue, runs), url=url):
        await until(lambda: len(lines(runs)) == expected_runs)
        if reason is not None:
            dead = await until(lambda: take(raw, topology.dead_queue(service_name)))
            assert (dead[0].headers["rpc-dead-reason"], dead[1]) == (reason, b'["k"]')
        await client.call(f"{service_name}.ping")
    assert lines(runs) == ["k"] * expected_runs
    assert (depth(raw, service_name), depth(raw, topology.dead_queue(service_name))) == (0, 0)
