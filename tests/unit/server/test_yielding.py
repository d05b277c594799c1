"""Methods that yield, as they are declared."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from typing import Any

import pytest

from warren import Service, provided
from warren.protocol.signature import Method, method_of
from warren.server.looking import _method
from warren.server.streaming import Outlets


def declared(function: Any, **options: Any) -> Method:
    service = Service("s")
    service.method(**options)(function)
    return method_of(function)


async def on_loop(table: str, first: int = 0) -> AsyncIterator[int]:
    yield first


def in_thread(table: str, first: int = 0) -> Iterator[int]:
    yield first


async def generator(table: str, first: int = 0) -> AsyncGenerator[int, None]:
    yield first


def plain_generator(table: str, first: int = 0) -> Generator[int, None, None]:
    yield first


def returns_one(table: str, first: int = 0) -> Iterator[int]:
    return iter([first])


@pytest.mark.parametrize("function", [on_loop, in_thread, generator, plain_generator, returns_one])
def test_what_yields_is_a_stream_of_its_items(function: Any) -> None:
    method = declared(function)
    assert method.streams
    assert method.item_hint is int
    assert method.declared is function
    assert method.signature == f"{function.__name__}(table: str, first: int = 0)"
    assert method.returns in ("AsyncIterator[int]", "Iterator[int]")
    assert method.is_async is (function in (on_loop, generator))
    assert method.decode_arguments("application/json", b'["t"]') == (("t", 0), {})


def test_a_stream_that_runs_again_may_be_resumable() -> None:
    def rows() -> Iterator[int]:
        yield 1

    def others() -> Iterator[int]:
        yield 1

    method = declared(rows, delivery="at-least-once", resumable=True)
    assert method.resumable
    assert _method(method)["resumable"] is True
    assert not declared(others, delivery="at-least-once").resumable


@pytest.mark.parametrize("delivery", ["report", "at-most-once"])
def test_a_stream_that_does_not_run_again_is_not_resumable(delivery: str) -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="declare it at-least-once, or leave resumable out"):
        declared(rows, delivery=delivery, resumable=True)


def test_a_method_that_yields_nothing_is_not_resumable() -> None:
    async def one() -> int:
        return 1

    with pytest.raises(TypeError, match="yields no items that another run could go on with"):
        declared(one, delivery="at-least-once", resumable=True)


def test_resumable_is_true_or_false() -> None:
    def one() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="resumable='yes' must be True or False"):
        declared(one, delivery="at-least-once", resumable="yes")


def test_a_stub_is_as_resumable_as_it_says() -> None:
    service = Service("s")

    @service.stub(delivery="at-least-once", resumable=True)
    def rows() -> Iterator[int]:
        raise NotImplementedError

    @service.implement(rows)
    def implemented() -> Iterator[int]:
        yield 1

    assert service.methods["rows"].resumable


def test_it_tells_of_itself_that_it_streams() -> None:
    async def rows(table: str) -> AsyncIterator[int]:
        """Rows."""
        yield 1

    told = _method(declared(rows))
    assert told["streams"] is True
    assert told["doc"] == "Rows."
    assert told["signature"] == "rows(table: str) -> AsyncIterator[int]"


def test_items_without_a_type_may_be_anything() -> None:
    def rows():  # type: ignore[no-untyped-def]
        yield 1

    assert declared(rows).item_hint is Any


def as_a_list(table: str) -> list[int]:  # type: ignore[misc]
    yield 1


def as_a_dict(table: str) -> dict[str, int]:  # type: ignore[misc]
    yield "a"


def as_one(table: str) -> int:  # type: ignore[misc]
    yield 1


async def on_loop_as_a_list(table: str) -> list[int]:  # type: ignore[misc]
    yield 1


@pytest.mark.parametrize("function", [as_a_list, as_a_dict, as_one, on_loop_as_a_list])
def test_what_yields_and_says_that_it_returns_something_else_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match=r"it yields, and says that it returns .*: say Iterator, or AsyncIterator"):
        declared(function)


def test_an_async_function_that_returns_a_plain_iterator_is_refused() -> None:
    async def rows(table: str) -> Iterator[int]:
        return iter([1])

    with pytest.raises(TypeError, match=r"yields on the event loop: say that it returns an AsyncIterator, and yield"):
        declared(rows)


@pytest.mark.parametrize("says", [Iterable[int], Iterable, object, Any, None])
def test_a_generator_may_say_less_of_what_it_returns(says: Any) -> None:
    def rows():  # type: ignore[no-untyped-def]
        yield 1

    if says is not None:
        rows.__annotations__["return"] = says
    method = declared(rows)
    assert method.streams
    assert method.item_hint is (int if says == Iterable[int] else Any)


def test_items_that_cannot_travel_are_refused() -> None:
    class Socket:
        pass

    def rows() -> Iterator[Socket]:
        yield Socket()

    with pytest.raises(TypeError, match=r"s\.rows: the items: values of type .*Socket cannot be sent"):
        declared(rows)


def test_a_default_method_is_no_stream() -> None:
    service = Service("s")

    def rows(text: str) -> Iterator[str]:
        yield text

    with pytest.raises(TypeError, match="one plain reply"):
        service.method(default=True)(rows)


def test_an_ordinary_method_is_none() -> None:
    def rows() -> list[int]:
        return []

    assert not declared(rows).streams


def test_a_stub_is_a_stream_by_what_it_returns_and_its_implementation_has_to_be_one() -> None:
    service = Service("s")

    def get_db() -> str:
        return "db"

    @service.stub
    def rows(n: int) -> AsyncIterator[int]:
        raise NotImplementedError

    assert method_of(rows).streams
    with pytest.raises(TypeError, match="only one of the two is a stream"):

        @service.implement(rows)  # type: ignore[arg-type]
        async def count(n: int) -> int:
            return n

    with pytest.raises(TypeError, match="the items are of type str, not of type int"):

        @service.implement(rows)  # type: ignore[arg-type]
        async def words(n: int) -> AsyncIterator[str]:
            yield str(n)

    @service.implement(rows)
    async def own(n: int, db: str = provided(get_db)) -> AsyncIterator[int]:
        yield n

    service.check()


def test_methods_of_a_class_may_yield() -> None:
    service = Service("s")

    @service.methods
    class Rows:
        async def all(self, n: int) -> AsyncIterator[int]:
            yield n

    assert method_of(Rows.all).streams


async def test_the_end_of_a_run_does_not_take_the_next_run_of_the_same_call_along() -> None:
    """An ``at-least-once`` request may be delivered again while its first run is still being closed."""
    outlets = Outlets(list, 0)
    first, second = _Run(), _Run()
    for run in (first, second):
        outlets._add(run)  # type: ignore[arg-type]
    outlets._closed(first)  # type: ignore[arg-type]
    outlets.credit(second.id, second.address, 7)
    assert (first.consumed, second.consumed) == (0, 7)
    outlets._closed(second)  # type: ignore[arg-type]
    outlets._closed(second)  # type: ignore[arg-type]
    outlets.credit(second.id, second.address, 8)
    assert second.consumed == 7
    assert not outlets._open


async def test_both_of_two_runs_of_the_same_call_hear_how_far_its_caller_is_and_that_it_is_gone() -> None:
    """The first one would wait for room for ever, as only the second one was known by that id."""
    outlets = Outlets(list, 0)
    first, second = _Run(), _Run()
    for run in (first, second):
        outlets._add(run)  # type: ignore[arg-type]
    outlets.credit(b"call", b"replies", 7)
    assert (first.consumed, second.consumed) == (7, 7)
    outlets.returned(b"call")
    outlets.lost()
    assert (first.abandoned, second.abandoned) == (2, 2)


class _Run:
    """An outlet, as far as its table knows it."""

    id, address = b"call", b"replies"

    def __init__(self) -> None:
        self.consumed = self.abandoned = 0
        self.on_closed: Any = None

    def abandon(self) -> None:
        self.abandoned += 1

    def credit(self, count: int) -> None:
        self.consumed = count
