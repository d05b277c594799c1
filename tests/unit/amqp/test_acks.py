"""Which acknowledgements are sent, case by case."""

from __future__ import annotations

import pytest

from warren.amqp.acks import Acks


@pytest.fixture
def acks() -> Acks:
    """Five deliveries, none of them done."""
    acks = Acks()
    for tag in range(1, 6):
        acks.open(tag)
    return acks


def finish(acks: Acks, *tags: int) -> list[tuple[int, bool]]:
    for tag in tags:
        acks.done(tag)
    return acks.collect()


def test_nothing_is_acknowledged_before_it_is_done(acks: Acks) -> None:
    assert acks.collect() == []


def test_one_delivery_is_acknowledged_by_itself(acks: Acks) -> None:
    assert finish(acks, 1) == [(1, False)]


def test_an_unbroken_run_from_the_oldest_shares_one_ack(acks: Acks) -> None:
    assert finish(acks, 2, 1, 3) == [(3, True)]


def test_one_that_overtook_a_slower_one_is_acknowledged_by_itself(acks: Acks) -> None:
    assert finish(acks, 3) == [(3, False)]


def test_a_run_and_those_that_overtook_are_acknowledged_together(acks: Acks) -> None:
    assert finish(acks, 5, 1, 2, 4) == [(2, True), (4, False), (5, False)]


def test_a_run_goes_on_past_what_was_acknowledged_before(acks: Acks) -> None:
    finish(acks, 2)
    assert finish(acks, 1, 3) == [(3, True)]


def test_nothing_is_acknowledged_twice(acks: Acks) -> None:
    finish(acks, 1)
    assert acks.collect() == []


def test_a_delivery_is_done_once(acks: Acks) -> None:
    assert [acks.done(1), acks.done(1)] == [True, False]


def test_an_acknowledged_delivery_cannot_be_done_again(acks: Acks) -> None:
    finish(acks, 1)
    assert acks.done(1) is False


def test_an_unknown_delivery_cannot_be_done(acks: Acks) -> None:
    assert acks.done(99) is False


def test_a_delivery_that_was_rejected_is_not_acknowledged(acks: Acks) -> None:
    acks.done(1)
    acks.forget(1)
    assert acks.collect() == []


def test_a_rejected_delivery_does_not_hold_up_those_after_it(acks: Acks) -> None:
    acks.forget(1)
    assert finish(acks, 2, 3) == [(3, True)]


def test_a_rejected_delivery_cannot_be_done(acks: Acks) -> None:
    acks.forget(1)
    assert acks.done(1) is False


def test_forgetting_an_unknown_delivery_is_no_error(acks: Acks) -> None:
    acks.forget(99)
    assert acks.collect() == []
