"""Batches of both clients: `map`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Cancelled, Client, Service, star


class Lab:
    """A service whose calls can be held up, and what is under way in it."""

    def __init__(self, name: str) -> None:
        service = self.service = Service(name, concurrency=50, errors=[ValueError])
        self.opened = asyncio.Event()
        self.under_way: set[int] = set()
        self.most = 0
        self.tasks: list[asyncio.Task[Any]] = []  # of handlers, which are in this loop, too

        @service.method
        async def double(n: int) -> int:
            return 2 * n

        @service.method
        async def even(n: int) -> int:
            if n % 2:
                raise ValueError(n)
            return n

        @service.method
        async def add(a: int, b: int) -> int:
            return a + b

        @service.method
        async def hold(n: int) -> int:
            self.under_way.add(n)
            self.most = max(self.most, len(self.under_way))
            try:
                await self.opened.wait()
            finally:
                self.under_way.discard(n)
            return n

        @service.method
        async def hold_odd(n: int) -> int:
            task = asyncio.current_task()
            assert task is not None
            self.tasks.append(task)
            return await hold(n) if n % 2 else n

        self.double, self.even, self.add, self.hold, self.hold_odd = double, even, add, hold, hold_odd


@pytest.fixture
async def lab(url: str, service_name: str) -> AsyncIterator[Lab]:
    lab = Lab(service_name)
    async with serving(lab.service, url=url):
        yield lab
        lab.opened.set()


def endless(taken: list[int]) -> Iterator[int]:
    """All numbers; those that were asked for are noted."""
    for n in itertools.count():
        taken.append(n)
        yield n


async def endless_async(taken: list[int]) -> AsyncIterator[int]:
    for n in endless(taken):
        await asyncio.sleep(0)
        yield n


async def collect(numbers: AsyncIterator[int], got: list[int]) -> None:
    async for n in numbers:
        got.append(n)  # noqa: PERF401  # what came before a failure counts


@pytest.mark.parametrize("make", [list, iter], ids=["a sequence", "an iterator"])
async def test_results_come_in_the_order_of_the_items(client: AsyncClient, lab: Lab, make: Any) -> None:
    assert [n async for n in client.map(lab.double, make(range(50)), in_flight=7)] == [2 * n for n in range(50)]


async def test_results_come_as_calls_end_if_order_does_not_matter(client: AsyncClient, lab: Lab) -> None:
    numbers = client.map(lab.hold_odd, range(6), ordered=False)
    first = [await anext(numbers) for _ in range(3)]
    assert sorted(first) == [0, 2, 4]
    lab.opened.set()
    assert sorted([n async for n in numbers]) == [1, 3, 5]


async def test_an_endless_batch_has_a_bounded_number_of_calls_under_way_and_ends_with_its_iteration(
    client: AsyncClient, lab: Lab
) -> None:
    for make in (endless, endless_async):
        taken: list[int] = []
        async with contextlib.aclosing(client.map(lab.double, make(taken), in_flight=5)) as numbers:
            handed_out = [await anext(numbers) for _ in range(100)]
        assert handed_out == [2 * n for n in range(100)]
        assert len(taken) <= 106


async def test_no_more_calls_are_under_way_than_in_flight_says(client: AsyncClient, lab: Lab) -> None:
    numbers = client.map(lab.hold, endless([]), in_flight=4)
    first = asyncio.ensure_future(anext(numbers))
    await until(lambda: len(lab.under_way) == 4)
    assert await client.call(lab.double, 1) == 2  # behind those that a fifth would have come with
    lab.opened.set()
    await first
    await numbers.aclose()
    assert lab.most == 4


@pytest.mark.parametrize("how", ["close", "break", "cancel"])
async def test_an_iteration_that_ends_early_leaves_no_task(client: AsyncClient, lab: Lab, how: str) -> None:
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def iterate() -> None:
        async for _ in client.map(lab.hold_odd, endless_async([]), in_flight=8):
            begun.set()
            if how == "break":
                break

    if how == "close":
        numbers = client.map(lab.hold_odd, endless_async([]), in_flight=8)
        await anext(numbers)
        await numbers.aclose()
    else:
        task = asyncio.create_task(iterate())
        await begun.wait()
        if how == "cancel":
            task.cancel()
        await asyncio.wait([task])
    await until(lambda: asyncio.all_tasks() - before <= {task for task in lab.tasks if not task.done()})
    lab.opened.set()
    assert await client.call(lab.double, 2) == 4


async def test_the_first_failure_is_raised_with_its_place_and_ends_the_batch(client: AsyncClient, lab: Lab) -> None:
    got: list[int] = []
    numbers = client.map(lab.even, [0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="1") as caught:
        await collect(numbers, got)
    assert got == [0]
    assert any(note.startswith("item 2 of the batch") for note in caught.value.__notes__)


async def test_with_errors_returned_no_failure_ends_the_others(client: AsyncClient, lab: Lab) -> None:
    ends = [end async for end in client.map(lab.even, range(6), errors="return")]
    assert [end.item for end in ends] == list(range(6))
    assert [end.result() for end in ends if end.error is None] == [0, 2, 4]
    assert [type(end.error) for end in ends if end.error is not None] == [ValueError] * 3
    with pytest.raises(ValueError, match="5"):
        ends[5].result()


async def test_what_the_items_raise_is_raised_when_all_before_has_been_handed_out(
    client: AsyncClient, lab: Lab
) -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise OSError("the file ends here")

    got: list[int] = []
    with pytest.raises(OSError, match="the file ends here"):
        await collect(client.map(lab.double, items()), got)
    assert got == [2 * n for n in range(10)]


async def test_a_tuple_is_spread_over_the_parameters(client: AsyncClient, lab: Lab) -> None:
    pairs = [(n, 10 * n) for n in range(5)]
    sums = [11 * n for n in range(5)]
    assert [n async for n in client.map(star(lab.add), pairs)] == sums
    assert [n async for n in client.map(star(f"{lab.service.name}.add"), pairs)] == sums


async def test_a_call_by_name_says_what_it_returns(client: AsyncClient, lab: Lab) -> None:
    name = f"{lab.service.name}.double"
    assert [n async for n in client.map(name, [1], returns=float)] == [2.0]
    (end,) = [end async for end in client.map(name, [1], returns=str, errors="return")]
    assert isinstance(end.error, CallError)
    assert end.error.reason == "DECODE_REPLY"


async def test_progress_is_told_of_every_call_that_has_ended(client: AsyncClient, lab: Lab) -> None:
    told: list[tuple[int, int | None]] = []
    tell: Callable[[int, int | None], None] = lambda *how: told.append(how)  # noqa: E731
    async for _ in client.map(lab.double, range(3), progress=tell):
        pass
    async for _ in client.map(lab.double, iter(range(2)), progress=tell):
        pass
    assert told == [(1, 3), (2, 3), (3, 3), (1, None), (2, None)]


async def test_a_batch_waits_where_its_client_has_no_room(url: str, lab: Lab) -> None:
    async with AsyncClient(url, max_in_flight=2) as client:
        assert [n async for n in client.map(lab.double, range(40))] == [2 * n for n in range(40)]


async def test_closing_the_client_ends_every_call_of_a_batch(url: str, lab: Lab) -> None:
    client = AsyncClient(url)
    numbers = client.map(lab.hold, range(3), errors="return")
    first = asyncio.ensure_future(anext(numbers))
    await until(lambda: len(lab.under_way) == 3)
    await client.close()
    ends = [await first, *[end async for end in numbers]]
    assert [type(end.error) for end in ends] == [Cancelled] * 3


async def test_a_blocking_batch_does_the_same(url: str, lab: Lab) -> None:
    told: list[tuple[int, int | None]] = []

    def use() -> None:
        with Client(url) as client:
            assert list(client.map(lab.double, range(50), in_flight=7)) == [2 * n for n in range(50)]
            unordered = client.map(lab.double, iter(range(50)), ordered=False, progress=lambda *how: told.append(how))
            assert sorted(unordered) == [2 * n for n in range(50)]
            assert list(client.map(star(lab.add), [(1, 2), (3, 4)])) == [3, 7]
            ends = list(client.map(lab.even, range(4), errors="return"))
            assert [(end.item, type(end.error)) for end in ends] == [
                (0, type(None)), (1, ValueError), (2, type(None)), (3, ValueError)
            ]  # fmt: skip
            with pytest.raises(ValueError, match="1"):
                list(client.map(lab.even, range(4)))
            with pytest.raises(CallError):
                list(client.map(f"{lab.service.name}.double", ["no number"]))

    await asyncio.to_thread(use)
    assert told == [(n, None) for n in range(1, 51)]


async def test_a_blocking_batch_without_end_is_bounded_and_ends_with_its_iteration(url: str, lab: Lab) -> None:
    def use() -> int:
        with Client(url) as client:
            taken: list[int] = []
            numbers = client.map(lab.hold_odd, endless(taken), in_flight=6, ordered=False)
            assert next(numbers) == 0
            numbers.close()
            shown = iter(client.map(lab.double, endless([])))
            assert [next(shown) for _ in range(300)] == [2 * n for n in range(300)]
            return len(taken)

    assert await asyncio.to_thread(use) <= 6


async def test_what_the_items_of_a_blocking_batch_raise_comes_last(url: str, lab: Lab) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the file ends here")

    def use() -> list[int]:
        got: list[int] = []
        with Client(url) as client, pytest.raises(OSError, match="the file ends here"):
            got.extend(client.map(lab.double, items()))
        return got

    assert await asyncio.to_thread(use) == [2, 4]
