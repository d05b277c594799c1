"""Whoever may publish to the control exchange may send any cancel: what one costs is bounded."""

from typing import cast

import pytest

from warren.protocol.control import Cancel, read_cancel, read_question
from warren.server.holding import Holding
from warren.server.withdrawals import MOST_REMEMBERED, Withdrawals


def withdrawals() -> Withdrawals:
    nothing = cast(Holding, ())
    return Withdrawals(nothing, lambda _attempt: None, lambda _attempt: None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"calls": {"%b": 1}, "reply_to": "r"}' % (b"x" * 256),
        b'{"calls": {"1": 1}, "reply_to": "%b"}' % (b"x" * 256),
        b'{"calls": {"1": %b}, "reply_to": "r"}' % (b"9" * 400),
        b'{"calls": {"1": %d}, "reply_to": "r"}' % (2**53 + 1),
        b'{"calls": {"1": 1}, "reply_to": ""}',
        b'{"calls": {"1": 1}}',
        b'{"calls": [1], "reply_to": "r"}',
    ],
)
def test_a_cancel_that_can_name_no_call_is_refused_and_nothing_of_it_is_kept(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"calls|reply_to"):
        read_cancel(read_question(b"\x00\x00", body).body)


def test_a_call_without_limit_is_remembered_for_an_hour_and_one_whose_time_is_over_not_at_all() -> None:
    some = withdrawals()
    assert some.apply(read_cancel({"calls": {"1": 2**53, "2": -5}, "reply_to": "r"})) == 0
    left = some.coming[b"1", b"r"] - some.coming[b"2", b"r"]
    assert 3599 < left < 3601


def test_of_calls_that_do_not_come_only_the_newest_are_remembered() -> None:
    some = withdrawals()
    for number in range(MOST_REMEMBERED + 5):
        some.apply(Cancel({str(number): 1000}, "r"))
    assert len(some.coming) == MOST_REMEMBERED
    assert (b"4", b"r") not in some.coming
    assert (b"5", b"r") in some.coming
