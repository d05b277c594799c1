"""Many calls at a time: through cuts of every kind, into a client that is closed, and into a service nobody serves."""

import asyncio
import gc
import os
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rabbit import Node
from tests.support.evidence import LATE, Counting, Ending, ending, endings, messages, reply_queues, works_again
from tests.support.proxy import Proxy
from tests.support.raw import raw_channel
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Client, Execution
from warren.protocol import topology

# --- 51: Jepsen's check -----------------------------------------------------------------------------------------------

THREADS, CALLS, CUTS = 50, 40, 6

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "reset": lambda proxy: proxy.cut("rst"),
    "end": lambda proxy: proxy.cut("fin"),
    "half-open": Proxy.half_open,
    "silence": lambda proxy: proxy.abandon("up", "down"),
    "silence up": lambda proxy: proxy.abandon("up"),
    "silence down": lambda proxy: proxy.abandon("down"),
}


@pytest.fixture
async def served(rabbit: Node, counting: Counting) -> AsyncIterator[Counting]:
    """The counting service, running on a connection that nothing happens to."""
    async with serving(counting.service, url=rabbit.url):
        yield counting
        counting.release.set()


def caller(client: Client, method: str, name: str, seen: dict[str, Ending]) -> None:
    """Make calls one after another, and keep how each ended."""
    view = client.options(timeout=20)
    for number in range(CALLS):
        text, begun = f"{name} {number}", time.monotonic()
        try:
            seen[text] = Ending(0.0, view.call(method, text))
        except CallError as error:
            seen[text] = Ending(time.monotonic() - begun, None, error)


@pytest.mark.scenario(
    51,
    f"{THREADS} threads make {THREADS * CALLS} calls during {CUTS} random cuts and silences: each ends once, in its own"
    " result or a typed error; results ran, NOT_SENT and NOT_EXECUTED did not, nothing ran twice.",
)
async def test_every_call_of_many_threads_is_accounted_for_through_random_cuts(
    proxy: Proxy, served: Counting, rabbit: Node, seed: int
) -> None:
    rng, seen = random.Random(seed), dict[str, Ending]()
    with Client(proxy.url, liveness_timeout=1) as client:
        threads = [
            threading.Thread(target=caller, args=(client, served.echo, f"thread {n}", seen)) for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for fault in [rng.choice(list(FAULTS)) for _ in range(CUTS)]:
            goal = min(len(seen) + rng.randrange(50, 200), THREADS * CALLS)
            await until(lambda goal=goal: len(seen) >= goal, seconds=60)  # type: ignore[misc]
            FAULTS[fault](proxy)
        for thread in threads:
            await asyncio.to_thread(thread.join, 60)
        assert not any(thread.is_alive() for thread in threads)
    assert len(seen) == THREADS * CALLS
    for text, got in seen.items():
        runs = served.runs[text]
        assert got.seconds < 20 + LATE
        if got.error is None:
            assert (got.value, runs) == (text, 1)
        elif got.error.safe_to_retry:
            assert runs == 0, got
        else:
            assert got.evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
            assert runs <= 1, got
    assert Counter(got.error is None for got in seen.values())[True] > THREADS
    await until(lambda: messages(rabbit, served.queue) == 0)


# --- 52: the end of a client ------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    52,
    "close() with calls pending: each ends at once, CANCELLED/CLOSED: UNKNOWN if it was sent, NOT_SENT if not; close"
    " returns within a second, also where nobody answers, and nobody connects any more.",
)
@pytest.mark.parametrize("state", ["open", "reconnecting", "silent"])
@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_close_ends_what_is_pending(proxy: Proxy, served: Counting, rabbit: Node, kind: str, state: str) -> None:
    client: AsyncClient | Client = AsyncClient(proxy.url) if kind == "async" else Client(proxy.url)

    def call(method: str, text: str, timeout: float = 30) -> Awaitable[Any]:
        if isinstance(client, AsyncClient):
            return client.options(timeout=timeout).call(method, text)
        return asyncio.wrap_future(client.options(timeout=timeout).submit(method, text))

    await call(served.echo, "before")
    execution = Execution.UNKNOWN
    if state == "reconnecting":
        execution = Execution.NOT_SENT
        proxy.refuse()
        proxy.cut()
        await until(lambda: proxy.open == 0)
        await ending(call(served.echo, "by its end the client has noticed", 0.3), within=0.3)
    calls = [asyncio.create_task(ending(call(served.hold, f"x{n}"), within=30)) for n in range(20)]
    if state == "reconnecting":
        await asyncio.sleep(0)  # they begin
    else:
        await until(lambda: served.runs.total() == 21)
    if state == "silent":
        proxy.up.silent = proxy.down.silent = True
    begun = time.monotonic()
    closing = asyncio.create_task(
        client.close() if isinstance(client, AsyncClient) else asyncio.to_thread(client.close)
    )
    for got in await asyncio.gather(*calls):
        assert got.evidence == ("CLOSED", execution)
    assert time.monotonic() - begun < LATE
    await closing
    assert time.monotonic() - begun < 1 + LATE  # a silent broker gets less than a second to say good-bye
    proxy.heal()
    proxy.accept()
    accepted = len(proxy.accepted)
    await asyncio.sleep(0.5)  # longer than the first pauses between attempts
    assert len(proxy.accepted) == accepted
    served.release.set()
    await until(lambda: messages(rabbit, served.queue) == 0)
    assert all(served.runs[f"x{n}"] == (0 if state == "reconnecting" else 1) for n in range(20))


# --- 57: calls that time out ------------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory that this process has in use."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.scenario(
    57, "20,000 calls that time out: each ends in time; memory, reply queues and the service's queue do not grow."
)
async def test_calls_that_time_out_leave_nothing_behind(rabbit: Node, service_name: str, served: Counting) -> None:
    with raw_channel(rabbit.url) as raw:
        queue = f"{service_name}-nobody"
        raw.queue_declare(queue, durable=True, arguments={"x-dead-letter-exchange": topology.BOUNCE_EXCHANGE})
        raw.queue_bind(queue, topology.EXCHANGE, queue)
    reasons: Counter[str | None] = Counter()
    async with AsyncClient(rabbit.url, timeout=0.3) as client:
        await works_again(client, served.echo)
        used = []
        for _ in range(10):
            for got in await endings(*(client.call(f"{queue}.x") for _ in range(2000)), within=0.3):
                assert got.execution in (Execution.UNKNOWN, Execution.NOT_SENT)
                reasons[got.reason] += 1
            used.append(resident())
        await works_again(client, served.echo)
        assert client.statistics.in_flight == 0
        assert reply_queues(rabbit) == 1
        await until(lambda: messages(rabbit, queue) == 0)
    assert set(reasons) <= {"CLIENT_TIMER", "QUEUE_TTL", "NOT_CONNECTED"}
    assert reasons.total() == 20_000
    # 16,000 calls later; a leak of one kilobyte for each would be 16 MB.
    assert used[-1] - used[1] < 6_000_000, used
