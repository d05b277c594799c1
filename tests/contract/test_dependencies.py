"""What handlers need beside their arguments, over the wire: provided for each call, and no part of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.serving import serving
from warren import (
    AsyncClient,
    CallError,
    CurrentCall,
    DeadlineExceeded,
    Execution,
    InvalidArgument,
    LifespanError,
    RemoteError,
    Service,
    provided,
    remote,
)
from warren.middleware import Proceed


class Pool:
    def __init__(self, name: str = "real") -> None:
        self.name = name


@dataclass
class State:
    pool: Pool
    lines: list[str]


@pytest.fixture
def state() -> State:
    return State(Pool(), [])


@pytest.fixture
def service(service_name: str, state: State) -> Service:
    service = Service(service_name)

    @service.lifespan
    async def lifespan() -> AsyncIterator[State]:
        yield state

    return service


class Odd(Exception):
    """Raised by what is tested here."""


# --- where they come from -----------------------------------------------------------------------------------------


async def test_they_are_found_by_type_and_are_no_part_of_the_wire(
    url: str, client: AsyncClient, service: Service
) -> None:
    @service.method
    def place(item: str, count: int = 1, *, pool: Pool = provided(), call: CurrentCall = provided()) -> str:
        return f"{item} {count} {pool.name} {call.attempt}"

    async with serving(service, url=url):
        assert await client.call(place, "tea", 2) == "tea 2 real 1"
        assert await client.call(place, item="tea") == "tea 1 real 1"
        with pytest.raises(TypeError, match="unexpected keyword argument 'pool'"):
            await client.call(place, "tea", pool=Pool("mine"))
        with pytest.raises(
            InvalidArgument, match=r"there is no argument 'pool'; the signature is place\(item: str, count: int = 1\)"
        ):
            await client.call(f"{service.name}.place", item="tea", pool="mine")


async def test_they_may_stand_anywhere(url: str, client: AsyncClient, service: Service) -> None:
    @service.method
    async def place(call: CurrentCall[State], item: str, pool: Pool = provided(), /, count: int = 1) -> str:
        return f"{item} {count} {pool.name} {call.state.pool.name}"

    async with serving(service, url=url):
        assert await client.call(f"{service.name}.place", "tea", 2) == "tea 2 real real"
        assert await client.call(f"{service.name}.place", item="tea", count=3) == "tea 3 real real"


async def test_a_function_is_called_once_for_each_call_and_gets_what_it_needs(
    url: str, client: AsyncClient, service: Service, state: State
) -> None:
    def session(pool: Pool, call: CurrentCall) -> str:
        state.lines.append(call.method)
        return f"session of {pool.name}"

    async def user(name: str = provided(session)) -> str:
        return f"user of {name}"

    @service.method
    async def place(one: str = provided(session), two: str = provided(user)) -> list[str]:
        return [one, two]

    async with serving(service, url=url):
        for _ in range(2):
            assert await client.call(place) == ["session of real", "user of session of real"]
    assert state.lines == [f"{service.name}.place"] * 2


async def test_what_a_def_needs_is_provided_in_its_thread(url: str, client: AsyncClient, service: Service) -> None:
    def thread() -> Iterator[int]:
        yield threading.get_ident()

    @service.method
    def same(here: int = provided(thread)) -> bool:
        return here == threading.get_ident() != loop

    loop = threading.get_ident()
    async with serving(service, url=url):
        assert await client.call(same) is True


async def _number() -> int:
    return 7


def _numbers() -> Iterator[int]:
    yield 7


class _Pool:
    """Like asyncpg's: what is provided is the pool, though it can be awaited."""

    def __await__(self) -> Iterator[None]:
        raise AssertionError("it was awaited")


async def test_a_coroutine_that_a_plain_function_returns_is_awaited_on_the_event_loop(
    url: str, client: AsyncClient, service: Service
) -> None:
    @service.method
    async def double(number: int = provided(lambda: _number()), pool: Any = provided(lambda: _Pool())) -> int:
        assert isinstance(pool, _Pool)
        return 2 * number

    async with serving(service, url=url):
        assert await client.call(double) == 14


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: _number(), "returned a coroutine, and a `def` runs in a thread: make both `async def`"),
        (lambda: _numbers(), "returned a generator, which nobody runs: give provided() the generator function itself"),
    ],
    ids=["coroutine", "generator"],
)
async def test_what_is_still_to_be_made_is_never_handed_over(
    url: str, client: AsyncClient, service: Service, function: Callable[[], Any], words: str
) -> None:
    @service.method
    def show(thing: Any = provided(function)) -> str:
        return repr(thing)

    async with serving(service, url=url):
        with pytest.raises(RemoteError, match=re.escape(words)) as caught:
            await client.call(show)
    assert caught.value.execution is Execution.NOT_EXECUTED


# --- cleaning up --------------------------------------------------------------------------------------------------


def declare(service: Service, state: State, *, is_async: bool) -> None:
    """A method ``run`` that needs two things which are cleaned up, and raises where it is told to."""
    lines = state.lines

    @contextlib.contextmanager
    def noting(name: str) -> Iterator[str]:
        lines.append(f"{name} in")
        try:
            yield name
        except BaseException as error:
            lines.append(f"{name} sees {type(error).__name__}")
            raise
        finally:
            lines.append(f"{name} out")

    def outer() -> Iterator[str]:
        with noting("outer") as name:
            yield name

    async def inner(outer: str = provided(outer)) -> AsyncIterator[str]:
        with noting("inner") as name:
            yield name

    def plain_inner(outer: str = provided(outer)) -> Iterator[str]:
        with noting("inner") as name:
            yield name

    if is_async:

        @service.method(name="run")
        async def run(fails: bool, needed: str = provided(inner)) -> None:
            lines.append("run")
            if fails:
                raise Odd

    else:

        @service.method(name="run")
        def run_plain(fails: bool, needed: str = provided(plain_inner)) -> None:
            lines.append("run")
            if fails:
                raise Odd


@pytest.mark.parametrize("is_async", [True, False])
async def test_it_is_cleaned_up_after_the_handler_in_reverse_order(
    url: str, client: AsyncClient, service: Service, state: State, is_async: bool
) -> None:
    declare(service, state, is_async=is_async)
    async with serving(service, url=url):
        await client.call(f"{service.name}.run", False)
    assert state.lines == ["outer in", "inner in", "run", "inner out", "outer out"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_cleaning_up_sees_what_the_handler_raised(
    url: str, client: AsyncClient, service: Service, state: State, is_async: bool
) -> None:
    declare(service, state, is_async=is_async)
    async with serving(service, url=url):
        with pytest.raises(RemoteError) as caught:
            await client.call(f"{service.name}.run", True)
    assert (caught.value.type, caught.value.execution) == ("Odd", Execution.EXECUTED)
    assert state.lines[2:] == ["run", "inner sees Odd", "inner out", "outer sees Odd", "outer out"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_cleaning_up_cannot_swallow_what_the_handler_raised(
    url: str, client: AsyncClient, service: Service, is_async: bool
) -> None:
    def swallowing() -> Iterator[None]:
        with contextlib.suppress(Odd):
            yield

    def plain(needed: None = provided(swallowing)) -> None:
        raise Odd

    async def on_loop(needed: None = provided(swallowing)) -> None:
        raise Odd

    service.method(name="run")(on_loop if is_async else plain)
    async with serving(service, url=url):
        with pytest.raises(RemoteError, match="Odd"):
            await client.call(f"{service.name}.run")


# --- what is certain ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_error_before_the_handler_says_that_it_did_not_run(
    url: str, client: AsyncClient, service: Service, is_async: bool
) -> None:
    def failing(pool: Pool) -> Pool:
        raise Odd("no session")

    def plain(pool: Pool = provided(failing)) -> None:
        raise AssertionError("it must not run")

    async def on_loop(pool: Pool = provided(failing)) -> None:
        raise AssertionError("it must not run")

    service.method(name="run")(on_loop if is_async else plain)
    async with serving(service, url=url):
        with pytest.raises(RemoteError, match="no session") as caught:
            await client.call(f"{service.name}.run")
    assert (caught.value.type, caught.value.execution) == ("Odd", Execution.NOT_EXECUTED)


async def test_so_does_a_deadline_that_ends_it_before_the_handler(
    url: str, client: AsyncClient, service: Service
) -> None:
    async def hanging() -> str:
        await asyncio.Event().wait()
        return ""

    @service.method(time_limit=0.1)
    async def run(needed: str = provided(hanging)) -> None:
        raise AssertionError("it must not run")

    async with serving(service, url=url):
        with pytest.raises(DeadlineExceeded) as caught:
            await client.call(run)
    assert (caught.value.reason, caught.value.execution) == ("TIME_LIMIT", Execution.NOT_EXECUTED)


async def test_middleware_that_runs_the_handler_twice_does_not_hide_that_it_has_run(
    url: str, client: AsyncClient, service: Service, state: State
) -> None:
    async def twice(_call: CurrentCall, proceed: Proceed) -> Any:
        await proceed()
        return await proceed()

    def once() -> None:
        if state.lines:
            raise Odd("no second session")

    @service.method
    async def run(needed: None = provided(once)) -> None:
        state.lines.append("run")

    service.middleware = (twice,)
    async with serving(service, url=url):
        with pytest.raises(RemoteError, match="no second session") as caught:
            await client.call(run)
    assert caught.value.execution is Execution.EXECUTED


async def test_an_error_in_cleaning_up_says_that_the_handler_ran(
    url: str, client: AsyncClient, service: Service
) -> None:
    async def failing() -> AsyncIterator[None]:
        yield
        raise Odd("commit failed")

    @service.method
    async def run(needed: None = provided(failing)) -> int:
        return 1

    async with serving(service, url=url):
        with pytest.raises(RemoteError, match="commit failed") as caught:
            await client.call(run)
    assert caught.value.execution is Execution.EXECUTED


# --- what is not there --------------------------------------------------------------------------------------------


async def test_what_the_lifespan_does_not_yield_is_told_at_the_start_where_it_says_nothing_before(
    url: str, service_name: str
) -> None:
    service = Service(service_name)

    @service.lifespan
    async def lifespan():  # type: ignore[no-untyped-def]  # so that only what it yields shows it
        yield State(Pool(), [])

    @service.method
    def run(number: int = provided()) -> None: ...

    with pytest.raises(LifespanError, match=r"State has none of type int; it has pool: .*Pool, lines: list\[str\]"):
        await serving(service, url=url).serve()


async def test_without_a_lifespan_nothing_is_found(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    def run(pool: Pool = provided()) -> None: ...

    with pytest.raises(LifespanError, match=r"run needs .*Pool.*has no lifespan"):
        await serving(service, url=url).serve()


# --- in tests -----------------------------------------------------------------------------------------------------


async def test_a_test_replaces_types_and_functions(url: str, client: AsyncClient, service: Service) -> None:
    def session(pool: Pool) -> Iterator[str]:
        yield f"session of {pool.name}"

    @service.method
    def run(needed: str = provided(session), pool: Pool = provided()) -> str:
        return f"{needed}, {pool.name}"

    async with serving(service, url=url):
        with service.override(Pool, Pool("fake")):
            assert await client.call(run) == "session of fake, fake"
            with service.override(session, lambda: "none"):
                assert await client.call(run) == "none, fake"
            assert await client.call(run) == "session of fake, fake"
        assert await client.call(run) == "session of real, real"


async def test_a_test_replaces_the_lifespan(url: str, client: AsyncClient, service_name: str) -> None:
    service = Service(service_name)

    @service.lifespan
    async def production() -> AsyncIterator[State]:
        raise Odd("there is no database here")
        yield

    @service.method
    def run(pool: Pool = provided()) -> str:
        return pool.name

    async def fake() -> AsyncIterator[Pool]:
        yield Pool("fake")

    with service.override(production, fake):
        async with serving(service, url=url):
            assert await client.call(run) == "fake"
    with pytest.raises(LifespanError, match="there is no database here"):
        await serving(service, url=url).serve()


# --- classes and stubs --------------------------------------------------------------------------------------------


async def test_a_class_is_a_service_with_one_instance_for_each_worker(
    url: str, client: AsyncClient, service: Service
) -> None:
    made: list[Pool] = []

    @service.methods
    class Orders:
        def __init__(self, pool: Pool) -> None:
            self._pool = pool
            made.append(pool)

        def place(self, item: str, count: int = 1, *, call: CurrentCall = provided()) -> str:
            return f"{item} {count} {self._pool.name} {call.attempt}"

        @service.method(name="cancel-order", delivery="at-least-once")
        async def cancel(self, item: str, /) -> str:
            return self._help(item)

        @staticmethod
        def price(item: str) -> int:
            return len(item)

        def _help(self, item: str) -> str:
            return f"{item} is cancelled in {self._pool.name}"

    orders = remote(Orders)
    assert sorted(service.methods) == ["cancel-order", "place", "price"]
    async with serving(service, url=url):
        assert await client.call(orders.place, "tea", 2) == "tea 2 real 1"
        assert await client.call(f"{service.name}.place", item="tea") == "tea 1 real 1"
        assert await client.call(orders.cancel, "tea") == "tea is cancelled in real"
        assert await client.call(Orders.price, "tea") == 3
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'item'"):
            await client.call(orders.place)  # type: ignore[call-overload]
    assert [pool.name for pool in made] == ["real"]
    assert Orders(Pool("fake"))._help("tea") == "tea is cancelled in fake"  # still a class


async def test_a_constructor_that_fails_keeps_the_service_from_being_served(url: str, service: Service) -> None:
    @service.methods
    class Orders:
        def __init__(self, pool: Pool) -> None:
            raise Odd(pool.name)

        def place(self) -> None: ...

    with pytest.raises(LifespanError, match="cannot start: Odd: real"):
        await serving(service, url=url).serve()


async def test_a_class_may_be_made_of_one_that_was_declared_before(
    url: str, client: AsyncClient, service: Service
) -> None:
    class Prices:
        def __init__(self, pool: Pool) -> None:
            self.pool = pool

        def price(self) -> str:
            return self.pool.name

    class Orders:
        def __init__(self, prices: Prices) -> None:
            self.prices = prices

        def place(self) -> str:
            return f"for {self.prices.price()}"

    # As globals, which hints of a constructor are looked up in.
    Orders.__init__.__annotations__["prices"] = Prices
    service.methods(Prices)
    service.methods(Orders)
    async with serving(service, url=url):
        assert await client.call(Orders.place) == "for real"  # type: ignore[call-overload]


async def test_callers_need_only_the_stub(url: str, client: AsyncClient, service: Service) -> None:
    @service.stub(name="the-price", delivery="at-least-once")
    def price(item: str, count: int = 1) -> int:
        raise NotImplementedError

    @service.implement(price)
    async def price_of(item: str, count: int = 1, *, pool: Pool = provided()) -> int:
        return len(item) * count * len(pool.name)

    async with serving(service, url=url):
        assert await client.call(price, "tea", 2) == 24
        assert await client.call(price_of, "tea") == 12
        assert await client.call(f"{service.name}.the-price", "tea") == 12
        with pytest.raises(CallError):
            await client.call(f"{service.name}.price", "tea")
