"""What happens to a request whose worker dies: docs/reference.md's table, on classic and on quorum queues."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.raw import depth, take
from tests.support.serving import lines, serving, victims
from tests.support.waiting import PATIENCE, until
from warren import AsyncClient, CallError, Cancelled, DeadlineExceeded, Execution, Service, Unavailable, WorkerLost
from warren.protocol import topology

both_queues = pytest.mark.parametrize("queue", ["classic", "quorum"])


@both_queues
async def test_report_tells_the_caller_at_once_and_runs_nothing_twice(
    client: AsyncClient, url: str, service_name: str, queue: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with victims(2, service_name, url, queue=queue):
        with pytest.raises(WorkerLost) as caught:
            await client.options(timeout=60).call(f"{service_name}.report", str(log))
        assert len(lines(log)) == 1
    assert caught.value.execution is Execution.UNKNOWN
    assert not caught.value.safe_to_retry


@both_queues
async def test_at_least_once_runs_again_on_another_worker(
    client: AsyncClient, url: str, service_name: str, queue: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with victims(2, service_name, url, queue=queue) as workers:
        result = await client.options(timeout=60).call(f"{service_name}.at-least-once", str(log))
        assert result == "survived"
        assert sorted(lines(log)) == sorted(str(worker.pid) for worker in workers)


@both_queues
async def test_at_most_once_is_lost_and_the_callers_timer_tells(
    client: AsyncClient, url: str, service_name: str, queue: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with victims(2, service_name, url, queue=queue):
        with pytest.raises(DeadlineExceeded) as caught:
            await client.options(timeout=2).call(f"{service_name}.at-most-once", str(log))
        assert len(lines(log)) == 1
    assert caught.value.execution is Execution.UNKNOWN


@both_queues
async def test_a_request_that_kills_its_workers_is_set_aside_as_poison(
    client: AsyncClient, url: str, raw: Any, service_name: str, queue: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with victims(3, service_name, url, queue=queue) as workers:
        with pytest.raises(CallError) as caught:
            await client.options(timeout=60).call(f"{service_name}.poison", str(log))
        assert len(lines(log)) == 2  # max_attempts, and not one worker more
        survivor = await client.call(f"{service_name}.pid")
        assert survivor in {worker.pid for worker in workers}
    assert (caught.value.code.value, caught.value.reason) == ("INTERNAL", "POISON")
    assert caught.value.execution is Execution.UNKNOWN
    dead = take(raw, topology.dead_queue(service_name))
    assert dead is not None
    assert dead[0].headers["rpc-dead-reason"] == "POISON"
    assert dead[0].message_id == caught.value.call_id


async def test_a_poisonous_cast_is_set_aside_once(
    client: AsyncClient, url: str, raw: Any, service_name: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with victims(3, service_name, url):
        await client.cast(f"{service_name}.poison", str(log))
        await until(lambda: depth(raw, topology.dead_queue(service_name)) == 1)
        await client.call(f"{service_name}.pid")
        assert depth(raw, topology.dead_queue(service_name)) == 1
    assert len(lines(log)) == 2


async def test_a_drain_finishes_what_runs_and_hands_back_the_rest(
    client: AsyncClient, url: str, raw: Any, service_name: str, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    with victims(1, service_name, url, CONCURRENCY="4") as (first,):
        running = [
            asyncio.create_task(client.options(timeout=60).call(f"{service_name}.wait_for", str(log), str(gate)))
            for _ in range(4)
        ]
        await until(lambda: len(lines(log)) == 4)
        waiting = [asyncio.create_task(client.options(timeout=60).call(f"{service_name}.pid")) for _ in range(20)]
        await until(lambda: depth(raw, service_name) == 20)
        first.process.send_signal(signal.SIGTERM)
        with victims(1, service_name, url) as (second,):
            assert set(await asyncio.gather(*waiting)) == {second.pid}
            gate.touch()
            assert set(await asyncio.gather(*running)) == {first.pid}
        assert await asyncio.to_thread(first.process.wait, PATIENCE) == 0
    assert len(lines(log)) == 4


async def test_what_a_draining_worker_hands_back_is_not_marked_redelivered(
    client: AsyncClient, url: str, service_name: str
) -> None:
    """At-most-once requests wait in the worker; those that have not begun must run elsewhere, not end as WorkerLost."""
    served: list[str] = []
    first_began, release = asyncio.Event(), asyncio.Event()

    def make(name: str) -> Service:
        service = Service(service_name, concurrency=1)

        @service.method(delivery="at-most-once")
        async def work(n: int) -> str:
            served.append(f"{name} {n}")
            if name == "first":
                first_began.set()
                await release.wait()
            return name

        return service

    async with serving(make("first"), url=url) as first:
        calls = [asyncio.create_task(client.call(f"{service_name}.work", n)) for n in range(4)]
        await first_began.wait()
        first.stop()
        async with serving(make("second"), url=url):
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            assert done
            release.set()
            assert sorted(await asyncio.gather(*calls)) == ["first", "second", "second", "second"]
    assert len(served) == 4


async def test_a_redelivered_request_is_reported_even_by_a_draining_worker(
    client: AsyncClient, url: str, service_name: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with victims(1, service_name, url) as (worker,):
        call = asyncio.create_task(client.options(timeout=60).call(f"{service_name}.report", str(log)))
        await asyncio.to_thread(worker.process.wait, PATIENCE)
        with victims(1, service_name, url), pytest.raises(WorkerLost):
            await call
    assert len(lines(log)) == 1


@both_queues
async def test_a_drain_hands_back_also_what_the_broker_had_sent_before_the_consumer_was_cancelled(
    client: AsyncClient, url: str, service_name: str, queue: Literal["classic", "quorum"]
) -> None:
    """A quorum queue's last deliveries come after the broker has said that the consumer is cancelled."""
    service = Service(service_name, queue=queue, concurrency=20)
    ran: list[int] = []
    began = asyncio.Event()

    @service.method
    async def work(n: int) -> int:
        ran.append(n)
        began.set()
        return n

    async with serving(service, url=url):
        pass
    calls = [asyncio.create_task(client.options(timeout=60).call(work, n)) for n in range(600)]
    while not all(call.done() for call in calls):
        began.clear()
        async with serving(service, url=url):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(began.wait(), 1)
    assert await asyncio.gather(*calls) == list(range(600))
    assert sorted(ran) == list(range(600))


async def test_what_does_not_fit_back_into_a_full_queue_is_certainly_not_executed(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    service = Service(service_name, concurrency=1, max_length=1)
    begun = asyncio.Queue[int]()

    @service.method(delivery="at-most-once")
    async def work(n: int) -> None:
        begun.put_nowait(n)
        await asyncio.Event().wait()

    server = serving(service, url=url, drain_timeout=0)
    async with server:
        running = asyncio.create_task(client.call(work, 1))
        await begun.get()
        waiting = asyncio.create_task(client.call(work, 2))  # the worker has it already, but no place for it
        await until(lambda: server._posts[0].worker._places.waits)
        await client.cast(work, 3)  # fills the queue
    with pytest.raises(Cancelled):
        await running
    with pytest.raises(Unavailable) as error:
        await waiting
    assert (error.value.reason, error.value.execution) == ("HAND_BACK", Execution.NOT_EXECUTED)
