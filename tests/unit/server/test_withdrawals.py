"""Whoever may publish to the control exchange may send any cancel: what one costs is bounded."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from warren.amqp.frames import Properties
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
    assert some.apply([read_cancel({"calls": {"1": 2**53, "2": -5}, "reply_to": "r"})]) == [0]
    left = some.coming[b"1", b"r"] - some.coming[b"2", b"r"]
    assert 3599 < left < 3601


def test_of_calls_that_do_not_come_only_the_newest_are_remembered() -> None:
    some = withdrawals()
    for number in range(MOST_REMEMBERED + 5):
        some.apply([Cancel({str(number): 1000}, "r")])
    assert len(some.coming) == MOST_REMEMBERED
    assert (b"4", b"r") not in some.coming
    assert (b"5", b"r") in some.coming


class Counted(list[Any]):
    """What a worker holds, and how often it is looked through."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        self.looks += 1
        return super().__iter__()


def held(number: int, address: bytes) -> Any:
    properties = Properties(correlation_id=b"%d" % number, reply_to=address)
    return SimpleNamespace(request=SimpleNamespace(properties=properties), ended=False)


def test_cancels_that_come_together_look_through_what_is_held_once_and_end_each_its_own() -> None:
    all_, ended = Counted(held(number, b"r") for number in range(1000)), list[Any]()
    some = Withdrawals(cast(Holding, all_), ended.append, ended.append)
    cancels = [Cancel({str(number): 1000, "unknown": 1000}, "r") for number in range(0, 100, 2)]
    strangers = [Cancel({str(number): 1000 for number in range(1000)}, f"forged {n}") for n in range(9)]
    assert some.apply([*strangers, *cancels]) == [0] * 9 + [1] * 50
    assert all_.looks == 1
    assert ended == [all_[number] for number in range(0, 100, 2)]
