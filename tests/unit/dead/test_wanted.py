"""Which dead messages are meant."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pika import spec
from tests.support import pika_frames

from warren.amqp.frames import Delivery
from warren.dead.queue import DeadMessage
from warren.dead.wanted import Wanted, parse_duration

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def entry(**properties: Any) -> DeadMessage:
    delivery = Delivery(1, False, b"")
    delivery.properties = pika_frames.properties(spec.BasicProperties(**properties))
    return DeadMessage(delivery, Counter())


def died(ago: timedelta) -> DeadMessage:
    at = int((NOW - ago).timestamp() * 1000)
    return entry(type="pay", headers={"rpc-dead-reason": "POISON", "rpc-dead-at": at})


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), True),
        (Wanted(reasons=("POISON", "other")), True),
        (Wanted(reasons=("other",)), False),
        (Wanted(methods=("pay",)), True),
        (Wanted(methods=("-",)), False),
        (Wanted(calls=False), True),
        (Wanted(calls=True), False),
        (Wanted(older_than=HOUR), True),
        (Wanted(newer_than=HOUR), False),
        (Wanted(older_than=HOUR, newer_than=3 * HOUR), True),
        (Wanted(older_than=3 * HOUR), False),
        (Wanted(reasons=("POISON",), methods=("other",)), False),
    ],
)
def test_all_that_is_asked_has_to_hold(wanted: Wanted, found: bool) -> None:
    assert wanted.takes(died(2 * HOUR), NOW) is found


@pytest.mark.parametrize("mark", ["", ">", "[]"])
def test_a_method_is_chosen_by_its_name_however_it_was_asked(mark: str) -> None:
    assert Wanted(methods=("pay",)).takes(entry(type=f"pay{mark}"), NOW)
    assert Wanted(methods=(f"pay{mark}",)).takes(entry(type=f"pay{mark}"), NOW)
    assert not Wanted(methods=("pa",)).takes(entry(type=f"pay{mark}"), NOW)


def test_a_message_that_does_not_say_when_is_neither_old_nor_new() -> None:
    assert not Wanted(older_than=HOUR).takes(entry(), NOW)
    assert not Wanted(newer_than=HOUR).takes(entry(), NOW)
    assert Wanted(methods=("-",)).takes(entry(), NOW)


def test_a_message_with_a_reply_address_was_a_call() -> None:
    assert Wanted(calls=True).takes(entry(reply_to="r"), NOW)


def test_only_a_choice_of_nothing_chooses_everything() -> None:
    assert Wanted().everything
    assert not Wanted(calls=False).everything


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10min", 600), ("1.5 h", 5400), ("2d", 172_800)])
def test_times_have_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "90", "h", "-1s", "1m", "1w", "1e3s", "1h30min", "nan s", "9" * 12 + "d", "\u0663s"]
)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="length of time"):
        parse_duration(text)


def test_a_time_beyond_all_calendars_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than any"):
        parse_duration("9999999999d")
