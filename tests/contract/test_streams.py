"""Streams: what a handler yields comes as it is yielded, all of it, once, and no faster than it is consumed."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from tests.support.serving import serving, serving_in_thread
from tests.support.waiting import PATIENCE, until, within
from tests.support.yielding import Row, TooFar, Yielding, taken
from warren import (
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    CurrentCall,
    DeadlineExceeded,
    Execution,
    MethodNotFound,
    Service,
    Unavailable,
    provided,
)
from warren.client.blocking import Client as BlockingClient
from warren.control.answering import Answering
from warren.protocol.streaming import Ahead
from warren.server import streaming, upkeep

KINDS = ("on_loop", "in_thread")
MiB = 1024 * 1024


@asynccontextmanager
async def yielding_and_client(url: str, name: str, **options: Any) -> AsyncIterator[tuple[Yielding, AsyncClient]]:
    yielding = Yielding(name, **options)
    async with serving(yielding.service, url=url), AsyncClient(url, timeout=60) as client:
        yield yielding, client


@contextmanager
def in_another_thread(url: str, name: str) -> Iterator[tuple[Yielding, BlockingClient]]:
    """The service in a loop of another thread, and a client in this one."""
    yielding = Yielding(name)
    with serving_in_thread(yielding.service, url), Client(url, timeout=60) as client:
        yield yielding, client


# --- items --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("kind", KINDS)
async def test_all_items_come_in_their_order(url: str, service_name: str, kind: str, encoding: Any) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        how = client.options(encoding=encoding)
        for count in (0, 1, 3000):
            assert [row async for row in how.stream(getattr(yielding, kind), count)] == [Row(n) for n in range(count)]
        assert client.ignored_replies == 0
        assert client.statistics.in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_takes_them_too(url: str, service_name: str, kind: str) -> None:
    with in_another_thread(url, service_name) as (yielding, client):
        for count in (0, 1, 3000):
            assert list(client.stream(getattr(yielding, kind), count)) == [Row(n) for n in range(count)]


async def test_a_stream_by_name_says_of_which_type_its_items_are(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (_, client):
        name = f"{service_name}.on_loop"
        assert [item async for item in client.stream(name, 2)] == [{"number": n, "text": ""} for n in range(2)]
        assert [item async for item in client.stream(name, 2, returns=Row)] == [Row(0), Row(1)]


@pytest.mark.parametrize("kind", KINDS)
async def test_large_items_come_whole(url: str, service_name: str, kind: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        sizes = [len(row.text) async for row in client.stream(getattr(yielding, kind), 5, 2 * MiB)]
        assert sizes == [2 * MiB] * 5


async def test_an_item_comes_when_it_is_yielded_and_not_with_the_next(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        stream = client.stream(yielding.hang, 1)
        assert await anext(stream) == 0
        await stream.aclose()


async def test_what_a_thread_has_yielded_last_is_sent_before_it_ends(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(bodies: list[bytes]) -> Iterator[list[bytes]]:  # so that the thread is done while the loop sends
        time.sleep(0.05)
        yield bodies

    monkeypatch.setattr(streaming, "together", slowly)
    async with yielding_and_client(url, service_name) as (yielding, client):
        assert len([row async for row in client.stream(yielding.in_thread, 3)]) == 3


# --- credit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "most"), [(0, 256), (MiB, 8)])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_waits_for_a_caller_that_is_slow(
    url: str, service_name: str, kind: str, size: int, most: int
) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        stream = client.stream(getattr(yielding, kind), 2000, size)
        for number in range(3):
            assert (await anext(stream)).number == number
        before = -1
        while before != yielding.yielded:  # until it stands still
            before = yielding.yielded
            await asyncio.sleep(0.2)
        assert yielding.yielded <= 2 * most + 4  # what was consumed with the first message, and a window ahead
        await stream.aclose()


async def test_many_streams_go_on_side_by_side(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):

        async def take() -> int:
            return len([row async for row in client.stream(yielding.on_loop, 1000)])

        assert await asyncio.gather(*(take() for _ in range(20))) == [1000] * 20


@pytest.mark.parametrize("kind", KINDS)
async def test_an_exchange_that_is_deleted_under_a_stream_is_found_out_by_who_waits_for_credit(
    url: str, service_name: str, raw: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "INTERVAL", 3600.0)
    monkeypatch.setattr(upkeep, "PAUSE", 0.1)
    monkeypatch.setattr(streaming, "SIGN_OF_LIFE", 0.2)
    yielding = Yielding(service_name)
    async with serving(yielding.service, url=url), AsyncClient(url, timeout=60) as client:
        stream = client.stream(getattr(yielding, kind), 3000)
        for _ in range(300):  # so that its channel for credit is open
            await anext(stream)
        raw.exchange_delete("warren.control")
        items, error = await taken(stream)
        assert error is None
        assert len(items) == 2700


# --- giving up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_leaving_the_loop_closes_the_generator(url: str, service_name: str, kind: str) -> None:
    async with yielding_and_client(url, service_name, concurrency=1) as (yielding, client):
        async for row in client.stream(getattr(yielding, kind), 1_000_000):
            if row.number == 3:
                break
        left = time.monotonic()
        await until(lambda: yielding.closed)
        assert yielding.closed[0] - left < 5  # at once; not when its time is over
        assert await client.call(yielding.one) == 1  # its only place is free


@pytest.mark.parametrize("kind", KINDS)
async def test_an_item_too_large_for_its_caller_closes_the_generator(url: str, service_name: str, kind: str) -> None:
    yielding = Yielding(service_name)
    async with (
        serving(yielding.service, url=url),
        AsyncClient(url, timeout=600, max_message_size=64 * 1024) as client,
    ):
        items, error = await taken(client.stream(getattr(yielding, kind), 1_000_000, 100_000))
        assert items == []
        assert isinstance(error, CallError)
        await until(lambda: yielding.closed)


async def test_a_worker_that_has_not_heard_that_a_stream_is_given_up_hears_it_with_its_next_sign_of_life(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SIGN_OF_LIFE", 0.1)
    async with yielding_and_client(url, service_name) as (yielding, client):
        client = client.options(timeout=600)
        monkeypatch.setattr(client._shared.core().cancels, "add", lambda _call: None)  # it gets lost
        stream = client.stream(yielding.hang, 1)
        assert await anext(stream) == 0
        await stream.aclose()
        await until(lambda: yielding.closed)


async def test_a_sign_of_life_does_not_count_the_item_that_a_thread_is_about_to_send(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlets: list[streaming.Outlet] = []
    put, count = streaming.Outlet._put, Ahead.send

    def put_watched(self: streaming.Outlet, body: bytes) -> None:
        outlets.append(self)
        put(self, body)

    def count_slowly(self: Ahead, size: int) -> None:
        count(self, size)
        if self.sent == 2:  # the loop looks between the counting and the sending
            looked = threading.Event()
            outlet = outlets[0]
            outlet._silent = True
            outlet._loop.call_soon_threadsafe(outlet._look)
            outlet._loop.call_soon_threadsafe(looked.set)
            looked.wait(0.2)  # not as long as this thread keeps it from looking

    monkeypatch.setattr(streaming.Outlet, "_put", put_watched)
    monkeypatch.setattr(Ahead, "send", count_slowly)
    async with yielding_and_client(url, service_name) as (yielding, client):
        items, error = await taken(client.stream(yielding.in_thread, 3))
    assert error is None
    assert items == [Row(0), Row(1), Row(2)]


async def test_a_task_that_is_cancelled_closes_it(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        stream = client.stream(yielding.hang, 1)
        await anext(stream)
        waiting = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: yielding.closed)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_generator_that_goes_on_when_it_is_cancelled_is_closed_when_it_would_wait(
    url: str, service_name: str
) -> None:
    service, heard, closed = Service(service_name), asyncio.Event(), asyncio.Event()

    @service.method
    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 0
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard.set()
            for number in range(1000):
                yield number
        finally:
            closed.set()

    async with serving(service, url=url), AsyncClient(url, timeout=600) as client:
        async with client.stream(stubborn) as stream:
            assert await anext(stream) == 0
        await within(heard.wait(), "that it is cancelled")
        await within(closed.wait(), "its end")


def test_leaving_the_loop_in_a_thread_closes_it(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (yielding, client):
        for number in client.stream(yielding.hang, 3):
            if number == 2:
                break
        until_closed(yielding, 1)
        with client.stream(yielding.hang, 3) as stream:
            assert next(stream) == 0
        assert list(stream) == []
        until_closed(yielding, 2)


def until_closed(yielding: Yielding, count: int) -> None:
    """Return once so many generators are closed."""
    end = time.monotonic() + PATIENCE
    while len(yielding.closed) < count:
        assert time.monotonic() < end, f"only {len(yielding.closed)} were closed"
        time.sleep(0.01)


async def test_a_note_says_how_many_items_had_come(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        _, error = await taken(client.options(timeout=0.5).stream(yielding.hang, 1))
        assert error is not None
        assert error.__notes__[0].startswith("1 item of the stream had come")  # whoever ended it first


async def test_a_stream_has_a_time_for_all_of_it(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        items, error = await taken(client.options(timeout=0.5).stream(yielding.hang, 3))
        assert items == [0, 1, 2]
        assert isinstance(error, DeadlineExceeded)
        assert error.execution is Execution.EXECUTED  # as items had come
        assert error.__notes__[0].startswith("3 items of the stream had come")  # whoever ended it first
        await until(lambda: yielding.closed)


async def test_a_generator_in_a_thread_is_cut_off_at_the_deadline(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        stream = client.options(timeout=0.5).stream(yielding.in_thread, 1_000_000)
        await anext(stream)  # and no more: so it waits for credit
        await until(lambda: yielding.closed)


async def test_a_stream_has_a_time_between_two_items(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        stream = client.options(idle_timeout=0.3).stream(yielding.hang, 2)
        assert [await anext(stream), await anext(stream)] == [0, 1]
        with pytest.raises(DeadlineExceeded, match=r"no item came for 0\.3 s") as caught:
            await anext(stream)
        assert (caught.value.reason, caught.value.execution) == ("IDLE", Execution.EXECUTED)
        await until(lambda: yielding.closed)


def test_a_thread_that_takes_while_another_waits_is_told_and_the_stream_goes_on(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (yielding, client):
        stream = client.stream(yielding.hang, 1)
        next(stream)
        ended: list[object] = []
        other = threading.Thread(target=lambda: ended.extend(stream))
        other.start()
        end = time.monotonic() + PATIENCE
        while stream._held is None or stream._held._inlet is None or stream._held._inlet._taker is None:
            assert time.monotonic() < end, "the other does not wait"
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match="two take"):
            next(stream)
        assert other.is_alive()  # it still waits: what it has got is not all
        assert not yielding.closed
        stream.close()
        other.join(60)
        assert ended == []


async def test_two_tasks_that_take_from_one_stream_lose_nothing(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        stream, got, refused = client.stream(yielding.on_loop, 2000), list[int](), 0

        async def take() -> None:
            nonlocal refused
            while True:
                try:
                    got.append((await anext(stream)).number)
                except RuntimeError:
                    refused += 1
                    await asyncio.sleep(0)
                except StopAsyncIteration:
                    return

        await asyncio.gather(take(), take())
        assert got == [*range(2000)]
        assert refused


async def test_a_stream_is_not_taken_from_on_another_event_loop(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        stream = client.stream(yielding.on_loop, 600)
        await anext(stream)

        def take_elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(asyncio.wait_for(anext(stream), 20))

        await asyncio.to_thread(take_elsewhere)
        assert [row.number async for row in stream] == [*range(1, 600)]  # what lay ready, too


def test_what_has_come_may_be_taken_long_after_the_deadline(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (yielding, client):
        stream = client.stream(yielding.on_loop, 600)
        next(stream)
        stream._deadline = time.monotonic() - 60
        assert [row.number for row in stream] == [*range(1, 600)]


def test_a_client_that_is_closed_under_a_stream_does_not_say_that_nothing_was_sent(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (yielding, client):
        stream = client.stream(yielding.on_loop, 600)
        next(stream)
        client.close()
        with pytest.raises(Cancelled) as caught:
            list(stream)
        assert caught.value.execution is Execution.EXECUTED
        assert caught.value.__notes__ == ["256 items of the stream had come: its handler was begun"]


def test_a_stream_may_be_dropped_while_its_client_is_being_closed(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (yielding, client):
        stream = client.stream(yielding.on_loop, 600)
        next(stream)
        client.close()
        with stream._io()._start_lock:  # the garbage collector may come at any time
            closing = threading.Thread(target=stream.close, daemon=True)
            closing.start()
            closing.join(10)
            assert not closing.is_alive()


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fail", "fail_in_thread"])
async def test_an_error_comes_behind_all_items_before_it(url: str, service_name: str, method: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        items, error = await taken(client.stream(getattr(yielding, method), 500, "own"))
        assert items == [*range(500)]
        assert isinstance(error, TooFar)
        assert "500 items of the stream had come" in error.__notes__


async def test_an_error_ends_the_stream_whatever_its_class(url: str, service_name: str) -> None:
    class Odd(RuntimeError):
        pass

    service = Service(service_name, errors=[Odd])

    @service.method
    async def rows() -> AsyncIterator[int]:
        yield 0
        raise Odd

    async with serving(service, url=url), AsyncClient(url) as client:
        stream = client.stream(rows)
        items, error = await taken(stream)
        assert (items, type(error)) == ([0], Odd)
        assert await taken(stream) == ([], None)


@pytest.mark.parametrize("method", ["fail", "fail_in_thread"])
async def test_an_item_that_does_not_fit_ends_the_stream(url: str, service_name: str, method: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        items, error = await taken(client.stream(getattr(yielding, method), 3, "misfit"))
        assert items == [0, 1, 2]
        assert isinstance(error, CallError)
        assert "item 3 does not fit" in error.message
        assert (error.reason, error.execution) == ("ENCODE_REPLY", Execution.EXECUTED)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_item_over_the_services_limit_ends_the_stream(url: str, service_name: str, kind: str) -> None:
    async with yielding_and_client(url, service_name, max_message_size=1000) as (yielding, client):
        with pytest.raises(CallError, match="item 0 has 1022 bytes") as caught:
            await anext(client.stream(getattr(yielding, kind), 1, 1000))
        assert caught.value.reason == "TOO_LARGE"


async def test_a_call_of_a_stream_is_refused_before_it_runs(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        with pytest.raises(TypeError, match=r"client\.stream"):
            await client.call(yielding.on_loop, 1)
        with pytest.raises(MethodNotFound, match=r"client\.stream") as caught:
            await client.call(f"{service_name}.on_loop", 1)
        assert (caught.value.reason, caught.value.execution) == ("STREAM", Execution.NOT_EXECUTED)
        assert yielding.yielded == 0


async def test_a_stream_of_a_call_is_refused_before_it_runs(url: str, service_name: str) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        with pytest.raises(TypeError, match=r"client\.call"):
            client.stream(yielding.one)  # type: ignore[call-overload]
        with pytest.raises(MethodNotFound, match=r"client\.call") as caught:
            await anext(client.stream(f"{service_name}.one"))
        assert (caught.value.reason, caught.value.execution) == ("STREAM", Execution.NOT_EXECUTED)


async def test_a_worker_without_a_control_queue_refuses_streams(url: str, service_name: str) -> None:
    yielding = Yielding(service_name)
    async with serving(yielding.service, url=url, control=None), AsyncClient(url) as client:
        with pytest.raises(MethodNotFound, match="no control queue") as caught:
            await anext(client.stream(yielding.on_loop, 1))
        assert (caught.value.reason, caught.value.execution) == ("STREAM", Execution.NOT_EXECUTED)
        assert yielding.yielded == 0


async def test_a_worker_whose_control_queue_is_deleted_says_to_call_again(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with yielding_and_client(url, service_name) as (yielding, client):
        with monkeypatch.context() as deleted:
            deleted.setattr(Answering, "hears", False)
            with pytest.raises(Unavailable, match="control queue was deleted") as caught:
                await anext(client.stream(yielding.on_loop, 1))
        assert (caught.value.reason, caught.value.execution) == ("STREAM_DOWN", Execution.NOT_EXECUTED)
        assert yielding.yielded == 0
        assert len([row async for row in client.stream(yielding.on_loop, 1)]) == 1


@pytest.mark.parametrize(("option", "instead"), [({"resend": True}, "begin another stream"), ({"expect": 2}, "gather")])
async def test_an_option_that_no_stream_has_is_refused(
    url: str, service_name: str, option: dict[str, Any], instead: str
) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(ValueError, match=instead):
            client.options(**option).stream(f"{service_name}.on_loop", 1)


# --- with the rest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_stream_needs_is_there_until_it_ends(url: str, service_name: str, kind: str) -> None:
    service, told = Service(service_name), []

    def get_prefix() -> Iterator[str]:
        yield "item "
        told.append("left")

    @service.method
    async def on_loop(count: int, prefix: str = provided(get_prefix), *, call: CurrentCall) -> AsyncIterator[str]:
        for number in range(count):
            assert not told
            yield f"{prefix}{number} of {call.args[0]}"

    @service.method
    def in_thread(count: int, prefix: str = provided(get_prefix), *, call: CurrentCall) -> Iterator[str]:
        for number in range(count):
            assert not told
            yield f"{prefix}{number} of {call.args[0]}"

    async with serving(service, url=url), AsyncClient(url) as client:
        assert [item async for item in client.stream(f"{service_name}.{kind}", 2)] == ["item 0 of 2", "item 1 of 2"]
        assert told == ["left"]


@pytest.mark.parametrize("kind", KINDS)
async def test_middleware_of_the_service_is_around_the_whole_stream(url: str, service_name: str, kind: str) -> None:
    seen: list[object] = []

    async def around(call: CurrentCall, proceed: Any) -> object:
        seen.append(call.method)
        seen.append(await proceed())
        return seen[-1]

    async with yielding_and_client(url, service_name, middleware=[around]) as (yielding, client):
        assert len([row async for row in client.stream(getattr(yielding, kind), 700)]) == 700
        assert seen == [f"{service_name}.{kind}", 700]


@pytest.mark.parametrize("value", [5, None])
async def test_middleware_that_answers_in_place_of_a_stream_does_not_make_it_short(
    url: str, service_name: str, value: object
) -> None:
    async def instead(_call: CurrentCall, _proceed: Any) -> object:
        return value

    async with yielding_and_client(url, service_name, middleware=[instead]) as (yielding, client):
        with pytest.raises(CallError, match="before it was begun") as caught:
            await anext(client.stream(yielding.on_loop, 7))
        assert (caught.value.reason, caught.value.execution) == ("ENCODE_REPLY", Execution.NOT_EXECUTED)
        assert yielding.yielded == 0


async def test_middleware_may_end_a_stream_empty_as_it_may_answer_a_call(url: str, service_name: str) -> None:
    async def instead(_call: CurrentCall, _proceed: Any) -> object:
        return 0

    async with yielding_and_client(url, service_name, middleware=[instead]) as (yielding, client):
        assert [row async for row in client.stream(yielding.on_loop, 7)] == []
        assert await client.call(yielding.one) == 0
        assert yielding.yielded == 0


async def test_middleware_that_ends_a_stream_with_another_number_breaks_it(url: str, service_name: str) -> None:
    async def instead(_call: CurrentCall, proceed: Any) -> object:
        return await proceed() - 1

    async with yielding_and_client(url, service_name, middleware=[instead]) as (yielding, client):
        items, error = await taken(client.stream(yielding.on_loop, 7))
        assert isinstance(error, CallError)
        assert len(items) == 7
        assert (error.reason, error.execution) == ("STREAM_BROKEN", Execution.EXECUTED)


async def test_a_drain_lets_a_stream_end(url: str, service_name: str) -> None:
    yielding = Yielding(service_name)
    async with AsyncClient(url) as client, serving(yielding.service, url=url) as server:
        stream = client.stream(yielding.on_loop, 2000)
        await anext(stream)
        server.stop()
        assert len([row async for row in stream]) == 1999
