"""The stream machine finds what could go wrong on a stream's way, when it is put there."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.property.test_stream_machine import StreamMachine
from tests.support.finds import Fault, Faults, Patch, search
from tests.support.items_machine import quietly
from warren.amqp.frames import Properties
from warren.client.cancels import Cancels, Strays
from warren.client.inlet import End, Inlet, Message
from warren.client.prepared import Prepared
from warren.client.target import read_result
from warren.protocol.streaming import Ahead, Behind, Window, together
from warren.server import streaming
from warren.server.streaming import Outlet, Outlets
from warren.server.ways import Way

SEARCH = search(400, 30)
fault = FAULTS = Faults()


# --- at the worker ----------------------------------------------------------------------------------------------------


@fault
def a_worker_sends_whatever_its_caller_has_consumed(patch: Patch) -> None:
    patch.setattr(Ahead, "has_room", True)


@fault
def bytes_are_not_counted(patch: Patch) -> None:
    patch.setattr(Ahead, "has_room", property(lambda self: len(self._sizes) < self._window.items))


@fault
def credit_is_added_up(patch: Patch) -> None:
    def consumed(self: Ahead, count: int) -> None:
        for _ in range(min(count, len(self._sizes))):
            self.bytes -= self._sizes.popleft()

    patch.setattr(Ahead, "consumed", consumed)


@fault
def an_item_is_dropped_between_two_messages(patch: Patch) -> None:
    def some(bodies: Any, most: int) -> Any:
        bodies = list(bodies)
        yield bodies[:2]
        if bodies[3:]:
            yield bodies[3:]

    patch.setattr("tests.support.both_ends.together", some)


@fault
def numbers_go_on_from_the_wrong_one(patch: Patch) -> None:
    def flush(self: Outlet) -> None:
        with self._changed:
            bodies, self._buffer = self._buffer, []
            self._flushes = False
            for group in together(bodies):
                self._send(messages[self], group)
                messages[self] += 1
            self._changed.notify_all()

    messages: Counter[Outlet] = Counter()
    patch.setattr(Outlet, "_flush", flush)


@fault
def a_thread_that_has_ended_leaves_its_last_items_behind(patch: Patch) -> None:
    def send_all(self: Outlet, items: Any) -> int:
        try:
            for item in items:
                self._offer(self._encode(item))
        finally:
            items.close()
        return self._ahead.sent

    patch.setattr(Outlet, "send_all_from_thread", send_all)


@fault
def the_last_items_of_a_task_are_sent_behind_its_reply(patch: Patch) -> None:
    async def send_all(self: Outlet, items: Any) -> int:
        async with contextlib.aclosing(items):
            async for item in items:
                body = self._encode(item)
                while not self._ahead.has_room:
                    self._room = self._loop.create_future()
                    await self._room
                self._put(body)
        return self._ahead.sent

    patch.setattr(Outlet, "send_all", send_all)


@fault
def a_generator_that_is_cut_off_stays_open(patch: Patch) -> None:
    async def send_all(self: Outlet, items: Any) -> int:
        kept.append(items)
        async for item in items:
            body = self._encode(item)
            while not self._ahead.has_room:
                self._room = self._loop.create_future()
                await self._room
            self._put(body)
        self._flush()
        return self._ahead.sent

    kept: list[Any] = []
    patch.setattr(Outlet, "send_all", send_all)


@fault
def a_thread_that_waits_for_room_does_not_hear_that_it_is_given_up(patch: Patch) -> None:
    patch.setattr(Outlet, "stop", lambda _self: None)


@fault
def what_comes_back_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(Outlets, "returned", lambda _self, _id: None)
    patch.setattr(Strays, "is_due", lambda _self, _id, _now: False)
    patch.setattr(Outlets, "lost", lambda _self: None)


@fault
def a_waiting_stream_gives_no_sign_of_life(patch: Patch) -> None:
    patch.setattr(Outlet, "_look", lambda _self: None)
    patch.setattr(Cancels, "add", lambda _self, _call: None)


@fault
def what_has_ended_stays_registered(patch: Patch) -> None:
    patch.setattr(Way, "_leave", lambda _self: None)


@fault
def a_stream_ends_and_its_timer_does_not(patch: Patch) -> None:
    def watch(self: Outlet) -> None:
        self._timer = self._loop.call_later(streaming.SIGN_OF_LIFE, self._look)

    patch.setattr(Way, "_forget_timer", lambda _self: None)
    patch.setattr(Outlet, "_watch", watch)


@fault
def credit_for_items_of_an_earlier_run_is_not_believed(patch: Patch) -> None:
    patch.setattr(Ahead, "pass_over", lambda _self: False)
    consumed = Ahead.consumed
    patch.setattr(Ahead, "consumed", lambda self, count: count <= self.sent and consumed(self, count))


@fault
def what_is_passed_over_is_not_counted(patch: Patch) -> None:
    def pass_over(self: Ahead) -> bool:
        self._had -= 1
        return self._had >= self.sent

    patch.setattr(Ahead, "pass_over", pass_over)


@fault
def what_was_buffered_is_sent_behind_what_is_passed_over(patch: Patch) -> None:
    patch.setattr(Outlet, "_has_it", lambda self: self._ahead.pass_over())


# --- at the caller ----------------------------------------------------------------------------------------------------


@fault
def credit_is_told_once_only(patch: Patch) -> None:
    look = Inlet._look

    def silently(self: Inlet, pause: float) -> None:
        with patch.context() as here:
            here.setattr(Inlet, "_tell", lambda _self: None)
            look(self, pause)

    patch.setattr(Inlet, "_look", silently)


@fault
def credit_is_not_told(patch: Patch) -> None:
    patch.setattr(Cancels, "credit", lambda _self, _source, _call, _count: None)


@fault
def items_count_as_consumed_when_they_come(patch: Patch) -> None:
    came = Inlet.came

    def consumed(self: Inlet, p: Properties, body: bytes, *, again: bool) -> None:
        came(self, p, body, again=again)
        if self._behind.came > self._behind.consumed:
            self._behind.consume(self._behind.came - self._behind.consumed, len(body))
            self._tell()

    patch.setattr(Inlet, "came", consumed)
    patch.setattr(Inlet, "_consume", lambda _self: None)


@fault
def a_gap_is_not_seen(patch: Patch) -> None:
    def take(self: Behind, seq: int, count: int, size: int) -> str:
        self.came = seq + count
        return ""

    patch.setattr(Behind, "take", take)


@fault
def what_comes_twice_is_taken_twice(patch: Patch) -> None:
    patch.setattr(Behind, "has", lambda _self, _seq, _count: False)
    patch.setattr(Behind, "take", lambda self, seq, count, size: "")


@fault
def what_comes_again_breaks_a_stream(patch: Patch) -> None:
    patch.setattr(Behind, "has", lambda _self, _seq, _count: False)


@fault
def runs_are_not_told_apart(patch: Patch) -> None:
    came = Inlet.came

    def any_run(self: Inlet, p: Properties, body: bytes, *, again: bool) -> None:
        self._run = p.message_id
        came(self, p, body, again=again)

    patch.setattr(Inlet, "came", any_run)


@fault
def what_another_run_repeats_is_handed_out_again(patch: Patch) -> None:
    read = Prepared._read_items

    def all_of_it(self: Prepared, message: Message) -> Any:
        return read(self, Message(message.number, message.body, message.content_type, 0))

    patch.setattr(Prepared, "_read_items", all_of_it)


@fault
def another_run_does_not_hear_how_far_its_caller_is(patch: Patch) -> None:
    patch.setattr(Inlet, "_go_on_with", lambda _self, _source: None)
    patch.setattr(Inlet, "_look", lambda _self, _pause: None)


@fault
def the_number_of_items_is_not_looked_at(patch: Patch) -> None:
    def conclude(self: Prepared, end: End) -> Any:
        return read_result(end.outcome, self.target, {})

    patch.setattr(Prepared, "conclude", conclude)


@fault
def the_window_that_is_asked_for_is_another_than_is_held_to(patch: Patch) -> None:
    init = Behind.__init__
    patch.setattr(Behind, "__init__", lambda self, w: init(self, Window(max(1, w.items - 1), w.bytes)))


@fault
def a_stream_that_is_given_up_goes_on_at_its_worker(patch: Patch) -> None:
    patch.setattr(Cancels, "add", lambda _self, _call: None)
    patch.setattr(Cancels, "stray", lambda _self, _p: None)


@fault
def an_idle_stream_waits_for_ever(patch: Patch) -> None:
    def wait(self: Inlet, pause: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(pause, self._look, pause)

    patch.setattr(Inlet, "_wait", wait)
    patch.setattr(
        Inlet, "_waits_since", property(lambda _self: float("inf"), lambda _self, _value: None), raising=False
    )


@fault
def the_end_overtakes_items(patch: Patch) -> None:
    finish = Inlet.finish

    def at_once(self: Inlet, outcome: Any) -> None:
        self._messages.clear()
        finish(self, outcome)

    patch.setattr(Inlet, "finish", at_once)


@fault
def the_items_of_a_stream_that_has_failed_are_kept_from_its_caller(patch: Patch) -> None:
    fail = Inlet.finish

    def finish(self: Inlet, outcome: Any) -> None:
        if isinstance(outcome, tuple) and outcome[0].table:
            self._messages.clear()
        fail(self, outcome)

    patch.setattr(Inlet, "finish", finish)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bring_in", FAULTS, ids=lambda bring_in: bring_in.__name__)
def test_it_is_found(bring_in: Fault, monkeypatch: Patch) -> None:
    bring_in(monkeypatch)
    with quietly(), pytest.raises((AssertionError, asyncio.InvalidStateError)):
        run_state_machine_as_test(StreamMachine, settings=SEARCH)
