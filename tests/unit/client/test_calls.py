"""The table of calls: where each of them is; tests/property/test_client_machine.py has all events in any order."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sized
from typing import Any

import pytest

from warren.amqp.confirms import Confirms
from warren.client.calls import (
    ASKED,
    CONFIRMED,
    ENDED,
    PARKED,
    WAITING,
    WRITTEN,
    Calls,
    PendingCall,
    State,
    unguessable,
)
from warren.errors import CallError, Code, Execution


class Nobody:
    """A waiter that never hears of its call: the table's owner finishes calls, not the table."""

    def finish(self, outcome: Any) -> None:
        raise AssertionError("the table finished a call by itself")


NOBODY = Nobody()


class Table:
    """A table of at most three calls, the publish numbers of one channel, and what its timer was set to."""

    def __init__(self) -> None:
        self.alarms: list[float] = []
        self.calls = Calls((b"p.%d" % number for number in itertools.count(1)), 3, 10, self.alarms.append)
        self.confirms: Confirms[PendingCall] = Confirms()
        self.question: dict[PendingCall, Any] = {}
        self._published = 0

    def start(self, deadline: float = 10.0, *, cast: bool = False, target: Any = "target") -> PendingCall:
        return self.calls.start(deadline, NOBODY, target, awaits_reply=not cast)

    def written(self, *, cast: bool = False, target: Any = "target") -> PendingCall:
        call = self.start(cast=cast, target=target)
        self._published += 1
        self.calls.written(call, self.confirms, self._published)
        return call

    def in_state(self, state: State, target: Any = "target") -> PendingCall:
        if state is WAITING:
            call = self.start(target=target)
            self.calls.wait(call)
            return call
        call = self.written(target=target)
        if state is CONFIRMED:
            self.calls.confirmed(self.confirms.take(1, False))
        if state in (ASKED, PARKED):
            self.calls.ask(call, self.question, "verdict")
        if state is PARKED:
            self.calls.park(call, "why")
        return call

    def places(self) -> int:
        """How many entries there are, wherever."""
        calls = self.calls
        places: tuple[Sized, ...] = (calls, calls.waiting, calls.parked, self.confirms, self.question, calls._timers)
        return sum(map(len, places))


STATES = [WAITING, WRITTEN, CONFIRMED, ASKED, PARKED]


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_call_keeps_what_it_was_started_with(table: Table) -> None:
    call = table.start(7.0)
    assert (call.deadline, call.waiter, call.target, call.awaits_reply) == (7.0, NOBODY, "target", True)


def test_one_call_more_than_the_limit_is_refused_before_anything_is_sent(table: Table) -> None:
    for _ in range(3):
        table.start()
    with pytest.raises(CallError, match="3 calls are in flight") as refused:
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


@pytest.mark.parametrize("state", STATES)
def test_a_call_is_where_its_state_says(table: Table, state: State) -> None:
    call = table.in_state(state)
    assert call.state is state
    where = {
        WAITING: call in table.calls.waiting,
        WRITTEN: 1 in table.confirms,
        ASKED: call in table.question,
        PARKED: call in table.calls.parked,
    }
    assert [place for place, there in where.items() if there] == ([] if state is CONFIRMED else [state])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "end", [lambda calls, call: calls.end(call), lambda calls, call: calls.take(call.id)], ids=["end", "take"]
)
def test_an_ended_call_is_nowhere(table: Table, state: State, end: Callable[[Calls, PendingCall], object]) -> None:
    class Target:
        """Something that can be seen to be forgotten."""

    target = Target()
    seen = weakref.ref(target)
    call = table.in_state(state, target)
    table.calls.hold(call, b"body")
    end(table.calls, call)
    assert (call.state, table.places(), table.calls.held) == (ENDED, 0, 0)
    del call, target
    assert seen() is None


def test_a_call_ends_once(table: Table) -> None:
    call = table.start()
    assert [table.calls.end(call), table.calls.end(call)] == [True, False]
    assert table.calls.take(call.id) is None


@pytest.mark.parametrize("look", [Calls.take, Calls.find])
@pytest.mark.parametrize("id", [b"p.1", b"somebody else's", b"", None])
def test_a_reply_that_nobody_waits_for_is_counted(table: Table, look: Any, id: bytes | None) -> None:
    table.calls.take(table.start().id)
    assert look(table.calls, id) is None
    assert table.calls.ignored == 1


def test_a_call_that_was_found_goes_on(table: Table) -> None:
    call = table.start()
    assert table.calls.find(call.id) is call
    assert call in table.calls


def test_a_confirm_ends_a_cast_and_not_a_call(table: Table) -> None:
    cast, call = table.written(cast=True), table.written()
    assert table.calls.confirmed(table.confirms.take(2, True)) == [cast]
    assert (cast.state, call.state) == (ENDED, CONFIRMED)


def test_a_confirm_after_the_reply_ends_nothing_more(table: Table) -> None:
    table.calls.take(table.written(cast=True).id)
    assert table.confirms.take(1, False) == []


@pytest.mark.parametrize(
    ("state", "move"),
    [
        (WRITTEN, lambda table, call: table.calls.wait(call)),
        (PARKED, lambda table, call: table.calls.wait(call)),
        (WAITING, lambda table, call: table.calls.written(call, table.confirms, 1)),
        (PARKED, lambda table, call: table.calls.ask(call, table.question, "verdict")),
    ],
)
def test_a_call_leaves_its_place_for_another(table: Table, state: State, move: Callable[..., None]) -> None:
    call = table.in_state(state)
    move(table, call)
    assert call.state is not state
    assert table.places() == 3, "the table, a timer and one place"


@pytest.mark.parametrize("state", [ENDED, CONFIRMED])
def test_a_way_that_the_table_does_not_know_is_a_bug(table: Table, state: State) -> None:
    call = table.in_state(CONFIRMED)
    if state is ENDED:
        table.calls.end(call)
    with pytest.raises(RuntimeError, match="cannot become written"):
        table.calls.written(call, table.confirms, 2)


def test_of_two_endings_the_later_is_told(table: Table) -> None:
    call = table.in_state(ASKED)
    table.calls.ask(call, {}, "another")
    assert table.question == {call: "another"}


def test_another_attempt_has_an_id_of_its_own_and_the_same_first_id(table: Table) -> None:
    call = table.written()
    table.calls.wait_again([call], first=True)
    assert (call.first_id, call.id, call.sent_before, call.state) == (b"p.1", b"p.2", True, WAITING)
    assert table.calls.take(b"p.1") is None
    assert table.calls.take(b"p.2") is call


@pytest.mark.parametrize(("first", "order"), [(True, [1, 0]), (False, [0, 1])])
def test_what_is_sent_again_goes_before_all_others_or_behind_them(table: Table, first: bool, order: list[int]) -> None:
    both = [table.in_state(WAITING), table.written()]
    table.calls.wait_again([both[1]], first=first)
    assert list(table.calls.waiting) == [both[number] for number in order]


def test_bodies_that_are_kept_are_counted_until_they_are_released_or_their_call_ends(table: Table) -> None:
    released, ended = table.start(), table.start()
    for call in (released, ended):
        table.calls.hold(call, b"12345")
    assert table.calls.held == 10
    assert table.calls.release(released) == b"12345"
    table.calls.end(ended)
    assert table.calls.held == 0


def test_a_call_expires_after_its_deadline_once(table: Table) -> None:
    call = table.start(10.0)
    assert [table.calls.expired(now) for now in (9.99, 10.02, 10.03)] == [[], [call], []]


def test_a_call_that_has_ended_does_not_expire(table: Table) -> None:
    table.calls.take(table.start(10.0).id)
    assert table.calls.expired(11.0) == []


def test_the_timer_is_set_for_the_first_deadline(table: Table) -> None:
    table.start(10.0)
    table.start(20.0)
    assert table.alarms == [pytest.approx(10.01)]
    assert table.calls.next_expiry() == pytest.approx(10.01)


def test_ids_are_random_bits_that_are_drawn_in_batches() -> None:
    drawn: list[int] = []

    def random(size: int) -> bytes:
        drawn.append(size)
        return bytes(number % 251 for number in range(size))

    ids = unguessable(random)
    assert next(ids) == b"000102030405060708090a0b"
    assert next(ids) == b"0c0d0e0f1011121314151617"
    assert drawn == [12 * 256]
    for _ in range(255):
        next(ids)
    assert len(drawn) == 2
