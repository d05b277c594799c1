"""The client machine finds each fault that a client had before, when it is brought back [docs/adr/0018]."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.property.test_client_machine import ClientMachine
from tests.support.finds import Patch, cases, search
from warren.amqp.confirms import Confirms
from warren.client import outcomes
from warren.client.calls import ENDED, OUTSIDE, WAITING, Calls, PendingCall
from warren.client.cancels import Cancels
from warren.client.core import ClientCore
from warren.client.endings import Endings
from warren.client.lane import Lane, _Publisher
from warren.client.lean import LeanQueues
from warren.client.requests import Target
from warren.connection.errors import ChannelClosed, LinkLost
from warren.errors import CallError, Execution
from warren.protocol import bounce, evidence, reply
from warren.protocol.bounce import Bounce
from warren.protocol.reply import undecodable_reply

SEARCH = search(600, 40)
#: Those that are found late.
LATE = {
    "dropped_means_not_executed",
    "expired_means_not_executed",
    "earlier_attempts_do_not_count",
    "proofs_are_not_asked_for",
    "a_proof_that_fails_is_not_asked_for_again",
    "calls_that_may_be_sent_again_go_without_confirms",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def in_line_for_ever(patch: Patch) -> None:
    cancel, writable = ClientCore.cancel, ClientCore._writable

    def keep(self: ClientCore, call: PendingCall) -> bool:
        waited, ended = call.state is WAITING, cancel(self, call)
        if waited:
            self._calls.waiting[call] = None
        return ended

    def has_none_that_ended(self: ClientCore) -> bool:  # which would be written in a loop without an end
        return writable(self) and not any(call.state is ENDED for call in self._calls.waiting)

    patch.setattr(ClientCore, "cancel", keep)
    patch.setattr(ClientCore, "_writable", has_none_that_ended)


def publish_numbers_for_ever(patch: Patch) -> None:
    patch.setattr(Confirms, "forget", lambda _self, _tag: None)


def denied_means_not_executed(patch: Patch) -> None:
    patch.setattr(evidence, "PUBLISH_DENIED", not_executed(evidence.PUBLISH_DENIED))


def dropped_means_not_executed(patch: Patch) -> None:
    patch.setitem(bounce._BOUNCES, "maxlen", Bounce(not_executed(evidence.DROPPED), "full"))


def expired_means_not_executed(patch: Patch) -> None:
    ending = not_executed(evidence.QUEUE_TTL)
    patch.setitem(bounce._BOUNCES, "expired", Bounce(ending, "expired"))
    patch.setattr(evidence, "QUEUE_TTL", ending)
    patch.setattr(evidence, "NO_FREE_WORKER", not_executed(evidence.NO_FREE_WORKER))


def refused_means_not_executed(patch: Patch) -> None:
    patch.setattr(evidence, "QUEUE_DOWN", not_executed(evidence.QUEUE_DOWN))


def too_large_means_executed(patch: Patch) -> None:
    patch.setattr(reply, "_is_error", lambda _p, _table: False)


def unreadable_means_executed(patch: Patch) -> None:
    patch.setattr(reply, "_undecodable_error", lambda why, _table: undecodable_reply(why))


def earlier_attempts_do_not_count(patch: Patch) -> None:
    def locate(error: CallError, call: PendingCall) -> CallError:
        return error.locate(method=None, queue=None, call_id=call.first_id.decode())

    patch.setattr(outcomes, "locate", locate)


def a_call_that_cannot_be_written_stays(patch: Patch) -> None:
    def start(self: ClientCore, target: Any, body: bytes, deadline: float, waiter: Any) -> PendingCall:
        call = self._calls.start(deadline, waiter, target, awaits_reply=target.kind != "cast")
        if not self._writable():
            self._calls.hold(call, body)
            self._calls.wait(call)
        else:
            self._write(call, body)
        return call

    patch.setattr(ClientCore, "start", start)


def a_waiter_that_fails_takes_others_along(patch: Patch) -> None:
    patch.setattr(Endings, "_finish", staticmethod(lambda call, outcome: call.waiter.finish(outcome)))


def room_is_not_told_of(patch: Patch) -> None:
    patch.setattr(Calls, "_let_in", lambda _self: None)


def room_is_told_of_but_for_what_ends_unwritten(patch: Patch) -> None:
    forget, let_in = Calls._forget, Calls._let_in

    def quietly(self: Calls, call: PendingCall) -> None:
        self._let_in = (lambda: None) if call.state is OUTSIDE else partial(let_in, self)  # type: ignore[method-assign]
        forget(self, call)
        self._let_in = partial(let_in, self)  # type: ignore[method-assign]

    patch.setattr(Calls, "_forget", quietly)


def others_overtake_what_waits_for_room(patch: Patch) -> None:
    def start_outside(self: Calls, deadline: float, waiter: Any, target: Any, reply: bool, body: bytes) -> PendingCall:
        behind = dict(self.outside)
        self.outside.clear()
        call = begin(self, deadline, waiter, target, reply, body)
        self.outside.update(behind)
        return call

    begin = Calls.start_outside
    patch.setattr(Calls, "start_outside", start_outside)


def what_waits_for_room_outlives_its_client(patch: Patch) -> None:
    patch.setattr(Calls, "__iter__", lambda self: iter(list(self._calls.values())))


def what_waits_for_room_has_no_time(patch: Patch) -> None:
    def time_is_up(self: Endings, call: PendingCall) -> None:
        if call.state is not OUTSIDE:
            original(self, call)

    original = Endings._time_is_up
    patch.setattr(Endings, "_time_is_up", time_is_up)


def workers_do_not_hear_what_is_given_up(patch: Patch) -> None:
    patch.setattr(Cancels, "add", lambda _self, _call: None)


def casts_are_given_up(patch: Patch) -> None:
    def add(self: Cancels, call: PendingCall) -> None:
        awaited, call.awaits_reply = call.awaits_reply, True
        original(self, call)
        call.awaits_reply = awaited

    original = Cancels.add
    patch.setattr(Cancels, "add", add)


def what_could_not_be_told_is_kept(patch: Patch) -> None:
    async def keep(self: Cancels, link: Any) -> None:
        given_up = self._given_up
        self._given_up = Kept(dict)
        self._given_up.update(given_up)
        await original(self, link)

    original = Cancels._open
    patch.setattr(Cancels, "_open", keep)


class Kept(defaultdict[bytes, dict[str, int]]):
    """Forgets nothing."""

    def clear(self) -> None:
        pass


def others_are_given_up_with_a_call(patch: Patch) -> None:
    def cancel(self: ClientCore, call: PendingCall) -> bool:
        self.cancels.add_all(self._calls)
        return original(self, call)

    original = ClientCore.cancel
    patch.setattr(ClientCore, "cancel", cancel)


def a_proof_counts_for_what_comes_after_it(patch: Patch) -> None:
    async def prove(self: _Publisher) -> None:
        try:
            await self.channel.settled()
        except (ChannelClosed, LinkLost):
            return
        self.confirmed(self.channel.published, True)

    patch.setattr(_Publisher, "prove", prove)


def proofs_are_not_asked_for(patch: Patch) -> None:
    patch.setattr(Lane, "prove_soon", lambda _self: None)


def a_proof_that_fails_is_not_asked_for_again(patch: Patch) -> None:
    async def prove(self: _Publisher) -> None:
        tag = self.channel.published
        with contextlib.suppress(Exception):
            await self.channel.settled()
            self.confirmed(tag, True)

    patch.setattr(_Publisher, "prove", prove)


def a_word_about_a_queue_outlives_its_link(patch: Patch) -> None:
    patch.setattr(LeanQueues, "forget", lambda _self: None)


def a_word_about_a_queue_counts_for_ever(patch: Patch) -> None:
    patch.setattr(LeanQueues, "knows", lambda self, queue, _now: queue in self._until)


def a_refusal_does_not_outweigh_the_word_about_a_queue(patch: Patch) -> None:
    patch.setattr(LeanQueues, "refused", lambda _self, _queue, _now: None)


def calls_that_may_be_sent_again_go_without_confirms(patch: Patch) -> None:
    def trusting(self: Target) -> None:
        init(self)
        self.trusting = self.kind == "call"

    init = Target.__post_init__
    patch.setattr(Target, "__post_init__", trusting)


def not_executed(ending: evidence.Ending) -> evidence.Ending:
    return replace(ending, proves=Execution.NOT_EXECUTED)


FAULTS = [
    in_line_for_ever,
    publish_numbers_for_ever,
    denied_means_not_executed,
    dropped_means_not_executed,
    expired_means_not_executed,
    refused_means_not_executed,
    too_large_means_executed,
    unreadable_means_executed,
    earlier_attempts_do_not_count,
    a_call_that_cannot_be_written_stays,
    a_waiter_that_fails_takes_others_along,
    room_is_not_told_of,
    room_is_told_of_but_for_what_ends_unwritten,
    others_overtake_what_waits_for_room,
    what_waits_for_room_outlives_its_client,
    what_waits_for_room_has_no_time,
    workers_do_not_hear_what_is_given_up,
    casts_are_given_up,
    what_could_not_be_told_is_kept,
    others_are_given_up_with_a_call,
    a_proof_counts_for_what_comes_after_it,
    proofs_are_not_asked_for,
    a_proof_that_fails_is_not_asked_for_again,
    a_word_about_a_queue_outlives_its_link,
    a_word_about_a_queue_counts_for_ever,
    a_refusal_does_not_outweigh_the_word_about_a_queue,
    calls_that_may_be_sent_again_go_without_confirms,
]


@pytest.mark.parametrize("fault", cases(FAULTS, LATE))
def test_it_is_found(fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    monkeypatch.setattr(logging.getLogger("warren.client"), "disabled", True)
    fault(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, KeyError, ExceptionGroup)):
        run_state_machine_as_test(ClientMachine, settings=SEARCH)
