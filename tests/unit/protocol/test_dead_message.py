"""What is kept with a dead request: written, read, and taken off again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec
from tests.support import pika_frames
from tests.support.messages import warren_request

from warren.amqp.frames import Delivery, decode_properties, encode_properties
from warren.amqp.tables import decode_table
from warren.errors import Code, Execution, Origin, RemoteError, Unavailable, make_error
from warren.protocol import codecs
from warren.protocol.dead_message import Death, dead_properties, retry_properties
from warren.protocol.request import Request

NOON = datetime(2026, 1, 2, 12, 0, 0, 5000, UTC)
POISON = Death(reason="POISON")
FULL = Death("HANDLER_EXCEPTION", "UNKNOWN", "EXECUTED", "handler", "KeyError", "no such user", NOON, "calc-1", 2)


def request_with(**properties: Any) -> Request:
    """A request as another client, writing through Pika, would send it."""
    return read(pika_frames.properties(spec.BasicProperties(**properties)))


def read(properties: bytes) -> Request:
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = properties
    delivery.body = b""
    return Request(delivery)


def set_aside(request: Request, death: Death = POISON, room: int = 4000) -> spec.BasicProperties:
    return pika_frames.decode_properties(dead_properties(request, death, server_user="server", room=room))


def retried(request: Request) -> spec.BasicProperties:
    return pika_frames.decode_properties(retry_properties(request, user="ops"))


# --- set aside ----------------------------------------------------------------------------------------------------


def test_a_request_set_aside_waits_without_limit_and_asks_for_no_bounce() -> None:
    p = set_aside(warren_request(headers={"tenant": "a"}))
    assert (p.expiration, p.delivery_mode, p.correlation_id, p.reply_to) == (None, 2, "p.1", "amq.gen-1")
    assert (p.headers["rpc-dead-reason"], p.headers["tenant"], "CC" in p.headers) == ("POISON", "a", False)


def test_a_bare_request_can_be_set_aside() -> None:
    assert set_aside(request_with()).headers == {"rpc-dead-reason": "POISON"}


def test_what_is_kept_is_read_again() -> None:
    assert Death.read(set_aside(warren_request(), FULL).headers) == FULL


def test_a_death_tells_what_its_error_tells() -> None:
    error = RemoteError("KeyError: no such user")
    death = Death.of(error, type="KeyError", at=NOON.timestamp(), instance="calc-1", attempt=2)
    assert death == Death(
        "HANDLER_EXCEPTION", "UNKNOWN", "EXECUTED", "handler", "KeyError", "KeyError: no such user", NOON, "calc-1", 2
    )
    evidence = {"execution": Execution.NOT_EXECUTED, "origin": Origin.SERVER}
    refused = make_error(Code.INVALID_ARGUMENT, "VALIDATION", "n", **evidence)
    assert Death.of(refused, at=0, instance="", attempt=1).type == "InvalidArgument"


def test_a_second_death_leaves_nothing_of_the_first() -> None:
    former = {f"rpc-dead-{name}": "former" for name in ("reason", "text", "type", "what-is-yet-to-come")}
    brokers = {"x-death": [], "x-first-death-reason": "expired", "x-last-death-queue": "calc"}
    p = set_aside(request_with(headers={"tenant": "a"} | former | brokers))
    assert p.headers == {"tenant": "a", "rpc-dead-reason": "POISON"}


def test_the_request_itself_stays_as_it_is() -> None:
    request = warren_request(user_id="bob")
    before = encode_properties(request.properties)
    assert set_aside(request) == set_aside(request)
    assert encode_properties(request.properties) == before


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_request_set_aside_says_in_a_header_whose_it_was(attempt: int) -> None:
    again = read(warren_request(user_id="bob").next_attempt(budget=None, attempt=attempt, server_user="server"))
    p = set_aside(again)
    assert (p.user_id, p.headers["rpc-user"]) == (None, "bob")


def test_long_words_are_cut() -> None:
    error = Unavailable("x" * 100_000, reason="R" * 100_000)
    death = Death.read(set_aside(request_with(), Death.of(error, at=0, instance="i" * 9999, attempt=1)).headers)
    assert [len(word or "") for word in (death.text, death.reason, death.instance)] == [1000, 200, 200]


def test_text_that_utf8_cannot_carry_is_kept_as_far_as_it_goes() -> None:
    death = Death.of(Unavailable("file \udcff\x00\x1b"), at=0, instance="", attempt=1)
    assert Death.read(set_aside(request_with(), death).headers).text == "file ?\x00\x1b"


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (2000, {"tenant", "rpc-dead-reason", "rpc-dead-type", "rpc-dead-text"}),
        (1500, {"tenant", "rpc-dead-reason", "rpc-dead-type"}),
        (1150, {"tenant", "rpc-dead-reason"}),
        (1000, {"rpc-dead-reason"}),
        (10, {"rpc-dead-reason"}),
    ],
)
def test_what_does_not_fit_is_left_out_and_the_reason_last(room: int, kept: set[str]) -> None:
    death = Death("POISON", type="T" * 200, text="t" * 600)
    p = set_aside(request_with(message_id="m", headers={"tenant": "a" * 1000}), death, room)
    assert (set(p.headers), p.message_id) == (kept, "m")


def test_headers_that_are_no_table_are_left_out() -> None:
    request = request_with(message_id="m")
    request.properties.table = b"\x04when?"
    assert set_aside(request).headers == {"rpc-dead-reason": "POISON"}


# --- read ---------------------------------------------------------------------------------------------------------


def test_the_workers_reason_is_said_before_the_brokers() -> None:
    both = {"rpc-dead-reason": "POISON", "x-first-death-reason": "expired"}
    assert Death.read(both).reason == "POISON"
    assert Death.read({"x-first-death-reason": "expired"}).reason == "expired"
    assert Death.read({}) == Death()


@pytest.mark.parametrize("deaths", [None, [], "x", ["x"], [{}], [{"time": 7}]])
def test_when_the_broker_gave_it_up_is_not_known_without_its_word(deaths: Any) -> None:
    assert Death.read({"x-death": deaths}).at is None


@pytest.mark.parametrize("zone", [None, UTC])
def test_when_the_broker_gave_it_up_is_told_in_utc(zone: Any) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=zone)
    assert Death.read({"x-death": [{"time": moment}]}).at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


claims = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(), st.lists(st.integers()))


@given(st.dictionaries(st.sampled_from(["reason", "code", "text", "at", "attempt", "instance"]), claims))
def test_whatever_the_headers_claim_is_read(claimed: dict[str, Any]) -> None:
    death = Death.read({"rpc-dead-reason": "R"} | {f"rpc-dead-{name}": value for name, value in claimed.items()})
    assert death.at is None or death.at.tzinfo is UTC
    assert death.attempt is None or type(death.attempt) is int
    assert all(word is None or type(word) is str for word in (death.reason, death.code, death.text, death.instance))


# --- tried again --------------------------------------------------------------------------------------------------


def test_a_retried_request_is_a_cast_without_its_past_its_limit_and_its_caller() -> None:
    aside = read(dead_properties(warren_request(headers={"tenant": "a"}), FULL, server_user="server", room=4000))
    p = retried(aside)
    assert p.headers == {"rpc-v": 1, "tenant": "a"}
    assert (p.reply_to, p.expiration, p.delivery_mode, p.user_id) == (None, None, 2, None)
    assert (p.message_id, p.correlation_id, p.type, p.content_type) == ("p.1", "p.1", "fib", codecs.JSON)


def test_what_the_broker_wrote_is_gone_after_a_retry_too() -> None:
    brokers = {"x-death": [], "x-first-death-reason": "expired", "rpc-attempt": 3, "CC": ["r"], "tenant": "a"}
    assert retried(request_with(headers=brokers)).headers == {"tenant": "a"}


@pytest.mark.parametrize("given", [{"user_id": "bob"}, {"headers": {"rpc-user": "bob"}}])
def test_a_retried_request_that_named_a_user_names_the_one_who_publishes_it(given: dict[str, Any]) -> None:
    p = retried(request_with(**given))
    assert (p.user_id, p.headers) == ("ops", None)


def test_the_headers_of_a_death_are_what_the_wire_says() -> None:
    encoded = dead_properties(request_with(), FULL, server_user="server", room=4000)
    assert decode_table(decode_properties(encoded).table or b"") == {
        "rpc-dead-reason": "HANDLER_EXCEPTION",
        "rpc-dead-code": "UNKNOWN",
        "rpc-dead-executed": "EXECUTED",
        "rpc-dead-origin": "handler",
        "rpc-dead-type": "KeyError",
        "rpc-dead-text": "no such user",
        "rpc-dead-at": 1767355200005,
        "rpc-dead-instance": "calc-1",
        "rpc-dead-attempt": 2,
    }
