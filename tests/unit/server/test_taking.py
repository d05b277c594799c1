"""Methods that take items, as they are declared."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

from warren import CurrentCall, Service, provided
from warren.protocol.signature import Method, method_of
from warren.server.looking import _method


def declared(function: Any, **options: Any) -> Method:
    service = Service("s")
    service.method(**options)(function)
    return method_of(function)


async def on_loop(items: AsyncIterator[int], table: str, first: int = 0) -> str:
    return table


async def iterable(items: AsyncIterable[int], table: str, first: int = 0) -> str:
    return table


def in_thread(items: Iterator[int], table: str, first: int = 0) -> str:
    return table


def get_db() -> str:
    return "db"


async def behind_what_it_needs(
    call: CurrentCall, items: AsyncIterator[int], table: str, first: int = 0, *, db: str = provided(get_db)
) -> str:
    return table


@pytest.mark.parametrize("function", [on_loop, iterable, in_thread, behind_what_it_needs])
def test_an_iterator_in_front_of_the_arguments_is_items_and_no_argument(function: Any) -> None:
    method = declared(function)
    assert method.takes
    assert method.taken_hint is int
    assert not method.streams
    assert method.declared is function
    of = "Iterator" if function is in_thread else "AsyncIterator"
    assert method.signature == f"{function.__name__}(items: {of}[int], table: str, first: int = 0)"
    assert method.returns == "str"
    assert method.is_async is (function is not in_thread)
    assert method.decode_arguments("application/json", b'["t"]') == (("t", 0), {})
    assert method.encode_arguments("application/json", ("t",), {}) == b'["t"]'


def test_it_tells_of_itself_that_it_takes_items() -> None:
    async def store(items: AsyncIterator[bytes]) -> int:
        """Store."""
        return 1

    told = _method(declared(store))
    assert (told["takes"], told["streams"], told["doc"]) == (True, False, "Store.")
    assert told["signature"] == "store(items: AsyncIterator[bytes]) -> int"


def test_what_yields_as_well_is_a_conversation() -> None:
    async def talk(items: AsyncIterator[int], n: int) -> AsyncIterator[str]:
        async for item in items:
            yield str(item * n)

    method = declared(talk)
    assert (method.takes, method.streams) == (True, True)
    assert (method.taken_hint, method.item_hint) == (int, str)
    assert method.signature == "talk(items: AsyncIterator[int], n: int)"
    assert method.returns == "AsyncIterator[str]"


def test_items_without_a_type_may_be_anything() -> None:
    async def store(items: AsyncIterator) -> int:  # type: ignore[type-arg]
        return 1

    assert declared(store).taken_hint is Any


def test_what_can_travel_as_a_list_is_an_argument() -> None:
    def total(items: Iterable[int]) -> int:
        return sum(items)

    method = declared(total)
    assert not method.takes
    assert method.decode_arguments("application/json", b"[[1,2]]") == (([1, 2],), {})


def test_items_that_cannot_travel_are_refused() -> None:
    class Socket:
        pass

    def store(items: Iterator[Socket]) -> int:
        return 1

    with pytest.raises(TypeError, match=r"s\.store: the items in 'items': values of type .*Socket cannot be sent"):
        declared(store)


def test_items_come_first_and_once() -> None:
    def last(table: str, items: Iterator[int]) -> int:
        return 1

    def two(items: Iterator[int], others: Iterator[int]) -> int:
        return 1

    def by_name(*, items: Iterator[int]) -> int:
        return 1

    for function in (last, two, by_name):
        with pytest.raises(TypeError, match="in front of the other arguments, or take a list"):
            declared(function)


def test_a_handler_takes_them_where_it_runs() -> None:
    async def on_loop(items: Iterator[int]) -> int:
        return 1

    def in_thread(items: AsyncIterator[int]) -> int:
        return 1

    async def both(items: Iterator[int]) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="an `async def` takes items from an AsyncIterator"):
        declared(on_loop)
    with pytest.raises(TypeError, match="takes items from an Iterator"):
        declared(in_thread)
    with pytest.raises(TypeError, match="AsyncIterator"):
        declared(both)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"delivery": "at-least-once"}, "a second run would not get the items"),
        ({"broadcast": True}, "leave broadcast out"),
    ],
)
def test_what_makes_no_sense_for_it_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        declared(on_loop, **options)


def test_a_default_method_takes_none() -> None:
    def store(items: Iterator[str], text: str) -> int:
        return 1

    with pytest.raises(TypeError, match="leave default out"):
        declared(store, default=True)


def test_a_stub_takes_items_and_its_implementation_has_to() -> None:
    service = Service("s")

    @service.stub
    async def store(items: AsyncIterator[int], name: str) -> int:
        raise NotImplementedError

    assert method_of(store).takes
    with pytest.raises(TypeError, match="only one of the two takes items"):

        @service.implement(store)  # type: ignore[arg-type]
        async def other(name: str) -> int:
            return 1

    with pytest.raises(TypeError, match="the items that it takes are of type str, not of type int"):

        @service.implement(store)  # type: ignore[arg-type]
        async def words(items: AsyncIterator[str], name: str) -> int:
            return 1

    @service.implement(store)  # type: ignore[arg-type]
    def own(items: Iterator[int], name: str) -> int:
        return sum(items)

    service.check()


def test_methods_of_a_class_may_take_items() -> None:
    service = Service("s")

    @service.methods
    class Sums:
        async def add(self, items: AsyncIterator[int], more: int) -> int:
            return more

    method = method_of(Sums.add)
    assert method.takes
    assert method.signature == "add(items: AsyncIterator[int], more: int)"
