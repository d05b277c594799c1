"""Uploads and conversations: a handler gets all that its caller sends, once, and no faster than it takes it."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import msgspec
import pytest

from tests.support.serving import serving, serving_in_thread
from tests.support.taking import Source, Taking, TooMuch
from tests.support.waiting import PATIENCE, until, within
from tests.support.yielding import Row, taken
from warren import (
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    CurrentCall,
    DeadlineExceeded,
    Execution,
    InvalidArgument,
    MethodNotFound,
    Overloaded,
    Progress,
    Service,
    Unavailable,
    current_call,
    provided,
)
from warren.client.blocking import Client as BlockingClient
from warren.control.answering import Answering
from warren.server import inflow, upkeep
from warren.server.inflows import ItemsQueue

KINDS = ("on_loop", "in_thread")
MiB = 1024 * 1024


@asynccontextmanager
async def taking_and_client(url: str, name: str, **options: Any) -> AsyncIterator[tuple[Taking, AsyncClient]]:
    taking = Taking(name, **options)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        try:
            yield taking, client
        finally:
            taking.go_on.set()


@contextmanager
def in_another_thread(url: str, name: str) -> Iterator[tuple[Taking, BlockingClient]]:
    """The service in a loop of another thread, and a client in this one."""
    taking = Taking(name)
    with serving_in_thread(taking.service, url), Client(url, timeout=60) as client:
        try:
            yield taking, client
        finally:
            taking.go_on.set()


def rows(count: int) -> list[Row]:
    return [Row(number) for number in range(count)]


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- items --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_gets_all_items_in_their_order(url: str, service_name: str, kind: str, encoding: Any) -> None:
    service, got = Service(service_name), list[Row]()

    @service.method
    async def on_loop(items: AsyncIterator[Row]) -> int:
        got.extend([row async for row in items])
        return len(got)

    @service.method
    def in_thread(items: Iterator[Row]) -> int:
        got.extend(items)
        return len(got)

    async with serving(service, url=url), AsyncClient(url, timeout=60) as client:
        how = client.options(encoding=encoding)
        for count in (0, 1, 3000):
            got.clear()
            assert await how.upload(f"{service_name}.{kind}", rows(count)) == count
            assert got == rows(count)
        assert client.ignored_replies == 0
        assert client.statistics.in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_items_may_come_from_anything_that_is_iterated(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        method = getattr(taking, kind)
        for items in (rows(4), tuple(rows(4)), iter(rows(4)), Source(4).in_thread(), Source(4).on_loop()):
            assert await client.upload(method, items) == 6
        assert await client.upload(method, rows(4), 10) == 60
        assert await client.upload(method, rows(4), factor=10) == 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_sends_them_too(url: str, service_name: str, kind: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        for count in (0, 1, 3000):
            assert client.upload(getattr(taking, kind), Source(count).in_thread(), 2) == count * (count - 1)
        assert client.upload(f"{service_name}.{kind}", [{"number": 5}], returns=int) == 5
        assert client.ignored_replies == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_large_items_come_whole(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        assert await client.upload(getattr(taking, kind), Source(5, 2 * MiB).on_loop(), 0) == 10 * MiB


async def test_an_item_goes_when_it_is_there_and_not_with_the_next(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        sending = asyncio.create_task(client.upload(taking.on_loop, Source(1, hang=True).on_loop()))
        await until(lambda: taking.taken == 1)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_nothing_is_taken_from_the_items_before_the_handler_asks(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(10)
        assert await client.upload(taking.some_on_loop, source.on_loop(), 0) == 0
        assert source.given == 0


# --- both ways ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_goes_both_ways(url: str, service_name: str, kind: str, encoding: Any) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        method, how = getattr(taking, f"echo_{kind}"), client.options(encoding=encoding)
        for count in (0, 1, 3000):
            assert [row async for row in how.converse(method, rows(count))] == rows(count)
        assert [row.number async for row in how.converse(method, rows(3), times=2)] == [0, 0, 1, 1, 2, 2]
        assert client.ignored_replies == 0
        assert client.statistics.in_flight == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_thread_converses_too(url: str, service_name: str, kind: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        for count in (0, 1, 3000):
            assert list(client.converse(getattr(taking, f"echo_{kind}"), Source(count).in_thread())) == rows(count)


async def test_what_is_said_next_may_depend_on_the_answer(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        said: asyncio.Queue[Row | None] = asyncio.Queue()

        async def speak() -> AsyncIterator[Row]:
            while (row := await said.get()) is not None:
                yield row

        said.put_nowait(Row(0))
        async with client.converse(taking.echo_on_loop, speak()) as answers:
            async for answer in answers:
                said.put_nowait(Row(answer.number + 1) if answer.number < 50 else None)
        assert taking.taken == 51


# --- credit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "most"), [(0, 256), (MiB, 8)])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_waits_for_a_handler_that_is_slow(
    url: str, service_name: str, kind: str, size: int, most: int
) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(2000, size)
        sending = asyncio.create_task(client.upload(getattr(taking, f"sleep_{kind}"), source.on_loop(), 3))
        await until(lambda: taking.taken == 3)
        before = -1
        while before != source.given:  # until it stands still
            before = source.given
            await asyncio.sleep(0.2)
        assert source.given <= 2 * most + 4  # what was taken with the first message, and a window ahead
        sending.cancel()
        await until(lambda: bool(taking.ended and source.closed))


async def test_many_uploads_go_on_side_by_side(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        calls = (client.upload(taking.on_loop, Source(1000).on_loop()) for _ in range(20))
        assert await asyncio.gather(*calls) == [499_500] * 20


async def test_nobody_reads_in_a_conversation_and_it_stands_still(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(1_000_000)
        answers = client.converse(taking.echo_on_loop, source.on_loop())
        await anext(answers)
        before = -1
        while before != source.given:
            before = source.given
            await asyncio.sleep(0.2)
        assert source.given <= 5 * 256
        await answers.aclose()
        assert source.closed
        await until(lambda: taking.ended)


# --- giving up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_that_is_cancelled_ends_the_handler_and_closes_its_items(
    url: str, service_name: str, kind: str
) -> None:
    async with taking_and_client(url, service_name, concurrency=1) as (taking, client):
        source = Source(1, hang=True)
        sending = asyncio.create_task(client.upload(getattr(taking, kind), source.on_loop()))
        await until(lambda: taking.taken == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert source.closed
        left = time.monotonic()
        await until(lambda: taking.ended)
        assert time.monotonic() - left < 5  # at once; not when its time is over
        assert isinstance(taking.ended[0], asyncio.CancelledError)  # which is no end
        assert await client.call(taking.one) == 1  # its only place is free


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_that_has_enough_ends_the_call_with_its_result(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(1_000_000)
        assert await client.upload(getattr(taking, f"some_{kind}"), source.on_loop(), 3) == 3
        assert source.closed
        assert client.statistics.in_flight == 0


async def test_a_handler_that_goes_on_when_it_is_cancelled_is_ended_when_it_would_wait(
    url: str, service_name: str
) -> None:
    service, begun, ended = Service(service_name), asyncio.Event(), list[int]()

    @service.method
    async def stubborn(items: AsyncIterator[int]) -> None:
        while len(ended) < 2:
            try:
                begun.set()
                await anext(items)
            except asyncio.CancelledError:  # which it takes for the end of one wait
                ended.append(1)

    async def nothing() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0

    async with serving(service, url=url), AsyncClient(url, timeout=600) as client:
        calling = asyncio.create_task(client.upload(stubborn, nothing()))
        await within(begun.wait(), "the handler")
        calling.cancel()
        await until(lambda: len(ended) == 2, seconds=30)  # and not when its caller has been silent for a minute


def test_a_handler_that_has_enough_closes_a_threads_items(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        source = Source(1_000_000)
        assert client.upload(taking.some_on_loop, source.in_thread(), 3) == 3
        assert source.closed


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_the_handler_ends_it_and_closes_the_items(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(1_000_000)
        with pytest.raises(TooMuch) as caught:
            await client.upload(getattr(taking, f"fail_{kind}"), source.on_loop(), 300)
        assert source.closed
        assert any("taken" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("kind", KINDS)
async def test_items_that_raise_end_the_call_in_what_they_raise(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        failure = OSError("the disk is gone")
        with pytest.raises(OSError, match="the disk is gone") as caught:
            await client.upload(getattr(taking, kind), Source(3, fail=failure).on_loop())
        assert caught.value is failure
        await until(lambda: taking.ended)
        assert isinstance(taking.ended[0], asyncio.CancelledError)
        assert client.statistics.in_flight == 0


def test_a_threads_items_that_raise_end_the_call(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        for method in (taking.on_loop, taking.in_thread):
            with pytest.raises(OSError, match="gone"):
                client.upload(method, Source(3, fail=OSError("gone")).in_thread())
        wait_for(lambda: len(taking.ended) == 2)
        assert all(isinstance(error, asyncio.CancelledError) for error in taking.ended)


@pytest.mark.parametrize("kind", KINDS)
async def test_items_that_raise_end_a_conversation_behind_what_has_come(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(3, fail=OSError("gone"))
        _, error = await taken(client.converse(getattr(taking, f"echo_{kind}"), source.on_loop()))
        assert isinstance(error, OSError)
        await until(lambda: taking.ended)


def test_a_threads_items_that_raise_end_a_conversation(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        with pytest.raises(OSError, match="gone"):
            list(client.converse(taking.echo_on_loop, Source(3, fail=OSError("gone")).in_thread()))
        wait_for(lambda: taking.ended)


async def begun(source: Source) -> AsyncIterator[Row]:
    """What is left of items, of which one was taken before."""
    items = source.on_loop()
    await anext(items)
    return items


def begun_in_thread(source: Source) -> Iterator[Row]:
    items = source.in_thread()
    next(items)
    return items


async def both_begun(source: Source) -> list[Any]:
    return [await begun(source), begun_in_thread(source)]


async def test_items_that_were_begun_are_closed_where_the_handler_takes_none(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(10)
        kept = await both_begun(source)
        for items in kept:
            assert await client.upload(taking.some_on_loop, items, 0) == 0
        assert len(source.closed) == 2


async def test_items_that_were_begun_are_closed_where_the_call_cannot_begin(url: str, service_name: str) -> None:
    source, taking = Source(10), Taking(service_name)
    kept = await both_begun(source)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60, max_in_flight=1) as client:
        first = asyncio.create_task(client.upload(taking.on_loop, Source(1, hang=True).on_loop()))
        await until(lambda: taking.taken == 1)
        for items in kept:
            with pytest.raises(Overloaded):
                await client.upload(taking.on_loop, items)
        first.cancel()
        await asyncio.wait([first])
    assert len(source.closed) == 2
    kept = await both_begun(source)
    for items in kept:
        with pytest.raises(Cancelled):  # the client is closed
            await client.upload("nobody.there", items)
    assert len(source.closed) == 4


async def test_items_of_a_call_that_is_refused_before_it_is_made_stay_its_callers(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        on_loop, in_thread = Source(10), Source(10)
        kept: list[Any] = [await begun(on_loop), begun_in_thread(in_thread)]
        for items in kept:
            with pytest.raises(TypeError):
                await client.upload(taking.on_loop, items, 1, 2, 3)  # type: ignore[call-overload]
            with pytest.raises(TypeError):
                client.converse(taking.on_loop, items)  # type: ignore[call-overload]
            assert await client.upload(taking.on_loop, items) == sum(range(1, 10))  # all of them
        assert len(on_loop.closed) == len(in_thread.closed) == 1


async def test_items_that_were_begun_are_closed_with_a_conversation_that_was_not(url: str, service_name: str) -> None:
    source = Source(10)
    kept = await both_begun(source)
    async with AsyncClient(url) as client:
        for items in kept:
            async with client.converse("nobody.there", items):
                pass
    assert len(source.closed) == 2
    rest = begun_in_thread(source)
    with Client(url) as blocking, blocking.converse("nobody.there", rest):
        pass
    assert len(source.closed) == 3


def test_a_result_is_there_though_the_items_fail_to_close(
    url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def items() -> Iterator[Row]:
        try:
            while True:
                yield Row(0)
        finally:
            raise OSError("no room left")

    with in_another_thread(url, service_name) as (taking, client):
        assert client.upload(taking.some_on_loop, items(), 3) == 3
        assert "failed to close" in caplog.text
        assert "no room left" in caplog.text


async def test_items_that_are_not_async_cannot_end_as_if_they_were(url: str, service_name: str) -> None:
    class Strange:
        def __iter__(self) -> Iterator[Row]:
            return self

        def __next__(self) -> Row:
            raise StopAsyncIteration

    async with taking_and_client(url, service_name) as (taking, client):
        with pytest.raises(RuntimeError, match="StopAsyncIteration"):
            await client.upload(taking.on_loop, Strange())


def test_items_that_cannot_even_be_begun_begin_no_call(url: str, service_name: str) -> None:
    class Broken:
        def __iter__(self) -> Iterator[Row]:
            raise OSError("no such file")

    with in_another_thread(url, service_name) as (taking, client):
        with pytest.raises(OSError, match="no such file"):
            client.upload(taking.on_loop, Broken())
        answers = client.converse(taking.echo_on_loop, Broken())
        for _ in range(2):
            with pytest.raises(OSError, match="no such file"):
                next(answers)
        assert client.statistics.in_flight == 0
        assert taking.ended == []


@pytest.mark.parametrize("kind", KINDS)
async def test_leaving_a_conversation_closes_both_sides(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(1_000_000)
        async with client.converse(getattr(taking, f"echo_{kind}"), source.on_loop()) as answers:
            async for row in answers:
                if row.number == 3:
                    break
        assert source.closed
        await until(lambda: taking.ended)


def test_leaving_a_conversation_in_a_thread_closes_both_sides(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        source = Source(1_000_000)
        with client.converse(taking.echo_on_loop, source.in_thread()) as answers:
            assert next(answers) == Row(0)
        wait_for(lambda: bool(source.closed and taking.ended))


async def test_a_conversation_that_is_dropped_closes_both_sides(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(1_000_000)
        answers = client.converse(taking.echo_on_loop, source.on_loop())
        await anext(answers)
        del answers
        await until(lambda: bool(source.closed and taking.ended))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_upload_has_a_time_for_all_of_it(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(3, hang=True)
        with pytest.raises(DeadlineExceeded) as caught:
            await client.options(timeout=0.5).upload(getattr(taking, kind), source.on_loop())
        assert caught.value.execution is Execution.EXECUTED  # as the handler had asked for items
        assert source.closed
        assert caught.value.__notes__ == ["3 items had been sent, and none is known to have been taken"]
        await until(lambda: taking.ended)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_upload_has_a_time_for_a_handler_that_takes_no_more(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(2000)
        how = client.options(idle_timeout=0.3)
        with pytest.raises(DeadlineExceeded, match=r"took no item for 0\.3 s") as caught:
            await how.upload(getattr(taking, f"sleep_{kind}"), source.on_loop(), 2)
        assert (caught.value.reason, caught.value.execution) == ("IDLE", Execution.EXECUTED)
        assert source.closed or not source.given  # on a busy machine it is not begun by then
        await until(lambda: taking.ended)


def test_an_upload_of_a_thread_has_such_a_time_too(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        source = Source(2000)
        with pytest.raises(DeadlineExceeded, match=r"took no item for 0\.3 s"):
            client.options(idle_timeout=0.3).upload(taking.sleep_on_loop, source.in_thread(), 2)
        assert source.closed or not source.given  # on a busy machine it is not begun by then
        with pytest.raises(InvalidArgument, match="item 0 cannot be sent") as caught:
            client.upload(f"{service_name}.on_loop", [object()])
        assert (caught.value.method, caught.value.execution) == (f"{service_name}.on_loop", Execution.EXECUTED)
        assert caught.value.call_id


async def test_an_operator_ends_it(url: str, service_name: str) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=url) as server, AsyncClient(url, timeout=60) as client:
        source = Source(1, hang=True)
        sending = asyncio.create_task(client.upload(taking.on_loop, source.on_loop()))
        await until(lambda: taking.taken == 1)
        worker = server._posts[0].worker
        (attempt,) = worker.holding.taken
        assert attempt.request is not None
        assert worker.withdrawals.stop(attempt.request.call_id or "") == 1
        with pytest.raises(Cancelled) as caught:
            await sending
        assert caught.value.reason == "OPERATOR"
        assert source.closed


def test_a_client_that_is_closed_under_it_ends_it(url: str, service_name: str) -> None:
    with in_another_thread(url, service_name) as (taking, client):
        source, ended = Source(1_000_000), list[BaseException]()

        def send() -> None:
            try:
                client.upload(taking.sleep_on_loop, source.in_thread(), 3)
            except CallError as error:
                ended.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        wait_for(lambda: taking.taken == 3)
        client.close()
        thread.join(60)
        (error,) = ended
        assert isinstance(error, Cancelled)
        assert error.execution is Execution.EXECUTED
        assert source.closed


async def test_a_handler_that_was_given_up_inside_another_gives_up_its_upload(url: str, service_name: str) -> None:
    taking, outer = Taking(service_name), Service(f"{service_name}.outer")
    source = Source(1, hang=True)
    with_inner: list[AsyncClient] = []

    @outer.method
    async def relay() -> int:
        return await with_inner[0].upload(taking.on_loop, source.on_loop())

    async with serving(taking.service, outer, url=url), AsyncClient(url, timeout=60) as client:
        with_inner.append(client)
        calling = asyncio.create_task(client.call(relay))
        await until(lambda: taking.taken == 1)
        calling.cancel()
        await until(lambda: bool(taking.ended and source.closed))


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_an_item_of_another_type_is_an_error_in_the_handler(url: str, service_name: str, kind: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        with pytest.raises(InvalidArgument, match=r"item 2\.number must be an int, not a str; send what") as caught:
            await client.upload(f"{service_name}.{kind}", [{"number": 1}, {"number": 2}, {"number": "three"}])
        assert (caught.value.reason, caught.value.execution) == ("ITEM", Execution.EXECUTED)
        assert len(taking.ended) == 1
        assert isinstance(taking.ended[0], InvalidArgument)


class Odd(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number == 1:
            raise KeyError("a type's own code may raise whatever")


async def test_an_item_whose_own_type_refuses_it_is_not_left_out(url: str, service_name: str) -> None:
    service, refused = Service(service_name), list[Exception]()

    @service.method
    async def take(items: AsyncIterator[Odd]) -> int:
        try:
            await anext(items)
        except Exception as error:
            refused.append(error)
        return len([item async for item in items])  # as the first ones cannot be had, this is no iterator that ends

    async with serving(service, url=url), AsyncClient(url) as client:
        with pytest.raises(InvalidArgument, match="own code"):
            await client.upload(f"{service_name}.take", [{"number": number} for number in range(3)])
    assert isinstance(refused[0], InvalidArgument)


async def test_an_item_that_cannot_travel_ends_the_call(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        with pytest.raises(InvalidArgument, match="item 1 cannot be sent") as caught:
            await client.upload(f"{service_name}.on_loop", [{"number": 1}, object()])
        assert (caught.value.reason, caught.value.execution) == ("ENCODE", Execution.EXECUTED)
        assert caught.value.method == f"{service_name}.on_loop"
        await until(lambda: taking.ended)


async def test_a_generator_that_was_begun_is_closed_though_nobody_takes_its_items(url: str, service_name: str) -> None:
    closed = asyncio.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.set()

    async with taking_and_client(url, service_name) as (_, client):
        begun = numbers()
        assert next(begun) == 0
        with pytest.raises(MethodNotFound):
            await client.upload(f"{service_name}.nobody_has_this", begun)
        assert closed.is_set()


async def test_an_item_over_a_limit_ends_the_call(url: str, service_name: str) -> None:
    taking = Taking(service_name, max_message_size=1000)
    async with serving(taking.service, url=url), AsyncClient(url, max_message_size=100_000) as client:
        with pytest.raises(Overloaded, match="max_message_size of 1000"):
            await client.upload(taking.on_loop, [Row(0, "x" * 1000)])
        with pytest.raises(Overloaded, match="max_message_size of 1000"):
            await client.upload(taking.on_loop, [Row(0, "x" * 90_000)])
        with pytest.raises(Overloaded, match=r"raise max_message_size \(100000\)"):
            await client.upload(taking.on_loop, [Row(0, "x" * 100_000)])
        assert await client.upload(taking.on_loop, rows(2000)) == 1_999_000  # each of them is small


async def test_what_takes_items_is_refused_as_anything_else_before_it_runs(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        for method in (taking.on_loop, taking.in_thread):
            for wrong in (client.call, client.cast, client.stream, client.gather):
                with pytest.raises(TypeError, match=r"client\.upload|broadcast"):
                    await as_awaitable(wrong, method)
        for name, verb in (("on_loop", "upload"), ("echo_on_loop", "converse")):
            for ask in (client.call(f"{service_name}.{name}"), anext(client.stream(f"{service_name}.{name}"))):
                with pytest.raises(MethodNotFound, match=rf"client\.{verb}") as caught:
                    await ask
                assert (caught.value.reason, caught.value.execution) == ("STREAM", Execution.NOT_EXECUTED)
        assert taking.taken == 0


async def as_awaitable(ask: Any, method: Any) -> None:
    made = ask(method)
    await (made if hasattr(made, "__await__") else anext(made))


async def test_what_takes_none_is_refused_as_an_upload_before_it_runs(url: str, service_name: str) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        source = Source(3)
        with pytest.raises(TypeError, match=r"client\.call"):
            await client.upload(taking.one, [])  # type: ignore[call-overload]
        for ask in (
            client.upload(f"{service_name}.one", source.on_loop()),
            anext(client.converse(f"{service_name}.one", source.on_loop())),
        ):
            with pytest.raises(MethodNotFound, match=r"client\.call") as caught:
                await ask
            assert (caught.value.reason, caught.value.execution) == ("STREAM", Execution.NOT_EXECUTED)
        assert source.given == 0


async def test_one_item_in_place_of_several_is_refused(url: str, service_name: str) -> None:
    async with AsyncClient(url) as client:
        for one in ("text", b"bytes", {"a": 1}):
            with pytest.raises(TypeError, match="is one item rather than several"):
                await client.upload(f"{service_name}.on_loop", one)
        with pytest.raises(TypeError, match="has no items to send"):
            client.converse(f"{service_name}.on_loop", 7)  # type: ignore[call-overload]
    with Client(url) as blocking, pytest.raises(TypeError, match="use AsyncClient"):
        blocking.upload(f"{service_name}.on_loop", Source(1).on_loop())  # type: ignore[call-overload]


async def test_a_worker_without_a_control_queue_refuses_uploads(url: str, service_name: str) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=url, control=None), AsyncClient(url) as client:
        with pytest.raises(MethodNotFound, match="no control queue") as caught:
            await client.upload(taking.on_loop, rows(1))
        assert (caught.value.reason, caught.value.execution) == ("STREAM", Execution.NOT_EXECUTED)
        assert taking.ended == []


@pytest.mark.parametrize(
    ("missing", "where", "name", "value"),
    [("control queue", Answering, "hears", False), ("queue for items", ItemsQueue, "name", property(lambda _: ""))],
)
async def test_a_worker_whose_queues_are_deleted_says_to_call_again(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch, missing: str, where: Any, name: str, value: Any
) -> None:
    async with taking_and_client(url, service_name) as (taking, client):
        with monkeypatch.context() as deleted:
            deleted.setattr(where, name, value, raising=False)
            with pytest.raises(Unavailable, match=f"{missing} was deleted") as caught:
                await client.upload(taking.on_loop, rows(1))
        assert (caught.value.reason, caught.value.execution) == ("STREAM_DOWN", Execution.NOT_EXECUTED)
        assert taking.ended == []
        assert await client.upload(taking.on_loop, rows(2)) == 1


async def test_an_exchange_that_is_deleted_is_found_out_by_a_handler_that_waits_for_items(
    url: str, service_name: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "INTERVAL", 3600.0)
    monkeypatch.setattr(upkeep, "PAUSE", 0.1)
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.2)
    monkeypatch.setattr(inflow, "MOST_SILENT", 1000)
    async with taking_and_client(url, service_name) as (taking, client):
        hanging = asyncio.create_task(client.upload(taking.on_loop, Source(1, hang=True).on_loop()))
        await until(lambda: taking.taken == 1)
        raw.exchange_delete("warren.control")
        async with asyncio.timeout(PATIENCE):
            works = False
            while not works:  # each that comes too early is told so
                with suppress(CallError):
                    works = await client.upload(taking.on_loop, [Row(3)]) == 3
        hanging.cancel()
        await asyncio.wait([hanging])


@pytest.mark.parametrize(("option", "instead"), [({"resend": True}, "begin another upload"), ({"expect": 2}, "gather")])
async def test_an_option_that_no_upload_has_is_refused(
    url: str, service_name: str, option: dict[str, Any], instead: str
) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(ValueError, match=instead):
            await client.options(**option).upload(f"{service_name}.on_loop", [])


# --- with the rest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_handler_needs_is_there_until_its_items_are_taken(url: str, service_name: str, kind: str) -> None:
    service, told = Service(service_name), list[str]()

    def get_prefix() -> Iterator[str]:
        yield "item"
        told.append("left")

    @service.method
    async def on_loop(
        call: CurrentCall, items: AsyncIterator[int], end: str, prefix: str = provided(get_prefix)
    ) -> list[str]:
        assert not told
        return [f"{prefix} {item}{call.args[0]}{end}" async for item in items]

    @service.method
    def in_thread(
        items: Iterator[int], end: str, prefix: str = provided(get_prefix), *, call: CurrentCall
    ) -> list[str]:
        assert not told
        return [f"{prefix} {item}{call.args[0]}{end}" for item in items]

    async with serving(service, url=url), AsyncClient(url) as client:
        assert await client.upload(f"{service_name}.{kind}", [1, 2], "!") == ["item 1!!", "item 2!!"]
        assert told == ["left"]


async def test_methods_of_a_class_take_items(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.methods
    class Sums:
        def __init__(self) -> None:
            self.base = 100

        async def add(self, items: AsyncIterator[int], more: int = 0) -> int:
            return self.base + more + sum([item async for item in items])

        def each(self, items: Iterator[int]) -> Iterator[int]:
            for item in items:
                yield self.base + item

    async with serving(service, url=url), AsyncClient(url) as client:
        assert await client.upload(f"{service_name}.add", [1, 2], 1000) == 1103
        assert [item async for item in client.converse(f"{service_name}.each", [1, 2])] == [101, 102]


@pytest.mark.parametrize("kind", KINDS)
async def test_middleware_of_the_service_is_around_the_whole_upload(url: str, service_name: str, kind: str) -> None:
    seen: list[object] = []

    async def around(call: CurrentCall, proceed: Any) -> object:
        seen.append(call.method)
        seen.append(await proceed())
        return seen[-1]

    async with taking_and_client(url, service_name, middleware=[around]) as (taking, client):
        assert await client.upload(getattr(taking, kind), rows(700)) == 244_650
        assert seen == [f"{service_name}.{kind}", 244_650]


async def test_progress_of_an_upload_is_told(url: str, service_name: str) -> None:
    service, heard = Service(service_name), list[Progress]()

    @service.method
    async def count(items: AsyncIterator[int], total: int) -> int:
        number = 0
        async for _ in items:
            number += 1
            current_call().progress(number, total)
        return number

    async with serving(service, url=url), AsyncClient(url) as client:
        assert await client.options(on_progress=heard.append).upload(count, range(600), 600) == 600
        assert heard[-1].is_complete


async def test_a_drain_lets_an_upload_end(url: str, service_name: str) -> None:
    taking = Taking(service_name)
    async with AsyncClient(url) as client, serving(taking.service, url=url) as server:
        source = Source(3000)
        sending = asyncio.create_task(client.upload(taking.sleep_on_loop, source.on_loop(), 3))
        await until(lambda: taking.taken == 3)
        server.stop()
        taking.go_on.set()
        assert await sending == 3000


async def test_what_is_kept_of_the_items_takes_none_when_the_call_has_ended(url: str, service_name: str) -> None:
    service, kept = Service(service_name), list[Any]()

    @service.method
    async def on_loop(items: AsyncIterator[int]) -> int:
        kept.append(items)
        return await anext(items)

    @service.method
    def in_thread(items: Iterator[int]) -> int:
        kept.append(items)
        return next(items)

    async with serving(service, url=url), AsyncClient(url) as client:
        assert await client.upload(on_loop, iter([1])) == 1
        assert await client.upload(in_thread, iter([1])) == 1
        with pytest.raises(RuntimeError, match="has ended"):
            await anext(kept[0])
        with pytest.raises(RuntimeError, match="has ended"):
            next(kept[1])


async def test_what_still_waits_for_an_item_when_the_handler_has_ended_is_told(url: str, service_name: str) -> None:
    service, waits, outcomes = Service(service_name), threading.Event(), list[Any]()
    others = list[Any]()

    async def wait_in_task(items: AsyncIterator[int]) -> int:
        return await anext(items)

    def wait_in_thread(items: Iterator[int]) -> None:
        waits.set()
        try:
            outcomes.append(next(items))
        except RuntimeError as error:
            outcomes.append(error)

    @service.method
    async def on_loop(items: AsyncIterator[int]) -> int:
        others.append(asyncio.create_task(wait_in_task(items)))
        await asyncio.sleep(0)
        return await asyncio.sleep(0, 1)

    @service.method
    def in_thread(items: Iterator[int]) -> int:
        others.append(threading.Thread(target=wait_in_thread, args=(items,)))
        others[-1].start()
        waits.wait(60)
        return 1

    async def nothing() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    async with serving(service, url=url), AsyncClient(url) as client:
        assert await client.upload(on_loop, nothing()) == 1
        with pytest.raises(RuntimeError, match="has ended"):
            await asyncio.wait_for(others[0], 20)
        assert await client.upload(in_thread, nothing()) == 1
        await asyncio.to_thread(others[1].join, 20)
        assert "has ended" in str(outcomes[0])


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads are switched as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def taken_by_several(items: Iterator[int]) -> list[int]:
    """What four threads get together, each of which tries again when another one is at it."""
    got = list[int]()

    def take() -> None:
        while True:
            try:
                got.append(next(items))
            except StopIteration:
                return
            except RuntimeError:  # two take at a time
                pass

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(got)


@pytest.mark.usefixtures("hectic")
def test_threads_that_take_from_one_iterator_lose_nothing(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    def share(items: Iterator[int]) -> list[int]:
        return taken_by_several(items)

    @service.method
    def echo(items: Iterator[int]) -> Iterator[int]:
        yield from items

    numbers = list(range(5000))
    with serving_in_thread(service, url), Client(url, timeout=60) as client:
        assert client.upload(share, numbers) == numbers
        assert taken_by_several(client.converse(echo, numbers)) == numbers


async def test_two_tasks_do_not_take_from_one_iterator_at_a_time(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    async def both(items: AsyncIterator[int]) -> list[str]:
        async def take() -> str:
            try:
                return str(await anext(items))
            except RuntimeError as error:
                return str(error)

        return list(await asyncio.gather(take(), take()))

    async with serving(service, url=url), AsyncClient(url) as client:
        first, second = await client.upload(both, [1, 2])
        assert first == "1"
        assert "two take" in second
