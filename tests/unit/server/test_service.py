"""Declaring services. Serving them is in tests/contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from warren import InvalidArgument, Server, Service
from warren.protocol.content import MAX_MESSAGE_SIZE
from warren.protocol.signature import method_of

Double = Callable[[int], int]
Triple = Callable[[int], Awaitable[int]]


@pytest.fixture
def service() -> Service:
    return Service("calc")


@pytest.fixture
def double() -> Callable[[int], int]:
    def double(n: int) -> int:
        return 2 * n

    return double


@pytest.fixture
def triple() -> Callable[[int], Awaitable[int]]:
    async def triple(n: int) -> int:
        return 3 * n

    return triple


def test_a_decorated_function_is_a_method_and_stays_a_function(service: Service) -> None:
    @service.method
    def half(n: int) -> float:
        """Half of it."""
        return n / 2

    assert half(3) == 1.5
    assert half.__doc__ == "Half of it."
    assert service.methods["half"] is method_of(half)


def test_a_method_takes_options(service: Service, double: Double) -> None:
    service.method(name="twice", delivery="at-least-once", max_attempts=5)(double)
    method = service.methods["twice"]
    assert (method.full_name, method.delivery, method.max_attempts) == ("calc.twice", "at-least-once", 5)


def test_a_method_reports_a_lost_worker_unless_said_otherwise(service: Service, double: Double) -> None:
    service.method(double)
    assert (service.methods["double"].delivery, service.methods["double"].max_attempts) == ("report", 3)


def test_one_method_may_be_the_default(service: Service, double: Double) -> None:
    service.method(default=True)(double)
    assert service.default is method_of(double)


def test_no_method_is_the_default_by_itself(service: Service, double: Double) -> None:
    service.method(double)
    assert service.default is None


def test_two_default_methods_are_refused(service: Service, double: Double, triple: Triple) -> None:
    service.method(default=True)(double)
    with pytest.raises(ValueError, match="two default methods: double and triple"):
        service.method(default=True)(triple)


def test_a_name_can_be_declared_once(service: Service, double: Double, triple: Triple) -> None:
    service.method(double)
    with pytest.raises(ValueError, match=r"calc\.double is declared twice"):
        service.method(name="double")(triple)


def test_a_refused_declaration_leaves_the_function_as_it_was(service: Service) -> None:
    @service.method
    def one(n: int) -> int:
        return n

    before = method_of(one)
    with pytest.raises(ValueError):
        service.method(delivery="at-most-once")(one)
    assert method_of(one) is before


@pytest.mark.parametrize("function", [[].append, len], ids=["bound method", "builtin"])
def test_a_function_that_cannot_be_marked_is_a_type_error(service: Service, function: Any) -> None:
    with pytest.raises(TypeError):
        service.method(function)


def test_methods_know_the_services_errors(double: Double) -> None:
    service = Service("calc", errors=[KeyError, InvalidArgument])
    service.method(double)
    assert service.methods["double"].errors == {"KeyError": KeyError, "InvalidArgument": InvalidArgument}


def test_a_service_shows_its_name_and_methods(service: Service, double: Double, triple: Triple) -> None:
    service.method(triple)
    service.method(double)
    assert repr(service) == "Service('calc', methods=['double', 'triple'])"


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["calc", "a", "_x", "7", "shop.orders", "a-b_c.d", "a" * 200])
def test_a_name_of_letters_digits_and_a_few_signs_is_good(name: str) -> None:
    assert Service(name).name == name


@pytest.mark.parametrize(
    "name", ["", "a b", "é", "-a", ".a", "a/b", "a\n", "amq.gen", "warren.x", "calc.dead", "a" * 201]
)
def test_a_name_that_would_get_in_the_way_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="service name"):
        Service(name)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"queue": "stream"}, "must be 'classic' or 'quorum'"),
        ({"concurrency": 0}, "concurrency=0 must be at least 1"),
        ({"concurrency": 65_536}, "at most 65,535"),
        ({"max_length": 0}, "max_length=0 must be at least 1"),
        ({"max_length": 2**31}, "at most 2,147,483,647"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Service("calc", **options)


@pytest.mark.parametrize("value", ["3", 2.5, float("nan"), True, b"3", []])
@pytest.mark.parametrize("option", ["concurrency", "max_length", "max_message_size"])
def test_a_limit_that_is_no_whole_number_is_refused(option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option}=.* is not a whole number: say for example {option}="):
        Service("calc", **{option: value})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"tracebacks": "no"}, "tracebacks='no' must be True or False"),
        ({"declare": 0}, "declare=0 must be True or False"),
        ({"errors": ValueError}, "is not a list of exception classes"),
        ({"errors": None}, "is not a list of exception classes"),
        ({"middleware": lambda call, proceed: proceed()}, "is not a list of async functions"),
        ({"middleware": [3]}, "is not a list of async functions"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        Service("calc", **options)


@pytest.mark.parametrize("name", [3, None, b"calc"])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        Service(name)


@pytest.mark.parametrize("size", [0, -1])
def test_a_message_size_that_lets_nothing_through_is_refused(size: int) -> None:
    with pytest.raises(ValueError):
        Service("calc", max_message_size=size)


def test_a_service_has_sensible_defaults(service: Service) -> None:
    assert (service.queue, service.max_length, service.errors, service.middleware) == ("classic", None, {}, ())
    assert (service.tracebacks, service.declare, service.max_message_size) == (False, True, MAX_MESSAGE_SIZE)


def test_a_service_keeps_its_options() -> None:
    async def layer(_call: object, _proceed: object) -> None:
        """Is never called here."""

    service = Service(
        "calc",
        queue="quorum",
        max_length=10,
        middleware=[layer],
        tracebacks=True,
        declare=False,
        max_message_size=9,
    )
    assert (service.queue, service.max_length, service.middleware) == ("quorum", 10, (layer,))
    assert (service.tracebacks, service.declare, service.max_message_size) == (True, False, 9)


def test_coroutines_run_a_hundred_at_a_time(service: Service, triple: Triple) -> None:
    service.method(triple)
    assert service.concurrency == 100


def test_one_function_that_needs_a_thread_makes_it_fewer(service: Service, double: Double, triple: Triple) -> None:
    service.method(triple)
    service.method(double)
    assert service.concurrency == 32


@pytest.mark.parametrize("concurrency", [1, 65_535])
def test_the_concurrency_is_what_is_asked_for(concurrency: int) -> None:
    assert Service("calc", concurrency=concurrency).concurrency == concurrency


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Service(3), "service name=3 must be a str, not int"),  # type: ignore[arg-type]
        (lambda: Service("calc", concurrency="3"), "concurrency='3' is not a whole number"),  # type: ignore[arg-type]
        (lambda: Service("calc", max_length=1e3), "max_length=1000.0 is not a whole number"),  # type: ignore[arg-type]
    ],
)
def test_an_option_of_another_type_is_told_as_one(make: Callable[[], Service], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        make()


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_drain_takes_no_less_than_no_time(service: Service, double: Double, seconds: float) -> None:
    service.method(double)

    with pytest.raises(ValueError, match="drain_timeout="):
        Server(service, drain_timeout=seconds)


def test_a_name_in_place_of_the_function_is_told_where_it_belongs() -> None:
    with pytest.raises(TypeError, match=r"say @service\.method\(name='other'\)"):
        Service("calc").method("other")  # type: ignore[call-overload]
