"""The table of pending calls, one ending at a time; tests/property has all of them in any order."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest

from warren.client.calls import PendingCall, PendingCalls
from warren.errors import Code, Execution, Overloaded


class Table:
    """A table of at most three calls, and what its timer was set to."""

    def __init__(self) -> None:
        self.alarms: list[float] = []
        self.calls = PendingCalls(b"p.", 3, self.alarms.append)

    def start(self, deadline: float = 10.0, *, cast: bool = False, tag: int | None = None) -> PendingCall:
        call = self.calls.start(deadline, NOBODY, "context", awaits_reply=not cast)
        if tag is not None:
            self.calls.sent(call, tag)
        return call


def none_carries_on(_call: PendingCall) -> bool:
    return False


class Nobody:
    """A waiter that never hears of its call: the table's owner finishes calls, not the table."""

    def finish(self, outcome: Any) -> None:
        raise AssertionError("the table finished a call by itself")


NOBODY = Nobody()


@pytest.fixture
def table() -> Table:
    return Table()


def test_ids_count_up_behind_the_prefix(table: Table) -> None:
    assert [table.start().id, table.start().id] == [b"p.1", b"p.2"]


def test_a_call_keeps_what_it_was_started_with(table: Table) -> None:
    call = table.start(7.0)
    assert (call.deadline, call.waiter, call.context, call.awaits_reply) == (7.0, NOBODY, "context", True)


def test_a_call_is_written_once_it_was_sent(table: Table) -> None:
    call = table.start()
    assert not call.written
    table.calls.sent(call, 1)
    assert call.written


def test_one_call_more_than_the_limit_is_refused_before_anything_is_sent(table: Table) -> None:
    for _ in range(3):
        table.start()
    with pytest.raises(Overloaded, match="3 calls are in flight") as refused:
        table.start()
    error = refused.value
    assert (error.code, error.reason, error.execution) == (
        Code.RESOURCE_EXHAUSTED,
        "CLIENT_LIMIT",
        Execution.NOT_SENT,
    )


def test_an_ended_call_makes_room_for_another(table: Table) -> None:
    calls = [table.start() for _ in range(3)]
    table.calls.take(calls[0].id)
    assert table.start() in table.calls


def test_a_reply_takes_its_call_out(table: Table) -> None:
    call = table.start()
    assert table.calls.take(call.id) is call
    assert call not in table.calls


@pytest.mark.parametrize("id", [b"p.1", b"somebody else's", b"", None])
def test_a_reply_that_nobody_waits_for_is_counted(table: Table, id: bytes | None) -> None:
    table.calls.take(table.start().id)
    assert table.calls.take(id) is None
    assert table.calls.ignored == 1


def test_a_call_can_be_removed_once(table: Table) -> None:
    call = table.start()
    assert [table.calls.remove(call), table.calls.remove(call)] == [True, False]


def test_a_confirm_ends_a_cast(table: Table) -> None:
    cast = table.start(cast=True, tag=1)
    assert table.calls.confirmed(1, False) == [cast]
    assert len(table.calls) == 0


def test_a_confirm_does_not_end_a_call(table: Table) -> None:
    call = table.start(tag=1)
    assert table.calls.confirmed(1, False) == []
    assert call in table.calls


def test_a_confirm_of_many_ends_every_cast_up_to_it(table: Table) -> None:
    casts = [table.start(cast=True, tag=tag) for tag in (1, 2, 3)]
    assert table.calls.confirmed(2, True) == casts[:2]


def test_a_confirm_of_many_may_name_the_last_publish_of_all(table: Table) -> None:
    casts = [table.start(cast=True, tag=tag) for tag in (1, 2)]
    assert table.calls.confirmed(2, True) == casts


def test_a_confirm_of_an_unknown_publish_ends_nothing(table: Table) -> None:
    cast = table.start(cast=True, tag=1)
    assert table.calls.confirmed(9, False) == []
    assert cast in table.calls


def test_a_confirm_after_the_reply_ends_nothing_more(table: Table) -> None:
    call = table.start(tag=1)
    table.calls.take(call.id)
    assert table.calls.refused(1, False) == []


def test_a_refusal_ends_calls_and_casts(table: Table) -> None:
    both = [table.start(tag=1), table.start(cast=True, tag=2)]
    assert table.calls.refused(2, True) == both


def test_a_refusal_leaves_the_calls_that_carry_on_in_the_table(table: Table) -> None:
    staying, ending = table.start(tag=1), table.start(tag=2)
    assert not table.calls.settled
    assert table.calls.refused(2, True, lambda call: call is staying) == [ending]
    assert (staying in table.calls, ending in table.calls, table.calls.settled) == (True, False, True)


def test_publishes_without_a_number_are_never_confirmed(table: Table) -> None:
    call = table.start(tag=0)
    assert table.calls.refused(0, True) == []
    assert call in table.calls


def test_a_call_expires_after_its_deadline(table: Table) -> None:
    call = table.start(10.0)
    assert table.calls.expire(9.99) == []
    assert table.calls.expire(10.02) == [call]
    assert call not in table.calls


def test_a_call_that_has_ended_does_not_expire(table: Table) -> None:
    table.calls.take(table.start(10.0).id)
    assert table.calls.expire(11.0) == []


def test_the_timer_is_set_for_the_first_deadline(table: Table) -> None:
    table.start(10.0)
    table.start(20.0)
    assert table.alarms == [pytest.approx(10.01)]
    assert table.calls.next_expiry() == pytest.approx(10.01)


def test_a_lost_connection_ends_the_calls_that_were_written(table: Table) -> None:
    written = [table.start(tag=1), table.start(tag=0)]
    waiting = table.start()
    assert table.calls.connection_lost(none_carries_on) == written
    assert waiting in table.calls


def test_calls_that_carry_on_stay_when_the_connection_is_lost(table: Table) -> None:
    confirmed, unconfirmed = table.start(tag=1), table.start(tag=2)
    table.calls.confirmed(1, False)
    assert table.calls.connection_lost(table.calls.is_confirmed) == [unconfirmed]
    assert confirmed in table.calls


def test_another_attempt_has_an_id_of_its_own_and_the_same_first_id(table: Table) -> None:
    call = table.start(tag=1)
    table.calls.again(call)
    assert (call.first_id, call.id, call.written) == (b"p.1", b"p.2", False)
    assert table.calls.take(b"p.1") is None
    assert table.calls.take(b"p.2") is call


@pytest.mark.parametrize(("tag", "confirm", "confirmed"), [(1, 1, True), (1, 2, False), (0, 1, False)])
def test_a_call_is_confirmed_once_its_publish_is(table: Table, tag: int, confirm: int, confirmed: bool) -> None:
    call = table.start(tag=tag)
    table.calls.confirmed(confirm, False)
    assert table.calls.is_confirmed(call) is confirmed


def test_bodies_that_are_kept_are_counted_until_they_are_released_or_their_call_ends(table: Table) -> None:
    released, ended, removed = table.start(), table.start(), table.start()
    for call in (released, ended, removed):
        table.calls.hold(call, b"12345")
    assert table.calls.held == 15
    assert table.calls.release(released) == b"12345"
    table.calls.take(ended.id)
    table.calls.remove(removed)
    assert table.calls.held == 0


def test_after_a_lost_connection_confirms_of_its_numbers_mean_nothing(table: Table) -> None:
    table.start(cast=True, tag=1)
    table.calls.connection_lost(none_carries_on)
    table.start(cast=True)
    assert table.calls.confirmed(1, False) == []


class Context:
    """Something that can be seen to be forgotten."""


@pytest.mark.parametrize(
    "end",
    [
        lambda calls: calls.connection_lost(none_carries_on),
        PendingCalls.unconfirmed_lost,
        PendingCalls.close,
    ],
    ids=["connection lost", "channel lost", "closed"],
)
def test_the_table_keeps_nothing_of_calls_that_it_gave_up(table: Table, end: Callable[[PendingCalls], object]) -> None:
    context = Context()
    seen = weakref.ref(context)
    table.calls.sent(table.calls.start(10.0, NOBODY, context, awaits_reply=True), 1)
    del context
    end(table.calls)
    assert seen() is None


def test_a_lost_confirming_channel_ends_the_calls_that_were_not_confirmed(table: Table) -> None:
    confirmed, lost = table.start(tag=1), table.start(tag=2)
    table.calls.confirmed(1, False)
    assert table.calls.unconfirmed_lost() == [lost]
    assert confirmed in table.calls


def test_a_lost_channel_ends_the_written_calls_that_used_it(table: Table) -> None:
    picked, other = table.start(tag=0), table.start(tag=0)
    assert table.calls.written_lost(lambda call: call is picked) == [picked]
    assert other in table.calls


def test_closing_ends_every_call(table: Table) -> None:
    calls = [table.start(tag=1), table.start()]
    assert table.calls.close() == calls
    assert len(table.calls) == 0


def test_nothing_expires_after_closing(table: Table) -> None:
    table.start(1.0)
    table.calls.close()
    assert table.calls.expire(9.0) == []
