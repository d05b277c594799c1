"""The upload machine finds what could go wrong on the way of a caller's items, when it is put there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.property.test_upload_machine import UploadMachine
from tests.support.finds import Fault, Faults, Patch, search
from tests.support.items_machine import quietly
from warren.amqp.frames import Properties
from warren.client import sending
from warren.client.cancels import Cancels
from warren.client.inlet import Inlet
from warren.client.sending import AsyncFeed, Feed, Sending
from warren.client.uplink import Uplink
from warren.errors import CallError
from warren.protocol.streaming import Ahead, Behind
from warren.protocol.uploading import Sent, Taken, sent_properties
from warren.server import inflow
from warren.server.inflow import Inflow
from warren.server.inflows import Inflows, ItemsQueue
from warren.server.ways import Way, Ways

SEARCH = search(400, 30)
fault = FAULTS = Faults()


# --- at the caller ----------------------------------------------------------------------------------------------------


@fault
def a_caller_sends_whatever_its_handler_has_taken(patch: Patch) -> None:
    patch.setattr(Ahead, "has_room", True)


@fault
def the_end_is_told_once_only(patch: Patch) -> None:
    patch.setattr(Sending, "_look", lambda _self: None)


@fault
def the_end_has_the_number_of_the_last_message(patch: Patch) -> None:
    written = sent_properties

    def wrong(content_type: str, id: bytes, reply_to: bytes, sent: Sent) -> bytes:
        return written(content_type, id, reply_to, sent._replace(seq=max(0, sent.seq - 1)) if sent.is_end else sent)

    patch.setattr(sending, "sent_properties", wrong)


@fault
def an_item_is_dropped_between_two_messages(patch: Patch) -> None:
    def together(bodies: Any, most: int) -> Any:
        bodies = list(bodies)
        yield bodies[:2]
        if bodies[3:]:
            yield bodies[3:]

    patch.setattr("tests.support.both_ends.together", together)


@fault
def what_comes_back_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(Sending, "returned", lambda _self: None)
    patch.setattr(Ways, "returned", lambda _self, _id: None)
    patch.setattr(Ways, "lost", lambda _self: None)


@fault
def a_lost_link_does_not_end_an_upload(patch: Patch) -> None:
    patch.setattr(Uplink, "_fail", staticmethod(lambda _senders, _reason: None))
    patch.setattr(Uplink, "send", lambda _self, _sender: None)


@fault
def the_closing_of_a_channel_is_not_told(patch: Patch) -> None:
    patch.setattr(Uplink, "_on_closed", lambda _self, _channel, _reason: None)
    patch.setattr(ItemsQueue, "_on_closed", lambda _self, _channel, _link, _reason: None)


@fault
def the_source_of_an_upload_that_has_ended_stays_open(patch: Patch) -> None:
    patch.setattr(AsyncFeed, "_stop", lambda _self: None)


@fault
def a_threads_source_stays_open(patch: Patch) -> None:
    kept: list[Any] = []
    patch.setattr(Feed, "close", lambda self: kept.append(self._iterator))


@fault
def the_end_of_a_source_is_not_told(patch: Patch) -> None:
    patch.setattr(Sending, "end", lambda _self: None)


@fault
def a_source_that_has_failed_counts_as_ended(patch: Patch) -> None:
    def fed(self: AsyncFeed, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._sending.end()

    patch.setattr(AsyncFeed, "_fed", fed)


@fault
def an_upload_that_is_given_up_goes_on_at_its_worker(patch: Patch) -> None:
    patch.setattr(Cancels, "add", lambda _self, _call: None)
    patch.setattr(Cancels, "stray", lambda _self, _p: None)


@fault
def what_a_handler_has_taken_is_added_up(patch: Patch) -> None:
    def consumed(self: Ahead, count: int) -> None:
        for _ in range(min(count, len(self._sizes))):
            self.bytes -= self._sizes.popleft()

    patch.setattr(Ahead, "consumed", consumed)


@fault
def senders_are_not_forgotten(patch: Patch) -> None:
    patch.setattr(Uplink, "forget", lambda _self, _sender: None)


@fault
def a_caller_that_waits_for_room_does_not_hear_of_the_end(patch: Patch) -> None:
    patch.setattr(Sending, "abandon", lambda self: setattr(self, "over", True))
    patch.setattr(Sending, "_wake", lambda _self: None)


# --- at the worker ----------------------------------------------------------------------------------------------------


@fault
def what_was_taken_is_told_once_only(patch: Patch) -> None:
    patch.setattr(Inflow, "_watch", lambda _self: None)


@fault
def items_count_as_taken_when_they_come(patch: Patch) -> None:
    came = Inflow.came

    def consumed(self: Inflow, p: Properties, body: bytes | None, limit: int) -> None:
        came(self, p, body, limit)
        if self._messages:
            message = self._messages[-1]
            if self._behind.consumed < self._behind.came:
                self._behind.consume(message.number, len(message.body))
            self._tell()

    def begin(self: Inflow) -> None:
        if not self._begun:
            self._begun = True
            self._loop.call_soon_threadsafe(self._begin)

    patch.setattr(Inflow, "came", consumed)
    patch.setattr(Inflow, "_consume", begin)


@fault
def a_gap_is_not_seen(patch: Patch) -> None:
    def take(self: Behind, seq: int, count: int, size: int) -> str:
        self.came = seq + count
        return ""

    patch.setattr(Behind, "take", take)


@fault
def the_number_in_the_end_is_not_looked_at(patch: Patch) -> None:
    take_in = Inflow._take_in

    def ends(self: Inflow, p: Properties, body: bytes | None, limit: int) -> CallError | None:
        failure = take_in(self, p, body, limit)
        if p.type == b"end":
            self._count = self._behind.came
            return None
        return failure

    patch.setattr(Inflow, "_take_in", ends)


@fault
def a_broken_upload_ends_as_a_whole_one(patch: Patch) -> None:
    def next_(self: Inflow) -> Any:
        if self._messages:
            self._taken = self._messages.popleft()
            return self._taken
        return None if self._failure is not None else found(self)

    found = Inflow._next
    patch.setattr(Inflow, "_next", next_)


@fault
def an_end_that_comes_twice_breaks_an_upload(patch: Patch) -> None:
    def came(self: Inflow, p: Properties, body: bytes | None, limit: int) -> None:
        self._unheard = 0
        with self._changed:
            if p.type == b"end" and self._count is not None:
                self._messages.clear()
            self._failure = self._failure or self._take_in(p, body, limit)
            self._wake()

    patch.setattr(Inflow, "came", came)


@fault
def a_queue_that_is_gone_is_not_told_of(patch: Patch) -> None:
    patch.setattr(Inflows, "_gone", lambda _self, _why: None)
    patch.setattr(Sending, "returned", lambda _self: None)


@fault
def a_handler_waits_for_a_silent_caller_for_ever(patch: Patch) -> None:
    patch.setattr(inflow, "MOST_SILENT", 1000)


@fault
def what_has_ended_stays_registered(patch: Patch) -> None:
    patch.setattr(Way, "_leave", lambda _self: None)


@fault
def a_thread_that_waits_for_items_does_not_hear_that_it_is_given_up(patch: Patch) -> None:
    patch.setattr(Inflow, "stop", lambda _self: None)


@fault
def the_first_of_two_runs_hears_nothing(patch: Patch) -> None:
    of = Ways._of
    patch.setattr(Ways, "_of", lambda self, id, address: of(self, id, address)[-1:])
    patch.setattr(Ways, "_all", lambda self: [ways[-1] for ways in self._open.values()])


@fault
def what_was_told_late_takes_room_away(patch: Patch) -> None:
    heard = Sending.heard

    def latest(self: Sending, taken: Taken) -> None:
        heard(self, taken)
        self.over = self.over or taken.number < (self.taken or 0)

    patch.setattr(Sending, "heard", latest)


@fault
def the_result_of_an_upload_is_not_waited_for(patch: Patch) -> None:
    heard = Inlet.taken

    def taken(self: Inlet, p: Properties) -> None:
        heard(self, p)
        if self._sending is not None and self._sending._is_ended:
            self.fail(asyncio.InvalidStateError("it is all sent"))

    patch.setattr(Inlet, "taken", taken)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("bring_in", FAULTS, ids=lambda bring_in: bring_in.__name__)
def test_it_is_found(bring_in: Fault, monkeypatch: Patch) -> None:
    bring_in(monkeypatch)
    with quietly(), pytest.raises(AssertionError):
        run_state_machine_as_test(UploadMachine, settings=SEARCH)
