"""Bounces, case by case."""

from __future__ import annotations

import pytest

from warren.amqp.frames import Properties
from warren.amqp.tables import encode_table
from warren.errors import CallError, Code, Execution, Origin
from warren.protocol.bounce import read_bounce


@pytest.mark.parametrize(
    ("why", "code", "reason", "execution"),
    [
        ("expired", Code.DEADLINE_EXCEEDED, "QUEUE_TTL", Execution.UNKNOWN),
        ("maxlen", Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", Execution.UNKNOWN),  # a worker may have died holding it
        ("delivery_limit", Code.INTERNAL, "POISON", Execution.UNKNOWN),
        ("rejected", Code.ABORTED, "REJECTED", Execution.UNKNOWN),
        ("something new", Code.INTERNAL, "BOUNCED", Execution.UNKNOWN),
    ],
)
def test_a_bounce_says_why_the_broker_gave_up(why: str, code: Code, reason: str, execution: Execution) -> None:
    bounce = read_bounce(Properties(table=encode_table({"x-first-death-reason": why})))
    assert bounce is not None
    ending = bounce.ending
    assert (ending.code, ending.reason, ending.proves, ending.origin) == (code, reason, execution, Origin.BROKER)


@pytest.mark.parametrize("p", [Properties(), Properties(table=encode_table({"rpc-status": "OK"}))])
def test_a_reply_is_no_bounce(p: Properties) -> None:
    assert read_bounce(p) is None


def test_damaged_headers_are_an_error_not_a_bounce() -> None:
    with pytest.raises(CallError, match="cannot be read"):
        read_bounce(Properties(table=b"\x01a?"))
