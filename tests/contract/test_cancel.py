"""Calls that are given up: their workers hear of it, wherever the request is, and nobody is answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Cancelled, Client, Server, Service, current_call
from warren.connection.channel import HotChannel
from warren.connection.link import Link


class Slow:
    """A service whose handlers write down that they begin, and that they were told to stop."""

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, **options)
        self.begun: list[str] = []
        self.stopped: dict[str, float] = {}
        self.run_through: list[str] = []

        @self.service.method
        async def hang(who: str) -> None:
            self.begun.append(who)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.stopped[who] = time.monotonic()
                raise

        @self.service.method
        def poll(who: str) -> None:
            self.begun.append(who)
            call = current_call()
            while not call.cancelled:
                call.wait_cancelled(60)
            self.stopped[who] = time.monotonic()

        @self.service.method(delivery="at-most-once")
        async def once(who: str) -> None:
            await hang(who)

        @self.service.method(delivery="at-least-once")
        async def at_least(who: str) -> None:
            await hang(who)

        @self.service.method
        async def ping() -> str:
            return "pong"

        self.hang, self.poll, self.once, self.at_least, self.ping = hang, poll, once, at_least, ping


@asynccontextmanager
async def slow_and_client(url: str, name: str, **options: Any) -> AsyncIterator[tuple[Slow, AsyncClient]]:
    slow = Slow(name, **options)
    async with serving(slow.service, url=url), AsyncClient(url, timeout=60) as client:
        yield slow, client


async def give_up(task: "asyncio.Task[Any]") -> float:
    """Cancel a caller; returns when."""
    at = time.monotonic()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return at


@pytest.mark.parametrize("method", ["hang", "poll", "once", "at_least"])
async def test_a_caller_that_is_cancelled_frees_its_worker(url: str, service_name: str, method: str) -> None:
    async with slow_and_client(url, service_name, concurrency=1) as (slow, client):
        calling = asyncio.create_task(client.call(f"{service_name}.{method}", "a"))
        await until(lambda: slow.begun == ["a"])
        await give_up(calling)
        await until(lambda: "a" in slow.stopped)
        assert await client.call(slow.ping) == "pong"  # its only place is free
        assert client.ignored_replies == 0  # and nobody was answered


async def test_a_worker_is_free_in_no_time(url: str, service_name: str) -> None:
    """Under 50 ms on a quiet machine; the quickest of some, as this one may not be."""
    times = []
    async with slow_and_client(url, service_name) as (slow, client):
        for n in range(10):
            calling = asyncio.create_task(client.call(slow.hang, str(n)))
            await until(lambda n=n: str(n) in slow.begun)  # type: ignore[misc]
            at = await give_up(calling)
            await until(lambda n=n: str(n) in slow.stopped)  # type: ignore[misc]
            times.append(slow.stopped[str(n)] - at)
    assert min(times) < 0.05


async def test_only_the_call_that_is_given_up_is_stopped(url: str, service_name: str) -> None:
    async with slow_and_client(url, service_name) as (slow, client):
        calls = {who: asyncio.create_task(client.call(slow.hang, who)) for who in "abc"}
        await until(lambda: len(slow.begun) == 3)
        await give_up(calls["b"])
        await until(lambda: "b" in slow.stopped)
        assert await client.call(slow.ping) == "pong"
        assert list(slow.stopped) == ["b"]
        assert not calls["a"].done()
        for who in "ac":
            await give_up(calls[who])


@pytest.mark.parametrize("method", ["hang", "once"])
async def test_a_request_that_waits_for_its_turn_is_not_begun(url: str, service_name: str, method: str) -> None:
    """In the queue, or (at-most-once requests are taken off it before) in the worker."""
    async with slow_and_client(url, service_name, concurrency=1) as (slow, client):
        first = asyncio.create_task(client.call(f"{service_name}.{method}", "first"))
        await until(lambda: slow.begun == ["first"])
        waiting = asyncio.create_task(client.call(f"{service_name}.{method}", "waiting"))
        behind = asyncio.create_task(client.call(slow.ping))
        await client.cast(f"{service_name}.nothing")  # confirmed behind them: the broker has both
        await give_up(waiting)
        await give_up(first)
        assert await behind == "pong"
        assert slow.begun == ["first"]
        assert client.ignored_replies == 0


async def test_a_burst_of_calls_is_given_up_together(url: str, service_name: str) -> None:
    async with slow_and_client(url, service_name, concurrency=50) as (slow, client):
        calls = [asyncio.create_task(client.call(slow.hang, str(n))) for n in range(3000)]
        await until(lambda: len(slow.begun) == 50)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await client.call(slow.ping) == "pong"
        assert len(slow.begun) < 3000


async def test_closing_a_client_gives_its_calls_up(url: str, service_name: str) -> None:
    slow = Slow(service_name)
    async with serving(slow.service, url=url):
        async with AsyncClient(url) as client:
            calling = asyncio.create_task(client.call(slow.hang, "a"))
            await until(lambda: slow.begun == ["a"])
        await until(lambda: "a" in slow.stopped)
        with pytest.raises(Cancelled):
            await calling


def nest(url: str, inner: Slow, outer: Service, kind: str) -> Callable[..., Any]:
    """A method of `outer` that calls `inner`, with either client."""
    if kind == "async":

        @outer.method(name="nested")
        async def by_async() -> None:
            async with AsyncClient(url, timeout=60) as client:
                await client.call(inner.hang, "inner")

        return by_async

    @outer.method(name="nested")
    def by_blocking() -> None:
        with Client(url, timeout=60) as client:
            try:
                client.call(inner.hang, "inner")
            finally:
                client.options(detached=True).call(inner.ping)  # what has to be done all the same

    return by_blocking


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_calls_that_a_handler_makes_are_given_up_in_turn_two_levels_down(
    url: str, service_name: str, kind: str
) -> None:
    inner, middle, outer = Slow(f"{service_name}.in"), Service(f"{service_name}.mid"), Service(f"{service_name}.out")
    in_the_middle = nest(url, inner, middle, kind)

    @outer.method
    async def outermost() -> None:
        async with AsyncClient(url, timeout=60) as client:
            await client.call(in_the_middle)

    async with Server(inner.service, middle, outer, url=url), AsyncClient(url, timeout=60) as client:
        calling = asyncio.create_task(client.call(outermost))
        await until(lambda: inner.begun == ["inner"])
        await give_up(calling)
        await until(lambda: "inner" in inner.stopped)


async def test_a_future_that_is_cancelled_gives_its_call_up(url: str, service_name: str) -> None:
    def call(client: Client) -> None:
        future = client.submit(slow.hang, "a")
        while "a" not in slow.begun:
            time.sleep(0.01)
        assert future.cancel()
        assert client.call(slow.ping) == "pong"

    async with slow_and_client(url, service_name, concurrency=1) as (slow, _):
        with Client(url, timeout=60) as client:
            await asyncio.to_thread(call, client)
        await until(lambda: "a" in slow.stopped)


async def test_a_handler_in_a_thread_learns_of_the_deadline_without_a_message(url: str, service_name: str) -> None:
    async with slow_and_client(url, service_name) as (slow, client):
        with suppress(CallError):  # its result may come just in time
            await client.options(timeout=0.3).call(slow.poll, "a")
        await until(lambda: "a" in slow.stopped)


async def test_a_server_without_a_control_queue_runs_what_was_given_up_to_its_end(url: str, service_name: str) -> None:
    service, begun, go_on, ended = Service(service_name), asyncio.Event(), asyncio.Event(), asyncio.Event()

    @service.method
    async def work() -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    async with Server(service, url=url, control=None), AsyncClient(url) as client:
        calling = asyncio.create_task(client.call(work))
        await begun.wait()
        await give_up(calling)
        go_on.set()
        async with asyncio.timeout(60):
            await ended.wait()


async def test_a_missing_exchange_does_not_cost_a_channel_for_each_call_that_is_given_up(
    url: str, raw: Any, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Link] = []
    hot_channel = Link.hot_channel

    async def counted(link: Link) -> HotChannel:
        opened.append(link)
        return await hot_channel(link)

    async def forbidden(_link: Link) -> None:
        """As for a user who may not declare it."""

    slow = Slow(service_name, concurrency=10_000)  # nobody tells its handlers that they may end
    async with serving(slow.service, url=url, drain_timeout=0.1), AsyncClient(url, timeout=60) as client:
        await client.connect()
        monkeypatch.setattr(Link, "hot_channel", counted)
        monkeypatch.setattr("warren.client.cancels.declare_control_exchange", forbidden)
        began = time.monotonic()
        while len(slow.begun) < 40 or len(opened) < 3:
            raw.exchange_delete("warren.control")  # a server declares it again from time to time
            call = asyncio.create_task(client.call(slow.hang, "one more"))
            before = len(slow.begun)
            await until(lambda before=before: len(slow.begun) > before)  # type: ignore[misc]
            call.cancel()
            await asyncio.wait([call])
        assert len(opened) <= 2 + (time.monotonic() - began)
