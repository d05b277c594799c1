"""Options of calls and clients: what is refused, and how long a call may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec
from tests.support.messages import properties_of

from warren import AsyncClient, Client, Service
from warren.checks import CALL_OPTIONS
from warren.client.calls import PendingCall
from warren.client.options import LEAST_RESERVED, MOST_RESERVED, Options, nested_deadline
from warren.client.requests import Requests, Target
from warren.client.target import Targets, bare_target, encode_bare, encode_call, find_target, with_own
from warren.protocol.problems import registry
from warren.protocol.running import reset_running, set_running

CLIENTS: list[type[Client] | type[AsyncClient]] = [Client, AsyncClient]


@dataclass
class Serving:
    """A call that is being served, or was."""

    deadline: float | None
    ended: bool = False
    service: str = "calc"
    root_id: str | None = None

    def on_cancelled(self, callback: Callable[[], None]) -> Callable[[], None]:
        return callback


@contextmanager
def inside(call: Serving) -> Iterator[None]:
    token = set_running(call)
    try:
        yield
    finally:
        reset_running(token)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("timeout", [None, "3", True, [], object()])
def test_a_timeout_that_is_no_number_is_a_type_error_that_says_what_to_say(client: Any, timeout: Any) -> None:
    with pytest.raises(TypeError, match=r"number of seconds: say for example timeout=2\.5"):
        client(timeout=timeout)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 2_000_001])
def test_a_timeout_out_of_range_is_a_value_error_with_the_range(client: Any, timeout: Any) -> None:
    with pytest.raises(ValueError, match="more than 0 and at most 2,000,000"):
        client(timeout=timeout)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ({"max_in_flight": "x"}, "max_in_flight='x' is not a whole number"),
        ({"max_in_flight": True}, "max_in_flight=True is not a whole number"),
        ({"max_message_size": 1.5}, "max_message_size=1.5 is not a whole number"),
        ({"send_user": "yes"}, "send_user='yes' must be True or False"),
        ({"errors": ValueError}, "list of exception classes"),
        ({"errors": 5}, "list of exception classes"),
        ({"errors": [5]}, "errors: 5 is not an exception class"),
        ({"errors": [KeyboardInterrupt]}, "is not an exception class"),
    ],
)
def test_an_option_of_the_wrong_type_is_a_type_error_with_its_name(
    client: Any, option: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        client(**option)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "option", [{"max_in_flight": 0}, {"reply": "x"}, {"reply": []}, {"encoding": "xml"}, {"encoding": []}]
)
def test_an_option_with_a_wrong_value_is_a_value_error_with_its_name(client: Any, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        client(**option)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ({"timeout": "3"}, "number of seconds"),
        ({"fail_fast": "no"}, "fail_fast='no' must be True or False"),
        ({"resend": 1}, "resend=1 must be True or False"),
        ({"detached": "x"}, "detached='x' must be True or False"),
        ({"headers": 5}, "not a mapping"),
        ({"headers": [("a", 1)]}, "not a mapping"),
        ({"headers": {5: 1}}, "header names must be str, not 5"),
    ],
)
def test_an_option_of_a_call_of_the_wrong_type_is_a_type_error(option: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        Options().with_given(**option)


def test_two_exception_classes_of_one_name_are_refused() -> None:
    other = type("KeyError", (Exception,), {})
    with pytest.raises(ValueError, match="have one name on the wire, KeyError"):
        registry([KeyError, other])
    assert registry([KeyError, KeyError]) == {"KeyError": KeyError}


def test_headers_are_copied_so_that_what_was_checked_is_what_is_sent() -> None:
    headers = {"tenant": "a"}
    options = Options(headers=headers)
    headers["rpc-v"] = "2"
    assert options.headers == {"tenant": "a"}


def test_a_timeout_of_another_kind_of_number_becomes_a_float() -> None:
    timeout: Any = Fraction(5, 2)
    assert repr(Options(timeout=timeout).timeout) == "2.5"


@pytest.mark.parametrize("body", [5, None, [1], {}])
def test_a_bare_body_is_bytes_or_text_and_nothing_else(body: Any) -> None:
    with pytest.raises(TypeError, match="a bare body must be bytes or str"):
        encode_bare(body)


def test_a_bare_call_names_its_queue() -> None:
    with pytest.raises(TypeError, match="5 is not the name of a queue"):
        bare_target(Options(), 5)


# --- options among the arguments ----------------------------------------------------------------------------------

calc = Service("calc")


@calc.method
def fib(n: int) -> int:
    return n


@calc.method
def wait(timeout: float) -> float:
    return timeout


def test_the_options_that_are_told_apart_are_those_that_there_are() -> None:
    assert {option.name for option in fields(Options) if option.init} - {"named"} == set(CALL_OPTIONS)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "verb", "meant"),
    [
        (fib, (3,), {"timeout": 3}, "call", "client.options(timeout=3).call(fib, 3)"),
        (fib, (), {"n": 3, "fail_fast": True}, "cast", "client.options(fail_fast=True).cast(fib, n=3)"),
        (fib, (3,), {"headers": {"a": 1}}, "submit", "client.options(headers=…).submit(fib, 3)"),
        (wait, (3,), {"resend": True}, "call", "client.options(resend=True).call(wait, 3)"),
        (wait, (), {"timeout": 3, "resend": True}, "call", "client.options(resend=True).call(wait, timeout=3)"),
        ("calc.fib", ("a",), {"timeout": 3}, "call", "client.options(timeout=3).call('calc.fib', …)"),
    ],
)
def test_an_option_among_the_arguments_is_told_where_it_belongs(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], verb: str, meant: str
) -> None:
    target = find_target(Targets(), Options(), "cast" if verb == "cast" else "call", function)
    with pytest.raises(TypeError) as caught:
        encode_call(target, args, kwargs, verb)
    assert str(caught.value).endswith(f"; options go elsewhere: {meant}")


@pytest.mark.parametrize("verb", ["gather", "broadcast"])
async def test_an_option_of_what_all_instances_are_asked_is_told_with_what_was_called(verb: str) -> None:
    @calc.method(name=f"{verb}-price", broadcast=True)
    def price(item: str) -> float:
        return 1.0

    for client in (Client(), AsyncClient()):
        with pytest.raises(TypeError, match=rf"client\.options\(expect=3\)\.{verb}\({verb}-price, …\)$"):
            await getattr(client, verb)(price, "tea", expect=3)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("in_flight", "client.map(…, in_flight=…)"),
        ("returns", "client.call('service.method', …, returns=…), which is for calls by name"),
    ],
)
def test_what_is_no_argument_of_any_call_is_told_where_it_belongs(name: str, place: str) -> None:
    target = find_target(Targets(), Options(), "call", fib)
    with pytest.raises(TypeError) as caught:
        encode_call(target, (3,), {name: 3})
    assert str(caught.value).endswith(f"; {name} goes elsewhere: {place}")


@pytest.mark.parametrize(("function", "kwargs"), [(fib, {"m": 3}), (wait, {"timeout": 1, "n": 2}), (wait, {})])
def test_other_wrong_arguments_are_no_options(function: Any, kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as caught:
        encode_call(find_target(Targets(), Options(), "call", function), (), kwargs)
    assert "options" not in str(caught.value)


# --- deadlines ----------------------------------------------------------------------------------------------------


def test_outside_a_handler_the_timeout_alone_counts() -> None:
    assert nested_deadline(None, 100.0) is None
    assert Options(timeout=5).deadline() == pytest.approx(time.monotonic() + 5, abs=1)


def test_a_nested_call_ends_a_little_before_its_callers() -> None:
    assert nested_deadline(Serving(deadline=110.0), 100.0) == pytest.approx(109.5)


@given(left=st.floats(0.0, 1e6), now=st.floats(0.0, 1e6))
def test_the_callers_share_is_never_more_than_half_and_otherwise_within_its_bounds(left: float, now: float) -> None:
    limit = nested_deadline(Serving(deadline=now + left), now)
    assert limit is not None
    reserved = now + left - limit
    assert -1e-6 <= reserved <= min(left / 2, MOST_RESERVED) + 1e-6
    assert reserved >= min(left / 2, LEAST_RESERVED) - 1e-6


def test_when_no_time_is_left_the_deadline_is_the_callers() -> None:
    assert nested_deadline(Serving(deadline=99.0), 100.0) == 99.0


def test_a_call_without_a_deadline_limits_nothing() -> None:
    assert nested_deadline(Serving(deadline=None), 100.0) is None


def test_a_call_that_has_ended_limits_nothing() -> None:
    assert nested_deadline(Serving(deadline=101.0, ended=True), 100.0) is None


def test_inside_a_handler_the_earlier_deadline_counts() -> None:
    with inside(Serving(deadline=time.monotonic() + 2)):
        assert Options(timeout=30).deadline() < time.monotonic() + 2
        assert Options(timeout=0.5).deadline() < time.monotonic() + 1


def test_a_detached_call_has_its_own_time_also_when_its_callers_is_over() -> None:
    with inside(Serving(deadline=time.monotonic() - 1)):
        assert Options(timeout=30).deadline() < time.monotonic()
        assert Options(timeout=30, detached=True).deadline() > time.monotonic() + 20


def test_a_cast_inherits_no_deadline() -> None:
    with inside(Serving(deadline=time.monotonic() - 1)):
        assert Options(timeout=30).own_deadline() > time.monotonic() + 20


# --- what views share ---------------------------------------------------------------------------------------------


def test_requests_that_differ_in_their_headers_share_what_is_prepared() -> None:
    known = Targets()
    usual = find_target(known, Options(), "call", fib)
    tagged, other = (find_target(Targets(known), Options(headers={"tag": tag}), "call", fib) for tag in ("a", "b"))
    assert usual.templates is tagged.templates is other.templates
    assert (usual.headers, tagged.headers, other.headers) == (None, {"tag": "a"}, {"tag": "b"})
    assert len(known) == 1


def test_views_share_what_is_prepared_unless_their_options_change_it() -> None:
    client = AsyncClient("amqp://nobody")
    assert client.options(timeout=1)._targets is client._targets
    assert client.options(headers={"a": 1})._targets.usual is client._targets
    assert client.options(fail_fast=True)._targets is not client._targets
    assert client.options(fail_fast=True)._targets is client.options(fail_fast=True)._targets


@pytest.mark.parametrize("kind", ["call", "cast"])
def test_headers_of_a_client_come_before_those_of_one_request(kind: Literal["call", "cast"]) -> None:
    usual = find_target(Targets(), Options(headers={"of": "view"}), kind, fib)
    own = with_own(usual, {"of": "view", "own": 1}, b"first")
    assert [*written(usual).headers] == [*_COMMON[kind], "of"]
    assert [*written(own).headers] == [*_COMMON[kind], "of", "own"]
    assert written(own).message_id == "first"


def test_a_header_that_a_request_has_otherwise_than_its_client_is_written_once() -> None:
    usual = find_target(Targets(), Options(headers={"a": 1, "b": 2}), "call", fib)
    headers = written(with_own(usual, {"a": 3}, None)).headers
    assert headers["a"] == 3
    assert [*headers] == [*_COMMON["call"], "a"]


def test_the_headers_of_a_client_and_of_one_request_have_one_limit() -> None:
    usual = find_target(Targets(), Options(headers={"a": "x" * 2000}), "call", fib)
    with pytest.raises(ValueError, match="more than 3000 bytes"):
        with_own(usual, {"a": "x" * 2000, "b": "x" * 1000}, None)


_COMMON = {"call": ("rpc-v", "rpc-timeout-ms", "rpc-deadline", "CC", "rpc-lean"), "cast": ("rpc-v",)}


def written(target: Target) -> spec.BasicProperties:
    """A request's properties, as another library reads them."""
    requests = Requests(app_id=None, user_id=None, durable=False)
    requests.reply_to = b"q"
    call = PendingCall(b"id", 30.0, _Nobody(), target, target.kind == "call")
    return properties_of(requests.properties(call, 2, 30.0, 1e9, lean=False))


class _Nobody:
    def finish(self, outcome: object) -> None: ...
