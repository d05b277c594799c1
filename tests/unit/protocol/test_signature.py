"""A signature as the contract of a call: arguments in, results out."""

from __future__ import annotations

import asyncio
import datetime
import functools
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, NoReturn

import pydantic
import pytest
from msgspec import Meta

from warren.protocol import signature as methods
from warren.protocol.codecs import JSON, MSGPACK, OCTETS, TEXT, CodecError, UnknownEncoding, ValidationError, encode
from warren.protocol.signature import DeliveryMode, Method, make_method, mark, method_of


def declare(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    delivery: DeliveryMode = "report",
    max_attempts: int = 3,
    default: bool = False,
    time_limit: float | None = None,
    concurrency: int | None = None,
) -> Method:
    return make_method(
        "calc",
        function,
        name=name,
        delivery=delivery,
        max_attempts=max_attempts,
        default=default,
        time_limit=time_limit,
        concurrency=concurrency,
        errors={},
    )


def call_through(method: Method, body: bytes, content_type: str = JSON) -> Any:
    """What the handler returns for this body."""
    args, kwargs = method.decode_arguments(content_type, body)
    return method.function(*args, **kwargs)


def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
    return n


def area(width: int, height: int = 1, *, unit: str = "cm") -> str:
    return f"{width * height} {unit}"


def greet(name: str, *, greeting: str) -> str:
    return f"{greeting}, {name}"


def nothing() -> None:
    """Takes nothing and returns nothing."""


# --- what a declaration knows -------------------------------------------------------------------------------------


def test_a_declared_function_is_found_again() -> None:
    method = declare(fib)
    mark(method)
    assert method_of(fib) is method
    assert method.full_name == "calc.fib"


def test_a_declared_function_stays_a_plain_function() -> None:
    declare(fib)
    assert fib(3) == 3


def test_a_function_that_was_not_declared_cannot_be_called_remotely() -> None:
    with pytest.raises(TypeError, match=r"decorate it with @service\.method"):
        method_of(len)


def test_a_method_may_have_another_name() -> None:
    assert declare(nothing, name="rien-2").full_name == "calc.rien-2"


def test_a_coroutine_function_is_known_to_be_one() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    assert declare(wait).is_async
    assert not declare(nothing).is_async


@pytest.mark.parametrize("name", ["a.b", "1a", "a b", "é", "<lambda>", "a\n"])
def test_a_name_that_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="method name"):
        declare(nothing, name=name)


def test_an_unknown_delivery_is_refused() -> None:
    with pytest.raises(ValueError, match="is not one of report, at-least-once, at-most-once"):
        declare(nothing, delivery="exactly-once")  # type: ignore[arg-type]


def test_no_attempts_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        declare(nothing, max_attempts=0)


def test_open_ended_arguments_are_refused() -> None:
    def positional(*args: int) -> None: ...
    def named(**kwargs: int) -> None: ...

    for function in (positional, named):
        with pytest.raises(TypeError, match="take a list or a dict instead"):
            declare(function)


def test_generators_are_refused() -> None:
    def counting() -> Iterator[int]:
        yield 1

    async def ticking() -> AsyncIterator[int]:
        yield 1

    for function in (counting, ticking):
        with pytest.raises(TypeError, match="return a list"):
            declare(function)


def test_a_hint_that_cannot_be_resolved_is_refused_at_declaration() -> None:
    def later(n: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="cannot resolve its type hints"):
        declare(later)


def test_a_hint_that_cannot_be_decoded_is_refused_at_declaration() -> None:
    def odd(x: dict[int, str] | dict[str, int]) -> None: ...

    with pytest.raises(TypeError, match=r"calc\.odd"):
        declare(odd)


@pytest.mark.parametrize("function", [nothing, lambda a, b: None])
def test_a_default_method_takes_exactly_one_argument(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="exactly one argument"):
        declare(function, name="default", default=True)


def test_a_default_method_whose_required_argument_is_keyword_only_is_refused() -> None:
    def tagged(text: str = "", *, tag: str) -> str:
        return text + tag

    with pytest.raises(TypeError, match="exactly one argument"):
        declare(tagged, default=True)


# --- encoding arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "body"),
    [
        ((2,), {}, b"[2]"),
        ((2, 3), {}, b"[2,3]"),
        ((), {"width": 2}, b'{"width":2}'),
        ((2,), {"unit": "m"}, b'{"width":2,"unit":"m"}'),
    ],
)
def test_arguments_are_an_array_unless_some_are_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], body: bytes
) -> None:
    assert declare(area).encode_arguments(JSON, args, kwargs) == body


def test_too_many_positional_arguments_are_a_type_error_as_in_a_local_call() -> None:
    with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments but 3 were given"):
        declare(area).encode_arguments(JSON, (1, 2, 3), {})


def test_an_argument_given_twice_is_a_type_error_as_in_a_local_call() -> None:
    with pytest.raises(TypeError, match="multiple values for argument 'width'"):
        declare(area).encode_arguments(JSON, (1,), {"width": 2})


def test_an_argument_that_the_encoding_cannot_carry_is_a_codec_error() -> None:
    with pytest.raises(CodecError):
        declare(area).encode_arguments(JSON, (object(),), {})


def test_a_call_by_name_takes_positional_or_named_arguments() -> None:
    assert methods.encode_arguments(JSON, (1,), {}) == b"[1]"
    assert methods.encode_arguments(JSON, (), {"n": 1}) == b'{"n":1}'
    with pytest.raises(TypeError, match="not both"):
        methods.encode_arguments(JSON, (1,), {"n": 1})


# --- decoding arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("sent", "result"),
    [
        ([2], "2 cm"),
        ([2, 3], "6 cm"),
        ({"width": 2}, "2 cm"),
        ({"width": 2, "height": 3, "unit": "m"}, "6 m"),
        ({"unit": "m", "width": 2}, "2 m"),
    ],
)
def test_arguments_arrive_by_position_and_by_name(content_type: str, sent: Any, result: str) -> None:
    assert call_through(declare(area), encode(content_type, sent), content_type) == result


def test_an_object_may_have_white_space_before_it() -> None:
    assert call_through(declare(area), b' \r\n\t{"width": 2}') == "2 cm"


def test_a_large_msgpack_map_is_read_by_name() -> None:
    def many(a: int) -> int:
        return a

    assert call_through(declare(many), b"\xde\x00\x01\xa1a\x07", MSGPACK) == 7


def test_one_request_is_read_like_the_other() -> None:
    method = declare(area)
    assert [call_through(method, b"[1]"), call_through(method, b"[2]")] == ["1 cm", "2 cm"]


def test_a_positional_only_argument_may_be_sent_by_name() -> None:
    def half(n: int, /) -> float:
        return n / 2

    assert call_through(declare(half), b'{"n": 3}') == 1.5


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b'["a"]', "^n must be an int, not a str; the signature is fib"),
        (b"[-1]", "^n must be at least 0; the signature is fib"),
        (b"[]", r"^argument 'n' is missing; the signature is fib\(n: int\)$"),
        (b"[1, 2]", r"^too many arguments; the signature is fib\(n: int\)$"),
        (b"{}", r"^argument 'n' is missing; the signature is fib\(n: int\)$"),
        (b'{"m": 1}', r"^there is no argument 'm'; the signature is fib\(n: int\)$"),
        (b'"30"', "^n must be an int, not a str;"),
        (b"null", "^n must be an int, not null;"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_argument_named(body: bytes, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        declare(fib).decode_arguments(JSON, body)


def _pay(to: str, amount: int = 1, *, note: str = "") -> None: ...


def _rest() -> None: ...


_PAY = "the signature is _pay(to: str, amount: int = 1, *, note: str = '')"


@pytest.mark.parametrize(
    ("function", "body", "complaint"),
    [
        (_pay, b"[]", f"argument 'to' is missing; {_PAY}"),
        (_pay, b'["a", 1, "b", 2]', f"too many arguments; {_PAY}"),
        (_pay, b'{"to": "a", "a`b": 1}', f"there is no argument 'a`b'; {_PAY}"),
        (_rest, b"[1]", "too many arguments; the signature is _rest()"),
        (_rest, b'{"n": 1}', "there is no argument 'n'; the signature is _rest()"),
        (
            _rest,
            b'{"timeout": 3}',
            "there is no argument 'timeout'; the signature is _rest()"
            "; options go elsewhere: client.options(timeout=…).call(…)",
        ),
    ],
)
def test_a_wrong_number_of_arguments_is_told_with_the_signature(
    function: Callable[..., Any], body: bytes, complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        declare(function).decode_arguments(JSON, body)

    assert str(caught.value) == complaint


def test_what_fits_not_inside_an_argument_is_told_as_it_is() -> None:
    def area(size: tuple[int, int]) -> int:
        return size[0] * size[1]

    with pytest.raises(ValidationError, match=r"^size must have 2 items; the signature is"):
        declare(area).decode_arguments(JSON, b"[[1]]")


def test_an_empty_body_does_not_decode() -> None:
    for content_type in (JSON, MSGPACK):
        with pytest.raises(CodecError):
            declare(fib).decode_arguments(content_type, b"")


def test_only_the_argument_is_renamed_not_the_place_inside_it() -> None:
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with pytest.raises(ValidationError, match=r"numbers\[1\]"):
        declare(total).decode_arguments(JSON, b'[[1, "a"]]')


def test_required_keyword_only_arguments_are_asked_for_by_name() -> None:
    with pytest.raises(ValidationError, match="send an object"):
        declare(greet).decode_arguments(JSON, b'["Ann"]')


def test_required_keyword_only_arguments_arrive_by_name() -> None:
    assert call_through(declare(greet), b'{"greeting": "Hi", "name": "Ann"}') == "Hi, Ann"


def test_defaults_are_the_handlers_own() -> None:
    shared: list[int] = []

    def append(n: int, to: list[int] = shared) -> list[int]:
        to.append(n)
        return to

    assert call_through(declare(append), b"[1]") is shared


def test_arguments_without_hints_are_taken_as_they_are() -> None:
    def anything(x, y=None):  # type: ignore[no-untyped-def]
        return x, y

    assert call_through(declare(anything), b'[{"a": [1]}, "b"]') == ({"a": [1]}, "b")


def test_structured_arguments_arrive_as_their_class() -> None:
    assert call_through(declare(shift), b'[{"x": 1, "y": 2}]') == Point(2, 2)


@dataclass
class Point:
    x: int
    y: int


def shift(point: Point) -> Point:
    return Point(point.x + 1, point.y)


# --- bodies that are one argument ---------------------------------------------------------------------------------


def test_text_is_the_one_argument() -> None:
    assert declare(fib).decode_arguments(TEXT, b"30") == ((30,), {})


def test_octets_are_the_one_argument() -> None:
    def size(data: bytes) -> int:
        return len(data)

    assert declare(size).decode_arguments(OCTETS, b"\x00\x01") == ((b"\x00\x01",), {})


def test_text_that_does_not_fit_the_argument_is_refused() -> None:
    with pytest.raises(ValidationError):
        declare(fib).decode_arguments(TEXT, b"many")


def test_text_fills_the_first_of_optional_arguments() -> None:
    assert declare(area).decode_arguments(TEXT, b"5") == ((5,), {})


def test_empty_text_is_no_argument_where_none_is_needed() -> None:
    assert declare(nothing).decode_arguments(TEXT, b"") == ((), {})


def test_text_for_a_method_without_arguments_is_refused() -> None:
    with pytest.raises(ValidationError, match="takes no argument"):
        declare(nothing).decode_arguments(TEXT, b"5")


def test_text_for_a_method_of_several_arguments_is_refused() -> None:
    with pytest.raises(ValidationError, match="takes named or several arguments: send them as application/json"):
        declare(greet).decode_arguments(TEXT, b"Ann")


def test_text_for_a_method_whose_one_argument_is_keyword_only_is_refused() -> None:
    def keyed(*, key: str) -> str:
        return key

    with pytest.raises(ValidationError, match="takes named or several arguments"):
        declare(keyed).decode_arguments(TEXT, b"k")


def test_text_that_leaves_a_required_keyword_only_argument_open_is_refused() -> None:
    def tagged(text: str = "", *, tag: str) -> str:
        return text + tag

    with pytest.raises(ValidationError):
        declare(tagged).decode_arguments(TEXT, b"hello")


def test_an_unknown_content_type_is_refused() -> None:
    with pytest.raises(UnknownEncoding):
        declare(fib).decode_arguments("application/xml", b"<n>1</n>")


# --- results ------------------------------------------------------------------------------------------------------


def test_a_result_is_encoded_and_decoded_as_its_annotation() -> None:
    method = declare(shift)
    body = method.encode_result(JSON, Point(1, 2))
    assert method.decode_result(JSON, body) == Point(1, 2)


def test_a_decoder_is_made_once_for_each_content_type() -> None:
    method = declare(fib)
    assert [method.decode_result(JSON, b"1"), method.decode_result(JSON, b"2")] == [1, 2]
    assert method.decode_result(MSGPACK, b"\x03") == 3


def test_a_result_that_is_not_what_was_declared_is_refused_where_it_arises() -> None:
    with pytest.raises(CodecError, match=r"^result must be an int, not a str$"):
        declare(fib).encode_result(JSON, "many")


def test_a_result_that_is_not_what_was_declared_is_refused_where_it_arrives() -> None:
    with pytest.raises(ValidationError):
        declare(fib).decode_result(JSON, b'"many"')


def test_a_result_without_annotation_is_taken_as_it_is() -> None:
    def anything():  # type: ignore[no-untyped-def]
        """Its result is not declared."""

    method = declare(anything)
    assert method.encode_result(JSON, {"a": [1]}) == b'{"a":[1]}'
    assert method.decode_result(JSON, b'{"a":[1]}') == {"a": [1]}


def test_a_method_that_returns_nothing_returns_null() -> None:
    assert declare(nothing).encode_result(JSON, None) == b"null"


def test_results_of_calls_by_name_are_decoded_without_a_type() -> None:
    assert methods.untyped_decoder(JSON)(b"[1]") == [1]
    assert methods.untyped_decoder(TEXT)(b"1") == "1"


# --- types that msgspec does not know ---------------------------------------------------------------------------------


class Parcel(pydantic.BaseModel):
    weight: int = pydantic.Field(gt=0, alias="grams")
    sent: datetime.datetime


class Opaque:
    pass


@dataclass
class Truck:
    load: list[Parcel]


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_pydantic_models_travel_as_json_and_validate_themselves(content_type: str) -> None:
    def forward(truck: Truck) -> list[Parcel]:
        return truck.load

    method = declare(forward)
    parcel = Parcel(grams=3, sent=datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC))
    loaded = call_through(method, method.encode_arguments(content_type, (Truck([parcel]),), {}), content_type)
    assert loaded == [parcel]
    assert method.decode_result(content_type, method.encode_result(content_type, loaded)) == [parcel]


def test_a_pydantic_model_says_what_it_does_not_like() -> None:
    def send(parcel: Parcel) -> None: ...

    with pytest.raises(ValidationError) as caught:
        declare(send).decode_arguments(JSON, b'[{"grams": -1}]')
    assert str(caught.value).startswith("parcel.grams: Input should be greater than 0; parcel.sent is missing; the sig")


def test_a_type_that_cannot_travel_is_refused_at_its_declaration() -> None:
    def take(things: dict[str, Opaque | None]) -> None: ...
    def give() -> tuple[int, Opaque]:
        return 1, Opaque()

    with pytest.raises(TypeError, match=r"calc.take: argument 'things': values of type Opaque cannot be sent: take a"):
        declare(take)
    with pytest.raises(TypeError, match=r"calc.give: the result: values of type Opaque cannot be sent"):
        declare(give)


def test_a_result_may_be_what_json_can_only_write() -> None:
    def count() -> OrderedDict[str, int]:
        return OrderedDict(a=1)

    def fail() -> NoReturn:
        raise RuntimeError

    assert declare(count).encode_result(JSON, OrderedDict(a=1)) == b'{"a":1}'
    assert declare(fail).result_hint is NoReturn


def test_whatever_a_validator_raises_is_a_refusal() -> None:
    def take(crate: Crate) -> None: ...

    with pytest.raises(ValidationError, match=r"^crate: KeyError\('no such crate'\);"):
        declare(take).decode_arguments(JSON, b'[{"number": 1}]')


class Crate(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def known(cls, number: int) -> int:
        raise KeyError("no such crate")


def test_abstract_types_are_met_by_what_json_has() -> None:
    def first(things: Iterable[int], anything: object) -> Iterable[int]:
        return [*things][:1]

    assert call_through(declare(first), b"[[1, 2], {}]") == [1]


def test_a_type_may_contain_itself() -> None:
    def depth(tree: Tree) -> int:
        return 1 + max(map(depth, tree.branches), default=0)

    assert call_through(declare(depth), b'[{"branches": [{"branches": []}]}]') == 2


@dataclass
class Tree:
    branches: list[Tree]


def test_what_has_no_name_is_no_method() -> None:
    with pytest.raises(TypeError, match=r"has no name; say @service\.method\(name="):
        declare(functools.partial(max, 1))


# --- what a local call would say ----------------------------------------------------------------------------------


def measured(width: int, /, height: int = 1, *, unit: str, places: int = 0) -> str:
    return f"{width * height:.{places}f} {unit}"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((), {"unit": "m"}),
        ((1, 2, 3), {"unit": "m"}),
        ((1,), {"unit": "m", "depth": 1}),
        ((1, 2), {"unit": "m", "height": 3}),
        ((), {"width": 1, "unit": "m"}),
    ],
)
def test_arguments_that_do_not_fit_raise_what_a_local_call_raises(args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError):
        measured(*args, **kwargs)
    with pytest.raises(TypeError, match=r"measured\(\) "):
        declare(measured).encode_arguments(JSON, args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {"unit": "m"}), ((1, 2), {"unit": "m", "places": 1}), ((1,), {"height": 2, "unit": "m"})],
)
def test_arguments_that_fit_are_taken(args: Any, kwargs: Any) -> None:
    method = declare(measured)
    positional, named = method.decode_arguments(JSON, method.encode_arguments(JSON, args, kwargs))
    assert measured(*positional, **named) == measured(*args, **kwargs)


# --- what may be declared -----------------------------------------------------------------------------------------


def test_a_static_method_is_the_function_in_it() -> None:
    class Maths:
        @staticmethod
        def half(n: int) -> float:
            return n / 2

    method = declare(vars(Maths)["half"])
    methods.mark(method)
    assert method_of(Maths.half) is method
    assert call_through(method, b"[3]") == 1.5


def test_what_is_bound_to_a_class_or_an_object_is_refused() -> None:
    class Maths:
        @classmethod
        def half(cls, n: int) -> float:
            return n / 2

        def third(self, n: int) -> float:
            return n / 3

    for bound in (vars(Maths)["half"], Maths.half, Maths().third):
        with pytest.raises(TypeError, match="is bound to a class or an object"):
            declare(bound, name="part")
    with pytest.raises(TypeError, match="self would be an argument to send"):
        declare(Maths.third)


@pytest.mark.parametrize("thing", [int, Tree, 7, "double"])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"is a class|is not a function"):
        declare(thing, name="thing")


def test_an_async_function_is_known_in_a_partial_and_in_an_object() -> None:
    async def wait(n: int) -> int:
        return n

    class Waiter:
        async def __call__(self, n: int) -> int:
            return n

    assert declare(functools.partial(wait), name="wait").is_async
    waiter = declare(Waiter(), name="wait")
    assert waiter.is_async
    assert waiter.decode_arguments(JSON, b"[3]") == ((3,), {})


async def test_what_a_plain_wrapper_of_an_async_function_returns_is_awaitable() -> None:
    async def wait() -> int:
        return 1

    @functools.wraps(wait)
    def wrapper() -> Any:
        return wait()

    assert not declare(wrapper).is_async
    coroutine = wrapper()
    assert methods.is_awaitable(coroutine)
    assert await coroutine == 1
    assert not any(map(methods.is_awaitable, (1, None, "a", [], wrapper)))


def test_one_function_is_one_method() -> None:
    def ping() -> str:
        return "pong"

    methods.mark(declare(ping))
    with pytest.raises(ValueError, match=r"this function is calc\.ping already"):
        methods.mark(declare(ping, name="again"))


def test_a_wrapper_of_a_method_may_be_a_method_of_its_own() -> None:
    def ping() -> str:
        return "pong"

    inner = declare(ping)
    methods.mark(inner)

    @functools.wraps(ping)
    def timed() -> str:
        return ping()

    assert method_of(timed) is inner  # a decorator above the declaration
    outer = declare(timed, name="timed")
    methods.mark(outer)
    assert (method_of(timed), method_of(ping)) == (outer, inner)


def test_a_hint_that_fails_is_refused_when_it_is_declared() -> None:
    def broken(n: "int.nothing") -> None: ...  # type: ignore[name-defined]  # noqa: UP037

    with pytest.raises(TypeError, match="cannot resolve its type hints"):
        declare(broken)


@pytest.mark.parametrize("attempts", [1.5, "3", True, None])
def test_attempts_are_a_whole_number(attempts: Any) -> None:
    with pytest.raises(TypeError, match=r"max_attempts=.* is not a whole number"):
        declare(nothing, max_attempts=attempts)


@pytest.mark.parametrize("concurrency", [0, -1])
def test_a_concurrency_that_makes_no_sense_is_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match=r"concurrency=.* must be at least 1"):
        declare(nothing, concurrency=concurrency)


def test_a_concurrency_is_a_whole_number() -> None:
    with pytest.raises(TypeError, match=r"concurrency=2\.5 is not a whole number"):
        declare(nothing, concurrency=2.5)  # type: ignore[arg-type]


def test_a_time_limit_of_another_kind_of_number_becomes_a_float() -> None:
    limit: Any = Fraction(5, 2)
    assert repr(declare(nothing, time_limit=limit).time_limit) == "2.5"


def test_a_method_is_the_default_one_or_not() -> None:
    yes: Any = "yes"
    with pytest.raises(TypeError, match="default='yes' must be True or False"):
        declare(nothing, default=yes)


@pytest.mark.parametrize("limit", ["3", True, b"3", []])
def test_a_time_limit_is_a_number(limit: Any) -> None:
    with pytest.raises(TypeError, match=r"time_limit=.* is not a number of seconds"):
        declare(nothing, time_limit=limit)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), 10**30])
def test_a_time_limit_that_makes_no_sense_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"time_limit=.* must be more than 0"):
        declare(nothing, time_limit=limit)


# --- bare peers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content_type", "body"), [(JSON, b"30"), (JSON, b" 30\n"), (MSGPACK, b"\x1e")])
def test_one_value_that_is_neither_array_nor_object_is_the_one_argument(content_type: str, body: bytes) -> None:
    assert declare(fib).decode_arguments(content_type, body) == ((30,), {})
