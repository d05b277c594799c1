"""Declaring what a handler needs beside its arguments: what is refused, and when. Providing it is in tests/contract."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypedDict, TypeVar

import pytest
from msgspec import Meta, Struct

from warren import CurrentCall, Service, provided
from warren.server.supplies import finder, yielded_type

T = TypeVar("T")


class Pool:
    pass


class BigPool(Pool):
    pass


@dataclass
class State:
    pool: Pool
    names: list[str]


@pytest.fixture
def service() -> Service:
    return Service("calc")


async def lifespan_of_states() -> AsyncIterator[State]:
    yield State(Pool(), [])


Needy = Callable[..., str]


@pytest.fixture
def needs_pool() -> Needy:
    def needs_pool(item: str, pool: Pool = provided()) -> str:
        return item

    return needs_pool


@pytest.fixture
def needs_number() -> Needy:
    def needs_number(item: str, number: int = provided()) -> str:
        return item

    return needs_number


# --- the function stays a function --------------------------------------------------------------------------------


def test_a_method_is_still_called_directly_with_what_it_needs(service: Service, needs_pool: Needy) -> None:
    assert service.method(needs_pool)("tea", pool=Pool()) == "tea"
    assert service.methods["needs_pool"].declared is needs_pool


def test_a_direct_call_that_lacks_it_says_so_where_it_is_used(service: Service) -> None:
    @service.method
    def length(names: list[str] = provided()) -> int:
        return names.index("x")

    with pytest.raises(TypeError, match=r"provided\(\) was not given: pass it when you call the function yourself"):
        length()


def test_a_method_without_needs_is_run_as_it_is(service: Service) -> None:
    @service.method
    def double(n: int) -> int:
        return 2 * n

    assert service.methods["double"].function is double


def test_a_function_with_needs_can_be_declared_once(service: Service, needs_pool: Needy) -> None:
    service.method(needs_pool)
    with pytest.raises(ValueError, match=r"is calc\.needs_pool already"):
        service.method(name="other")(needs_pool)


# --- what is refused when it is declared --------------------------------------------------------------------------


def test_a_lifespan_that_does_not_yield_what_a_method_needs_is_refused(service: Service, needs_number: Needy) -> None:
    service.method(needs_number)
    with pytest.raises(TypeError, match=r"calc\.needs_number: what the lifespan .* has none of type int; it has pool"):
        service.lifespan(lifespan_of_states)


def test_a_method_that_needs_what_the_lifespan_does_not_yield_is_refused_and_not_declared(
    service: Service, needs_pool: Needy, needs_number: Needy
) -> None:
    service.lifespan(lifespan_of_states)
    service.method(needs_pool)
    with pytest.raises(TypeError, match="none of type int"):
        service.method(needs_number)
    assert sorted(service.methods) == ["needs_pool"]


def test_what_functions_need_is_looked_for_too(service: Service) -> None:
    def double(number: int) -> str:
        return str(number)

    service.lifespan(lifespan_of_states)
    with pytest.raises(TypeError, match="none of type int"):

        @service.method
        def run(doubled: str = provided(double)) -> str:
            return doubled


def test_a_need_without_a_type_is_refused(service: Service) -> None:
    with pytest.raises(TypeError, match=r"calc\.run: say of which type 'pool' is"):

        @service.method
        def run(pool=provided()):  # type: ignore[no-untyped-def]  # that is what is wrong with it
            return pool


async def on_loop() -> str:
    return ""


async def generator_on_loop() -> AsyncIterator[str]:
    yield ""


def through_another(text: str = provided(on_loop)) -> str:
    return text


@pytest.mark.parametrize("function", [on_loop, generator_on_loop, through_another])
def test_a_def_cannot_need_what_needs_the_event_loop(service: Service, function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"calc\.run is a `def`, .* needs the event loop"):

        @service.method
        def run(text: str = provided(function)) -> str:
            return text


@pytest.mark.parametrize("what", [Pool, 3, "text"])
def test_only_functions_provide(what: Any) -> None:
    with pytest.raises(TypeError, match="give it a function"):
        provided(what)


@pytest.mark.parametrize("function", [lambda *args: args, lambda **kwargs: kwargs, lambda x, /: x])
def test_a_function_whose_parameters_cannot_be_named_does_not_provide(
    service: Service, function: Callable[..., Any]
) -> None:
    with pytest.raises(TypeError, match="cannot be provided"):

        @service.method
        def run(text: str = provided(function)) -> str:
            return text


# --- the lifespan -------------------------------------------------------------------------------------------------


async def with_parameters(url: str) -> AsyncIterator[str]:
    yield url


async def a_coroutine() -> None: ...


def a_generator() -> Iterator[None]:
    yield


@pytest.mark.parametrize("wrong", [with_parameters, a_coroutine, a_generator, 3, None])
def test_what_is_no_lifespan_is_refused(service: Service, wrong: Any) -> None:
    with pytest.raises(TypeError, match="lifespan"):
        service.lifespan(wrong)


def test_a_service_has_one_lifespan(service: Service) -> None:
    service.lifespan(lifespan_of_states)
    with pytest.raises(ValueError, match="has a lifespan already"):
        service.lifespan(asynccontextmanager(lifespan_of_states))


# --- by type ------------------------------------------------------------------------------------------------------


class Two(NamedTuple):
    one: Pool
    other: Pool


class Keyed(TypedDict):
    pool: Pool
    text: str


class Mixed(Struct):
    pool: Pool
    big: BigPool
    text: Annotated[str, Meta(min_length=1)]


@dataclass
class Holder(Generic[T]):
    pool: Pool
    other: T


class Named(Protocol):
    name: str


@pytest.mark.parametrize(
    ("wanted", "state", "found"),
    [
        (State, State(Pool(), []), lambda state: state),
        (Pool, State(Pool(), []), lambda state: state.pool),
        (list[str], State(Pool(), ["x"]), lambda state: state.names),
        (Pool, Mixed(Pool(), BigPool(), "x"), lambda state: state.pool),
        (BigPool, Mixed(Pool(), BigPool(), "x"), lambda state: state.big),
        (Annotated[str, Meta(min_length=1)], Mixed(Pool(), BigPool(), "x"), lambda state: state.text),
        (Pool, BigPool(), lambda state: state),
        (object, object(), lambda state: state),
    ],
)
def test_a_type_is_found_as_the_thing_itself_or_as_a_field(wanted: Any, state: Any, found: Any) -> None:
    assert finder(wanted, type(state))(state) is found(state)


def test_a_type_is_found_in_a_typed_dict() -> None:
    state = Keyed(pool=Pool(), text="x")
    assert finder(Pool, Keyed)(state) is state["pool"]


def test_a_type_is_found_in_a_generic_class() -> None:
    state = Holder[int](Pool(), 1)
    assert finder(Pool, Holder[int])(state) is state.pool


@pytest.mark.parametrize(
    ("wanted", "state", "complaint"),
    [
        (Pool, Two, "Two has several of type Pool: one, other"),
        (BigPool, Two, "Two has none of type BigPool; it has one: Pool, other: Pool"),
        (Pool, int, "int has none of type Pool; it has no declared fields"),
        (Named, State, "State has none of type Named"),
        (list[int], State, r"State has none of type list\[int\]"),
    ],
)
def test_what_is_not_there_once_is_not_found(wanted: Any, state: Any, complaint: str) -> None:
    with pytest.raises(LookupError, match=complaint):
        finder(wanted, state)


async def says_nothing():  # type: ignore[no-untyped-def]  # that is the case
    yield


async def says_any() -> AsyncIterator[Any]:
    yield


@pytest.mark.parametrize(
    ("lifespan", "expected"),
    [
        (lifespan_of_states, State),
        (asynccontextmanager(lifespan_of_states), State),
        (says_nothing, None),
        (says_any, None),
    ],
)
def test_the_type_that_is_yielded_is_read_from_the_annotation(lifespan: Any, expected: Any) -> None:
    assert yielded_type(lifespan) is expected


# --- in place of others -------------------------------------------------------------------------------------------


def plain_text(pool: Pool) -> str:
    return "plain"


@pytest.fixture
def with_needs(service: Service) -> Service:
    @service.method
    async def run(text: str = provided(plain_text), call: CurrentCall = provided()) -> str:
        return text

    return service


@pytest.mark.parametrize("what", [int, on_loop, "Pool", lifespan_of_states, None])
def test_nothing_replaces_what_nobody_needs(with_needs: Service, what: Any) -> None:
    with pytest.raises(ValueError, match="nothing in service 'calc' depends on"), with_needs.override(what, 3):
        pass


def test_a_plain_function_is_replaced_by_a_plain_one(with_needs: Service) -> None:
    with pytest.raises(TypeError, match="put a plain one in its place"), with_needs.override(plain_text, on_loop):
        pass


def test_a_function_is_not_replaced_by_one_that_needs_it(with_needs: Service) -> None:
    def around(text: str = provided(plain_text)) -> str:
        return text

    refused = pytest.raises(TypeError, match="replaced by a function that needs it")
    with refused, with_needs.override(plain_text, around):
        pass
    with with_needs.override(plain_text, partial(lambda text: text, "other")):  # what was refused left nothing behind
        pass


def test_what_travels_is_the_signature_without_what_is_needed(service: Service, needs_pool: Needy) -> None:
    service.method(needs_pool)
    assert str(inspect.signature(service.methods["needs_pool"].function)) == "(item: 'str') -> 'str'"
