"""The table of pending calls against a model, through any order of everything that can happen to a call."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from warren.client.calls import PendingCall, PendingCalls
from warren.errors import Execution, Overloaded
from warren.protocol.deadline import TICK

LIMIT = 5
ROUNDING = 1e-6
choices = st.integers(0, 1000)


class Nobody:
    """A waiter that never hears of its call: the table's owner finishes calls, not the table."""

    def finish(self, outcome: Any) -> None:
        raise AssertionError("the table finished a call by itself")


NOBODY = Nobody()


class Calls(RuleBasedStateMachine):
    """The model: which calls are alive, which publishes unconfirmed, and how each call ended."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.alarm: float | None = None
        self.table = PendingCalls(b"p.", LIMIT, self.set_alarm)
        self.started: dict[bytes, PendingCall] = {}
        self.alive: dict[bytes, PendingCall] = {}
        self.unconfirmed: dict[int, PendingCall] = {}
        self.last_tag = 0
        self.ignored = 0

    def set_alarm(self, when: float) -> None:
        self.alarm = when

    def ended(self, taken: list[PendingCall], expected: list[PendingCall]) -> None:
        """These calls, and no others, have just ended."""
        assert sorted(call.id for call in taken) == sorted(call.id for call in expected)
        for call in taken:
            del self.alive[call.id]  # KeyError: it has ended before

    def one_alive(self, choice: int) -> PendingCall:
        return list(self.alive.values())[choice % len(self.alive)]

    # --- beginning ----------------------------------------------------------------------------------------------

    @rule(timeout=st.floats(0.001, 60), awaits_reply=st.booleans(), keep=st.booleans())
    def start(self, timeout: float, awaits_reply: bool, keep: bool) -> None:
        deadline = self.now + timeout
        if len(self.alive) == LIMIT:
            with pytest.raises(Overloaded) as refused:
                self.table.start(deadline, NOBODY, None, awaits_reply=awaits_reply)
            assert refused.value.execution is Execution.NOT_SENT
            return
        call = self.table.start(deadline, NOBODY, None, awaits_reply=awaits_reply)
        assert call.id not in self.started
        if keep:
            self.table.hold(call, b"body")
        self.started[call.id] = self.alive[call.id] = call

    @precondition(lambda self: any(not call.written for call in self.alive.values()))
    @rule(choice=choices, confirming=st.booleans())
    def sent(self, choice: int, confirming: bool) -> None:
        unwritten = [call for call in self.alive.values() if not call.written]
        call = unwritten[choice % len(unwritten)]
        if not confirming:
            self.table.sent(call, 0)
            return
        self.last_tag += 1
        self.table.sent(call, self.last_tag)
        self.unconfirmed[self.last_tag] = call

    # --- one call ends ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule(choice=choices)
    def reply_or_return(self, choice: int) -> None:
        call = self.one_alive(choice)
        assert self.table.take(call.id) is call
        self.ended([call], [call])

    @rule(id=st.none() | st.binary(max_size=8))
    def reply_to_nobody(self, id: bytes | None) -> None:
        if id not in self.alive:
            assert self.table.take(id) is None
            self.ignored += 1

    @precondition(lambda self: len(self.started) > len(self.alive))
    @rule(choice=choices)
    def late_reply(self, choice: int) -> None:
        gone = [id for id in self.started if id not in self.alive]
        assert self.table.take(gone[choice % len(gone)]) is None
        self.ignored += 1

    @precondition(lambda self: self.started)
    @rule(choice=choices)
    def cancel(self, choice: int) -> None:
        call = list(self.started.values())[choice % len(self.started)]
        alive = call.id in self.alive
        assert self.table.remove(call) is alive
        self.ended([call] if alive else [], [call] if alive else [])

    # --- the broker settles publishes ---------------------------------------------------------------------------

    def settle(self, tag: int, multiple: bool) -> list[PendingCall]:
        tags = [known for known in self.unconfirmed if known == tag or (multiple and known < tag)]
        return [self.unconfirmed.pop(known) for known in tags]

    @rule(tag=st.integers(0, 30), multiple=st.booleans())
    def confirm(self, tag: int, multiple: bool) -> None:
        settled = self.settle(tag, multiple)
        casts = [call for call in settled if call.id in self.alive and not call.awaits_reply]
        self.ended(self.table.confirmed(tag, multiple), casts)

    @rule(tag=st.integers(0, 30), multiple=st.booleans())
    def refuse(self, tag: int, multiple: bool) -> None:
        calls = [call for call in self.settle(tag, multiple) if call.id in self.alive]
        self.ended(self.table.refused(tag, multiple), calls)

    # --- time ---------------------------------------------------------------------------------------------------

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        """The owner's timer rings where it falls due, and once more at the end."""
        end = self.now + seconds
        while self.alarm is not None and self.alarm <= end:
            self.now = max(self.now, self.alarm)
            self.expire()
        self.now = end

    @rule()
    def expire(self) -> None:
        self.alarm = None
        expired = self.table.expire(self.now)
        assert all(call.deadline <= self.now + ROUNDING for call in expired), "a call expired early"
        self.ended(expired, expired)
        late = [call for call in self.alive.values() if call.deadline < self.now - TICK - ROUNDING]
        assert not late, "a call outlived its deadline by more than a tick"
        due = self.table.next_expiry()
        if due is not None and self.alarm is None:
            self.alarm = due

    # --- many calls end -----------------------------------------------------------------------------------------

    @rule(resend=st.booleans())
    def connection_lost(self, resend: bool) -> None:
        """Calls that await a reply are sent again, or all of them end."""
        again = [call for call in self.alive.values() if call.written and call.awaits_reply and resend]
        written = [call for call in self.alive.values() if call.written and call not in again]
        self.ended(self.table.connection_lost(lambda call: call in again), written)
        for call in again:
            del self.alive[call.id]
            self.table.again(call)
            assert call.id not in self.started
            self.started[call.id] = self.alive[call.id] = call
        self.unconfirmed.clear()
        self.last_tag = 0

    @rule()
    def confirming_channel_lost(self) -> None:
        lost = [call for call in self.unconfirmed.values() if call.id in self.alive]
        self.ended(self.table.unconfirmed_lost(), lost)
        self.unconfirmed.clear()
        self.last_tag = 0

    @rule(awaits_reply=st.booleans())
    def some_written_lost(self, awaits_reply: bool) -> None:
        lost = [c for c in self.alive.values() if c.written and c.awaits_reply is awaits_reply]
        self.ended(self.table.written_lost(lambda call: call.awaits_reply is awaits_reply), lost)

    @rule()
    def close(self) -> None:
        self.ended(self.table.close(), list(self.alive.values()))
        self.unconfirmed.clear()
        self.last_tag = 0
        assert len(self.table) == 0

    # --- always -------------------------------------------------------------------------------------------------

    @invariant()
    def the_table_holds_exactly_the_calls_that_are_alive(self) -> None:
        assert len(self.table) == len(self.alive) <= LIMIT
        assert all((call in self.table) is (call.id in self.alive) for call in self.started.values())
        assert self.table.held == sum(len(call.body or b"") for call in self.alive.values())

    @invariant()
    def replies_nobody_waited_for_are_counted(self) -> None:
        assert self.table.ignored == self.ignored

    @invariant()
    def the_alarm_is_set_for_the_first_deadline(self) -> None:
        if self.alive:
            first = min(call.deadline for call in self.alive.values())
            assert self.alarm is not None
            assert self.alarm <= first + TICK + ROUNDING

    def teardown(self) -> None:
        self.close()
        assert not self.alive


TestPendingCalls = Calls.TestCase
TestPendingCalls.settings = settings(stateful_step_count=40)
