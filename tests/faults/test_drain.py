"""Stopping workers on purpose: no caller notices, unless the time for it runs out, and that is said."""

import asyncio
import itertools
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.doomed import MODES
from tests.support.evidence import Counting, ending
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel
from tests.support.serving import Victim, doomed, lines, serving
from tests.support.waiting import PATIENCE, until, within
from tests.support.yielding import taken
from warren import AsyncClient, CallError, Cancelled, Service, WorkerLost
from warren.protocol import topology


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, timeout=60) as client:
        await client.connect()
        yield client


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    with raw_channel(url) as channel:
        yield channel


@pytest.mark.scenario(
    38,
    "SIGTERM with 10 calls running, 10 held and 40 in the queue: the 10 are answered, the others served elsewhere,"
    " the worker exits with 0, all 60 callers get results and nothing runs twice",
)
async def test_a_worker_that_is_told_to_stop_fails_nobody(
    client: AsyncClient, url: str, raw: Any, service_name: str, tmp_path: Path
) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    with doomed(1, service_name, url, runs, CONCURRENCY="10") as (first,):
        # At-most-once requests are acknowledged when they begin, so the worker holds ten more that have not begun.
        call = client.options(timeout=60).call
        calls = [asyncio.create_task(call(f"{service_name}.at-most-once", str(n), 0.0, str(gate))) for n in range(60)]
        await until(lambda: len(lines(runs)) == 10)
        await until(lambda: depth(raw, service_name) == 40)
        first.process.send_signal(signal.SIGTERM)
        await until(lambda: depth(raw, service_name) == 50)
        with doomed(1, service_name, url, runs, CONCURRENCY="10"):
            await until(lambda: len(lines(runs)) == 20)
            gate.touch()
            assert await asyncio.gather(*calls) == [f"{n} done" for n in range(60)]
        assert await asyncio.to_thread(first.process.wait, PATIENCE) == 0
    assert sorted(lines(runs), key=int) == [str(n) for n in range(60)]
    assert (depth(raw, service_name), depth(raw, topology.dead_queue(service_name))) == (0, 0)


@pytest.mark.scenario(
    38, "All workers are restarted one after another under constant calls: no call fails, nothing runs twice"
)
@pytest.mark.parametrize("queue", ["classic", "quorum"])
async def test_a_rolling_restart_under_constant_calls_is_noticed_by_nobody(
    client: AsyncClient, url: str, raw: Any, service_name: str, queue: str, tmp_path: Path
) -> None:
    runs, keys = tmp_path / "runs", itertools.count()
    restarted = asyncio.Event()

    async def keep_calling(mode: str) -> list[str]:
        mine = []
        while not restarted.is_set():
            mine.append(key := str(next(keys)))
            assert await client.call(f"{service_name}.{mode}", key, 0.002) == f"{key} done"
        return mine

    def start(stack: ExitStack) -> Victim:
        return stack.enter_context(doomed(1, service_name, url, runs, queue=queue, CONCURRENCY="4"))[0]

    with ExitStack() as stack:
        old = [await asyncio.to_thread(start, stack) for _ in range(3)]
        callers = [asyncio.create_task(keep_calling(mode)) for mode in MODES * 5]
        for worker in old:
            await asyncio.to_thread(start, stack)
            worker.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(worker.process.wait, PATIENCE) == 0
        restarted.set()
        called = [key for mine in await asyncio.gather(*callers) for key in mine]
    assert len(called) > 100
    assert sorted(lines(runs)) == sorted(called)
    assert (depth(raw, service_name), depth(raw, topology.dead_queue(service_name))) == (0, 0)


@pytest.mark.scenario(
    38,
    "A drain that exceeds its limit names the calls that it abandons; an async handler's caller gets CANCELLED/DRAIN,"
    " a thread's caller WorkerLost from the next worker; nothing runs twice",
)
async def test_a_drain_that_takes_too_long_says_what_it_abandons(
    client: AsyncClient, url: str, raw: Any, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "warren.server")
    began, release, ran = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()
    service = Service(service_name, concurrency=2)

    @service.method
    async def awaits() -> None:
        ran.append("awaits")
        await asyncio.Event().wait()

    @service.method
    def computes() -> None:
        ran.append("computes")
        loop.call_soon_threadsafe(began.set)
        release.wait(30)

    async def error_of(method: str) -> CallError:
        with pytest.raises(CallError) as caught:
            await client.call(f"{service_name}.{method}")
        return caught.value

    try:
        async with serving(service, url=url, drain_timeout=0.2) as server:
            calls = [asyncio.create_task(error_of(method)) for method in ("awaits", "computes")]
            await began.wait()
        awaiting = await calls[0]
        assert (awaiting.reason, awaiting.execution.value) == ("DRAIN", "EXECUTED")
        await until(lambda: depth(raw, service_name) == 1)
        async with serving(service, url=url):
            computing = await calls[1]
        assert isinstance(computing, WorkerLost)
    finally:
        release.set()
    abandoned = {f"{error.method} (call {error.call_id})" for error in (awaiting, computing)}
    assert set(server.abandoned) == abandoned
    assert all(one in caplog.text for one in abandoned)
    assert sorted(ran) == ["awaits", "computes"]
    assert (depth(raw, service_name), depth(raw, topology.dead_queue(service_name))) == (0, 0)


@pytest.mark.scenario(
    208,
    "A worker is stopped in the middle of resumable streams, longer than its drain: others go on as if it was killed;"
    " the last attempt of an `async def` one gets CANCELLED/DRAIN.",
)
async def test_another_worker_goes_on_with_a_resumable_stream_of_one_that_is_stopped(
    client: AsyncClient, url: str, raw: Any, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(service_name, concurrency=3)

    @service.method(delivery="at-least-once", resumable=True, max_attempts=2)
    async def on_loop() -> AsyncIterator[int]:
        for number in range(1000):  # it waits in there: its caller takes no more
            yield number

    @service.method(delivery="at-least-once", resumable=True, max_attempts=1)
    async def once() -> AsyncIterator[int]:
        yield 0
        await asyncio.Event().wait()

    @service.method(delivery="at-least-once", resumable=True, max_attempts=2)
    def in_thread() -> Iterator[int]:
        yield from range(1000)  # it waits in there, too

    methods: tuple[Any, ...] = (on_loop, in_thread, once)
    async with serving(service, url=url, drain_timeout=0.2) as server:
        streams = [client.stream(method) for method in methods]
        items = [[await anext(stream)] for stream in streams]
    assert [name.partition(" ")[0] for name in server.abandoned] == [f"{service_name}.once[]"]
    assert "that another run goes on with: 2; raise" in caplog.text
    async with serving(service, url=url):
        ends = [await taken(stream) for stream in streams]
    assert [had + more for had, (more, _) in zip(items, ends, strict=True)] == [[*range(1000)], [*range(1000)], [0]]
    assert ends[0][1] is ends[1][1] is None
    assert isinstance(ends[2][1], Cancelled)
    assert (ends[2][1].reason, ends[2][1].execution.value) == ("DRAIN", "EXECUTED")
    assert (depth(raw, service_name), depth(raw, topology.dead_queue(service_name))) == (0, 0)


async def test_a_drain_hands_no_stream_back_that_nobody_wants(
    client: AsyncClient, url: str, raw: Any, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service, heard = Service(service_name), asyncio.Event()

    @service.method(delivery="at-least-once", resumable=True)
    async def stubborn() -> AsyncIterator[int]:
        yield 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # its caller has left it
            heard.set()
        await asyncio.Event().wait()

    async with serving(service, url=url, drain_timeout=0.1):
        async with client.stream(stubborn) as stream:
            assert await anext(stream) == 0
        await within(heard.wait(), "that it is cancelled")
    assert depth(raw, service_name) == 0
    assert "nothing was abandoned\n" in caplog.text  # and nothing goes on elsewhere


async def test_a_stream_that_has_begun_and_cannot_be_handed_back_is_not_said_to_have_not_begun(
    client: AsyncClient, url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, began = Service(service_name), asyncio.Event()

    @service.method(delivery="at-least-once", resumable=True)
    async def rows() -> AsyncIterator[int]:
        began.set()
        await asyncio.Event().wait()
        yield 0

    def no_room(*_args: Any) -> None:
        raise ValueError("its headers fill a frame already")

    monkeypatch.setattr("warren.server.settler._ways_back", no_room)
    async with serving(service, url=url, drain_timeout=0.1):
        call = asyncio.create_task(taken(client.stream(rows)))
        await within(began.wait(), "that it begins")
    _, error = await call
    assert isinstance(error, Cancelled)
    assert "its headers fill a frame already" in error.message
    assert (error.reason, error.execution.value) == ("DRAIN", "EXECUTED")


async def test_a_drain_does_not_wait_for_threads_that_nobody_can_stop(
    client: AsyncClient, url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren.server.worker._CANCEL_TIME", 1000.0)  # for tasks, which can be cancelled
    began, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    service = Service(service_name)

    @service.method
    def computes() -> None:
        loop.call_soon_threadsafe(began.set)
        release.wait(300)

    try:
        async with asyncio.timeout(60):
            async with serving(service, url=url, drain_timeout=0.1) as server:
                call = asyncio.create_task(client.call(computes))
                await began.wait()
    finally:
        release.set()
    assert [name.partition(" ")[0] for name in server.abandoned] == [f"{service_name}.computes"]
    call.cancel()


@pytest.mark.scenario(
    38,
    "A worker loses its connection while it drains: it takes no new calls on the next one, others serve them at once;"
    " the caller of what ran gets WorkerLost; nothing runs twice.",
)
async def test_a_worker_that_reconnects_while_it_drains_takes_nothing(
    client: AsyncClient, url: str, raw: Any, proxy: Proxy, service_name: str
) -> None:
    draining, other = Counting(service_name), Counting(service_name)
    other.release.set()
    async with serving(draining.service, url=proxy.url, drain_timeout=20) as server:
        running = asyncio.create_task(ending(client.call(draining.hold, "running"), within=60))
        await until(lambda: draining.runs["running"])
        server.stop()
        await until(lambda: _consumers(raw, service_name) == 0)
        proxy.cut()
        await until(lambda: len(proxy.accepted) == 2)
        await until(lambda: proxy.seen["down", "Channel.OpenOk"] >= 2)
        async with serving(other.service, url=url):
            calls = [ending(client.call(other.echo, f"{n}"), within=60) for n in range(50)]
            assert [got.value for got in await asyncio.gather(*calls)] == [f"{n}" for n in range(50)]
            assert (await running).reason == "WORKER_LOST"
        await until(lambda: _consumers(raw, service_name) == 0)  # the other one's goes a moment after its connection
        draining.release.set()
    assert draining.runs == {"running": 1}
    assert depth(raw, service_name) == 0


def _consumers(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.consumer_count)
