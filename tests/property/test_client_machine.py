"""A client's real objects over a model broker, through any order of everything that can happen to a call.

`ClientCore` and all that it is made of run on an event loop whose time is the test's; the link, its channels and the
supervisor are `tests.support.model_link`'s. After each step the client is held against a plain model: which calls are
under way, what the broker has of each, and whether a handler may have run it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.model_link import (
    Message,
    ModelBroker,
    ModelChannel,
    ModelSupervisor,
    VirtualClock,
    VirtualLoop,
    lost,
)
from warren.amqp.frames import Delivery, Properties, encode_properties
from warren.amqp.tables import encode_table
from warren.client import core, endings, lane, replies
from warren.client.calls import ASKED, CONFIRMED, ENDED, OUTSIDE, PARKED, WAITING, WRITTEN, PendingCall
from warren.client.core import ClientCore
from warren.client.lean import DISTRUST, TRUST
from warren.client.options import Limits
from warren.client.requests import Target
from warren.connection import explainer
from warren.connection.channel import Returned
from warren.connection.settings import make_settings
from warren.errors import CallError, Execution
from warren.protocol.deadline import TICK

CLOCKS: tuple[ModuleType, ...] = (core, endings, explainer, lane, replies)
LIMITS = {"max_in_flight": 8, "max_message_size": 1000, "max_waiting_bytes": 300}
ERROR = {"rpc-status": "ABORTED", "rpc-reason": "X"}
LEAN_REPLY = {"rpc-lean": True}
PROVEN = (Execution.NOT_SENT, Execution.NOT_EXECUTED)
BOUNCES = ["expired", "maxlen", "delivery_limit", "rejected", "news"]
FAREWELLS = st.sampled_from(["", "", "channel", "link", "one more", "no proof"])
SEAMS = ["finish", "publish", "ack", "channel", "confirm", "inspect", "settled"]
choices = st.integers(0, 1000)
controls = st.sampled_from(["there", "there", "there", "denied", "slow"])


class Record:
    """What the model knows of one call: also its waiter."""

    def __init__(self, machine: ClientMachine, target: Target, deadline: float) -> None:
        self.machine = machine
        self.target = target
        self.deadline = deadline
        self.call: PendingCall | None = None
        self.given_up = False
        self.known_at = False  # a worker may have it, and somebody waits for its reply
        self.messages: list[Message] = []
        self.outcomes: list[Any] = []
        self.confirmed = False  # the broker has said so of its latest message
        self.written_at = 0.0

    @property
    def alive(self) -> bool:
        return not self.outcomes and not self.given_up

    def finish(self, outcome: Any) -> None:
        self.outcomes.append(outcome)
        assert len(self.outcomes) == 1, "a call ended twice"
        assert not self.given_up, "a call that was given up ended"
        self.machine.hold_to(self, outcome)
        self.machine.broker.seams.use("finish")


class ClientMachine(RuleBasedStateMachine):
    """The model, and the ways to disturb a client."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.broker = ModelBroker()
        self.records: list[Record] = []
        self.by_id: dict[bytes, Record] = {}
        self.lies: list[str] = []
        self.seen = 0
        self.trusted_until = self.barred_until = 0.0  # what workers, and the broker, have said of the queue
        clock = VirtualClock(self.loop)
        self.patches: list[Any] = [patch.object(module, "time", clock) for module in CLOCKS]
        self.patches.append(patch.object(core, "Supervisor", self.make_supervisor))
        for one in self.patches:
            one.start()

    def make_supervisor(self, _settings: Any, **callbacks: Any) -> ModelSupervisor:
        self.supervisor = ModelSupervisor(self.broker, **callbacks)
        return self.supervisor

    @initialize(durable=st.booleans())
    def make(self, durable: bool) -> None:
        self.durable = durable
        limits = Limits(**LIMITS, send_user=False, reply="durable" if durable else "exclusive")

        async def make() -> ClientCore:
            made = ClientCore(make_settings("amqp://model"), limits)
            made.open()
            return made

        self.core = self.loop.run_until_complete(make())
        self.connect()

    def settle(self) -> None:
        self.loop.settle()
        self.note_messages()

    def note_messages(self) -> None:
        """Whose message is it that was published?"""
        for message in self.broker.messages[self.seen :]:
            record = self.by_id.get(message.first_id) or self.by_call_id(message.id)
            self.by_id[message.first_id] = record
            record.messages.append(message)
            record.confirmed, record.written_at = False, self.loop.now
            self.hold_to_its_lane(record, message)
        self.seen = len(self.broker.messages)

    def hold_to_its_lane(self, record: Record, message: Message) -> None:
        """Without confirm and bounce go only calls to a queue of which a worker has said lately that it takes all."""
        target, lean = record.target, not message.channel.confirming
        if target.kind != "call":
            if lean != (target.kind == "bare"):
                self.lies.append(f"a {target.kind} goes {'without' if lean else 'with'} confirms")
            return
        if lean and (target.resend or self.loop.now >= self.trusted_until):
            self.lies.append("a call goes without confirms, and its queue may refuse it")
        if message.bounces != (target.fail_fast or not lean):
            self.lies.append(f"a call {'with' if lean else 'without'} confirms asks for {message.bounces} bounce")

    def by_call_id(self, id: bytes) -> Record:
        return next(r for r in self.records if r.call is not None and id in (r.call.id, r.call.first_id))

    # --- the truth ----------------------------------------------------------------------------------------------

    def hold_to(self, record: Record, outcome: Any) -> None:
        """Evidence against what has happened, and what may still happen, to the call's requests."""
        self.note_messages()
        ran = any(message.ran for message in record.messages)
        may_run = any(not message.dead for message in record.messages)
        if not isinstance(outcome, CallError):
            return
        told = outcome.execution
        if told in PROVEN and (ran or may_run):
            self.lies.append(f"{outcome} though it {'ran' if ran else 'may run'}")
        if told is Execution.NOT_SENT and record.messages:
            self.lies.append(f"{outcome} though it was sent")
        if told is Execution.EXECUTED and not ran:
            self.lies.append(f"{outcome} though it did not run")

    # --- callers ------------------------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(["call", "call", "cast", "bare"]),
        resend=st.booleans(),
        fail_fast=st.booleans(),
        timeout=st.floats(0.02, 20),
        size=st.integers(1, 120),
        connected=st.sampled_from([True, True, True, False]),
        wait=st.booleans(),
    )
    def start(
        self,
        kind: Any,
        resend: bool,
        fail_fast: bool,
        timeout: float,
        size: int,
        connected: bool = True,
        wait: bool = False,
    ) -> None:
        """Mostly over an open link, so that there is much to disturb."""
        if connected:
            self.connect()
        target = Target(kind, "m", "q", "q.m", "application/json", fail_fast=fail_fast, resend=resend, wait=wait)
        record = Record(self, target, self.loop.now + timeout)
        self.records.append(record)

        async def start() -> None:
            record.call = self.core.start(target, b"x" * size, record.deadline, record)

        try:
            self.loop.run_until_complete(start())
        except CallError as error:
            record.given_up = True  # its waiter must not hear of it
            self.hold_to(record, error)
            if wait and error.reason == "CLIENT_LIMIT":
                self.lies.append(f"{error} though it would wait for room")
        self.settle()

    @rule(kind=st.sampled_from(["call", "cast"]), count=st.integers(5, 12), timeout=st.floats(0.5, 20))
    def start_many(self, kind: Any, count: int, timeout: float) -> None:
        """More than there is room for."""
        for number in range(count):
            self.start(kind, number % 2 == 1, False, timeout, 1 if number % 2 else 110, False, True)

    @rule(leaves=st.booleans(), timeout=st.sampled_from([0.5, 5.0]))
    def the_first_that_waits_for_room_goes(self, leaves: bool, timeout: float) -> None:
        """It needs more room than the one behind it, which may be let in then."""
        self.connect()
        if self.supervisor.link is None:
            return
        self.block("low on memory")
        for size in (110, 110, 110, 1):
            self.start("call", False, False, timeout if size > 1 else 20.0, size, False, True)
        outside = [r for r in self.alive() if r.call is not None and r.call.state is OUTSIDE]
        if leaves and outside:
            self.give_up(outside[0])
            self.settle()
        elif not leaves:
            self.time_passes(1.0)
        check_places(self.core, self.records)
        if self.supervisor.link is not None:
            self.block(None)

    @rule(
        kinds=st.lists(st.sampled_from(["call", "cast", "bare"]), min_size=1, max_size=3),
        then=st.sampled_from(["", "", "lose", "close"]),
        control=controls,
    )
    def start_and_give_up(self, kinds: list[str], then: str, control: str) -> None:
        for kind in kinds:
            self.start(kind, False, False, 5.0, 1)
        self.cancel_all(then, control)

    def alive(self) -> list[Record]:
        return [record for record in self.records if record.alive]

    @precondition(lambda self: self.alive())
    @rule(choice=choices)
    def cancel(self, choice: int) -> None:
        self.give_up(self.alive()[choice % len(self.alive())])
        self.settle()

    def give_up(self, *records: Record) -> None:
        """In one turn."""

        async def cancel() -> None:
            for record in records:
                assert record.call is not None
                record.known_at = record.call.state in (WRITTEN, CONFIRMED, ASKED) and record.target.kind != "cast"
                assert self.core.cancel(record.call)
                assert not self.core.cancel(record.call)
                record.given_up = True

        self.loop.run_until_complete(cancel())

    @precondition(lambda self: self.alive())
    @rule(then=st.sampled_from(["", "lose", "lose and connect", "close", "connect"]), control=controls)
    def cancel_all(self, then: str, control: str) -> None:
        """In one turn; and what happens before the message is on its way."""
        self.broker.control = control
        self.broker.cancelled.clear()
        link, failing = self.supervisor.link, self.broker.seams.failing
        pausing = self.pauses()
        refused = link is not None and cast(Any, self.core.cancels._refused_on) is link
        self.give_up(*(given_up := self.alive()))
        if link is not None and then.startswith("lose"):
            self.lose_link()
        if then.endswith("connect"):
            self.connect()
        if link is not None and then == "close":
            self.close_control()
        self.settle()
        sent = [r.call for r in given_up if r.known_at and r.call is not None]
        due = {call.id.decode() for call in sent if len(call.target.queue) < 200}
        undisturbed = link is not None and then in ("", "connect") and not (failing or refused or link.slow)
        if undisturbed and not pausing and control == "there":
            assert due == {id for id, _ in self.broker.cancelled}, "workers do not hear which calls are given up"

    def pauses(self) -> bool:
        """Whether what there is to tell waits, as the broker has closed its channel a moment ago."""
        return self.core.cancels._opens_again > self.loop.time()

    def close_control(self) -> None:
        for channel in list(self.supervisor.link.channels if self.supervisor.link is not None else []):
            if channel.receiver is self.core.cancels:
                channel.close_by_broker(404)

    @precondition(lambda self: self.supervisor.link is not None and self.supervisor.link.slow is not None)
    @rule()
    def control_answers(self) -> None:
        link = self.supervisor.link
        assert link is not None
        if link.slow is not None and not link.slow.done():
            link.slow.set_result(None)
        link.slow = None
        self.settle()

    # --- workers ------------------------------------------------------------------------------------------------

    def message(self, choice: int, *, alive: bool = True) -> Message | None:
        fit = [message for message in self.broker.messages if not (alive and message.dead)]
        waited_for = [message for message in fit if self.by_id[message.first_id].alive]
        fit = waited_for if waited_for and choice % 4 else fit  # the others are late
        return fit[-1 - choice % min(6, len(fit))] if fit else None

    @precondition(lambda self: self.broker.messages)
    @rule(choice=choices)
    def run(self, choice: int) -> None:
        message = self.message(choice)
        if message is not None:
            message.ran = True

    def consuming(self) -> list[ModelChannel]:
        link = self.supervisor.link
        return [channel for channel in link.channels if channel.consumes] if link is not None else []

    def deliver(self, message: Message, p: Properties, body: bytes | None) -> None:
        """To the reply queue of the present link."""
        channels = self.consuming()
        if not channels:
            return
        p.correlation_id = message.id
        delivery = Delivery(7, False, b"\x00\x00")
        delivery.properties, delivery.body, delivery.body_size = encode_properties(p), body, len(body or b"x" * 2000)
        channels[0].deliver(delivery)
        self.settle()

    @precondition(lambda self: self.broker.messages)
    @rule(
        choice=choices, too_large=st.booleans(), headers=st.sampled_from([{}, {"server": "7"}, LEAN_REPLY, LEAN_REPLY])
    )
    def reply(self, choice: int, too_large: bool, headers: dict[str, Any]) -> None:
        """A result; sent twice, at times, or for a call that has ended; often from a queue that takes everything."""
        message = self.message(choice)
        if message is not None:
            self.answer(message, headers, too_large)

    def answer(self, message: Message, headers: dict[str, Any], too_large: bool = False) -> None:
        message.ran = True
        call = self.by_id[message.first_id].call
        waited_for = call is not None and call.state is not ENDED and call.id == message.id and not too_large
        if headers == LEAN_REPLY and waited_for and self.consuming() and self.barred_until <= self.loop.now:
            self.trusted_until = self.loop.now + TRUST
        table = encode_table(headers) if headers else None
        self.deliver(message, Properties(table=table), None if too_large else b"1")

    @rule(
        count=st.integers(1, 3),
        timeout=st.floats(0.5, 20),
        fail_fast=st.booleans(),
        prompt=st.booleans(),
        cut=FAREWELLS,
    )
    def a_queue_takes_everything(self, count: int, timeout: float, fail_fast: bool, prompt: bool, cut: str) -> None:
        """A worker says so, and calls follow; then they are proven, or their channel or link goes before they are."""
        self.proofs_come(prompt)
        self.start("call", False, False, timeout, 1)
        first, link = self.records[-1], self.supervisor.link
        if first.alive and first.messages:
            self.answer(first.messages[-1], LEAN_REPLY)
        ready = not self.durable and self.loop.now < self.trusted_until and link is not None and link.writable
        before = len(self.broker.messages)
        for _ in range(count):
            self.start("call", False, fail_fast, timeout, 1)
        ready = ready and not self.core._calls.waiting and not self.broker.seams.failing
        confirming = [message.channel.confirming for message in self.broker.messages[before:]]
        assert not (ready and any(confirming)), "calls go with confirms though their queue takes everything"
        if cut == "no proof":
            self.sabotage("settled", 0)
        self.time_passes(0.3)
        if cut == "one more":  # behind the question, and before its answer
            self.start("call", False, fail_fast, timeout, 1)
            self.proofs_come(prompt)
        elif cut == "link" and self.supervisor.link is not None:
            self.lose_link()
        elif cut == "channel":
            self.close_publishing([channel for channel in self.publishing() if not channel.confirming], 0, 404)

    @precondition(lambda self: self.broker.messages)
    @rule(choice=choices, too_large=st.booleans(), damaged=st.booleans())
    def error(self, choice: int, too_large: bool, damaged: bool) -> None:
        """An error reply, which says the truth of its attempt."""
        message = self.message(choice)
        if message is None:
            return
        message.dead = True
        word = "EXECUTED" if message.ran else "NOT_EXECUTED"
        table = b"\x01a?" if damaged else encode_table({**ERROR, "rpc-executed": word})
        self.deliver(message, Properties(type=b"error", table=table), None if too_large else b"{}")

    # --- the broker ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.broker.messages)
    @rule(choice=choices, why=st.sampled_from(BOUNCES), held=st.booleans())
    def bounce(self, choice: int, why: str, held: bool) -> None:
        """At times of what a worker has held before."""
        message = self.message(choice)
        if message is not None:
            message.ran = message.ran or held
            message.dead = True
            if not message.bounces and not message.channel.confirming:
                return  # it is dropped, and nobody hears of it
            call = self.by_id[message.first_id].call
            waited_for = call is not None and call.state is not ENDED and call.id == message.id
            self.refuse(why != "expired" and waited_for and bool(self.consuming()))
            table = encode_table({"x-first-death-reason": why})
            self.deliver(message, Properties(table=table, type=b"m"), b"x")

    def refuse(self, surely: bool) -> None:
        """A policy limits the queue, of which its workers do not know."""
        if surely:
            self.trusted_until, self.barred_until = 0.0, self.loop.now + DISTRUST

    def unsettled(self) -> list[ModelChannel]:
        link = self.supervisor.link
        channels = link.channels if link is not None else []
        return [channel for channel in channels if channel.confirming and self.open_on(channel)]

    def open_on(self, channel: ModelChannel) -> list[Message]:
        return [m for m in self.broker.messages if m.channel is channel and not m.settled]

    def take_open(self, choice: int, multiple: bool) -> tuple[ModelChannel, int, list[Message]] | None:
        channels = self.unsettled()
        if not channels:
            return None
        channel = channels[choice % len(channels)]
        waiting = self.open_on(channel)
        last = waiting[choice % len(waiting)]
        taken = [m for m in waiting if m.number <= last.number] if multiple else [last]
        for message in taken:
            message.settled = True
        return channel, last.number, taken

    @precondition(lambda self: self.broker.messages)
    @rule(choice=choices, multiple=st.booleans())
    def ack(self, choice: int, multiple: bool) -> None:
        taken = self.take_open(choice, multiple)
        if taken is not None:
            for message in taken[2]:
                self.by_id[message.first_id].confirmed = self.by_id[message.first_id].messages[-1] is message
            taken[0].receiver.confirmed(taken[1], multiple)
            self.settle()

    @precondition(lambda self: self.broker.messages)
    @rule(choice=choices, multiple=st.booleans(), dying=st.booleans())
    def nack(self, choice: int, multiple: bool, dying: bool) -> None:
        """A full queue has none of these; one whose node goes down may have had them, and does not answer."""
        taken = self.take_open(choice, multiple)
        if taken is None:
            return
        if dying or self.broker.queue != "answers" or any(message.ran for message in taken[2]):
            self.broker.queue = "missing" if choice % 2 else "silent"
        else:
            for message in taken[2]:
                message.dead = True
        open = {r.messages[-1] for r in self.alive() if r.messages and r.call is not None and r.call.state is WRITTEN}
        self.refuse(bool(open & set(taken[2])))
        taken[0].receiver.refused(taken[1], multiple)
        self.settle()

    @precondition(lambda self: self.broker.messages)
    @rule(choice=choices)
    def give_back(self, choice: int) -> None:
        """There is no queue: the return precedes the confirm."""
        message = self.message(choice)
        if message is None or message.ran or message.settled or message.routed or message.channel.closed:
            return
        message.dead = True
        message.channel.receiver.returned(Returned((b"warren", b"q"), message.id, "NO_ROUTE"))
        self.settle()

    @rule(queue=st.sampled_from(["answers", "missing", "silent"]))
    def queue_changes(self, queue: str) -> None:
        asked = any(r.call is not None and r.call.state is ASKED for r in self.alive())
        if not asked:  # a node does not come back within the quarter of a second that a question takes
            self.broker.queue = queue

    @rule(choice=choices, code=st.sampled_from([403, 404, 406]))
    def close_channel(self, choice: int, code: int) -> None:
        self.close_publishing(self.publishing(), choice, code)

    def publishing(self) -> list[ModelChannel]:
        link = self.supervisor.link
        return [c for c in link.channels if c.receiver is not None and not c.consumes] if link is not None else []

    def close_publishing(self, channels: list[ModelChannel], choice: int, code: int) -> None:
        if not channels:
            return
        closed, link = channels[choice % len(channels)], self.supervisor.link
        sure = [r for r in self.alive() if r.messages and r.messages[-1].channel is closed and r.messages[-1].routed]
        closed.close_by_broker(code)
        self.settle()
        if link is self.supervisor.link:
            assert all(record.alive for record in sure), "a call that is proven to be routed ended with its channel"

    @rule(prompt=st.booleans())
    def proofs_come(self, prompt: bool) -> None:
        """At once, or only when this is called again."""
        self.broker.prompt = prompt
        for channel in self.publishing():
            channel.answer()
        self.settle()

    @rule()
    def delete_reply_queue(self) -> None:
        link = self.supervisor.link
        for channel in link.channels if link is not None else []:
            if channel.consumes:
                channel.receiver.consumer_cancelled(channel)
        self.settle()

    # --- the connection -----------------------------------------------------------------------------------------

    @rule()
    def connect(self) -> None:
        if self.supervisor.link is None:
            self.trusted_until = 0.0
            self.loop.run_until_complete(self.supervisor.connect())
            self.settle()

    @precondition(lambda self: self.supervisor.link is not None)
    @rule()
    def lose_link(self) -> None:
        sure = [
            r for r in self.alive() if self.durable and r.confirmed and r.call is not None and r.call.state is CONFIRMED
        ]
        self.supervisor.lose(lost())
        self.settle()
        assert all(record.alive for record in sure), "a confirmed call with a durable reply ended with the link"

    @precondition(lambda self: self.supervisor.link is None)
    @rule(for_good=st.booleans())
    def no_link(self, for_good: bool) -> None:
        self.supervisor.failed(lost(), for_good)
        self.settle()

    @precondition(lambda self: self.supervisor.link is not None)
    @rule(reason=st.none() | st.just("low on memory"))
    def block(self, reason: str | None) -> None:
        assert self.supervisor.link is not None
        self.supervisor.link.block(reason)
        self.settle()

    # --- time, and what fails -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.1, 0.3, 1.0, 5.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.now = min(end, self.loop.now + max(0.01, seconds / 40))
            self.settle()
        if self.broker.prompt and not self.broker.seams.failing:
            early = self.loop.now - 0.2
            open = [r for r in self.alive() if r.call is not None and r.call.state is WRITTEN and r.written_at < early]
            unproven = [r for r in open if not r.messages[-1].channel.confirming]
            assert not unproven, "whether calls without confirms are routed is not asked"

    @rule(seam=st.sampled_from(SEAMS), after=st.integers(0, 3))
    def sabotage(self, seam: str, after: int) -> None:
        self.broker.seams.fail(seam, after)

    # --- always -------------------------------------------------------------------------------------------------

    @invariant()
    def nobody_is_told_what_is_not_true(self) -> None:
        assert not self.lies, self.lies

    @invariant()
    def the_broker_has_what_counts_as_confirmed(self) -> None:
        sure = [r for r in self.alive() if r.call is not None and r.call.state is CONFIRMED]
        assert all(r.confirmed or r.messages[-1].routed for r in sure), "a call counts as confirmed, and may be lost"

    @invariant()
    def no_call_outlives_its_time(self) -> None:
        late = explainer.LIMIT + 2 * TICK + 0.6  # the steps in which time passes
        assert not [r for r in self.alive() if r.deadline + late < self.loop.now], "a call hangs"

    @invariant()
    def every_call_is_in_one_place_and_an_ended_one_in_none(self) -> None:
        if self.records:
            check_places(self.core, self.records)

    @invariant()
    def workers_hear_only_of_calls_that_are_given_up(self) -> None:
        told = {id for id, _ in self.broker.cancelled}
        alive = {r.call.id.decode() for r in self.alive() if r.call is not None}
        assert not told & alive, "a worker was told that a call is given up, and it is not"
        if self.records and not self.pauses() and (self.supervisor.link is None or self.supervisor.link.slow is None):
            assert not self.core.cancels._given_up, "what cannot be told is kept"

    @invariant()
    def nothing_raised_where_nothing_may(self) -> None:
        assert not self.loop.errors, self.loop.errors

    def teardown(self) -> None:
        try:
            if hasattr(self, "core"):
                self.broker.seams.heal()
                closing = self.loop.create_task(self.core.close())
                for _ in range(20):  # the clock is ours: what waits for some time would wait for ever
                    self.settle()
                    self.loop.now += 1.0
                assert closing.done(), "close hangs"
                closing.result()
                assert not self.alive(), "close left a call under way"
                assert not self.lies, self.lies
                check_places(self.core, self.records)
        finally:
            self.loop.close()
            for one in self.patches:
                one.stop()


def check_places(client: ClientCore, records: list[Record]) -> None:
    """Each call under way is where its state says, and nowhere else; nothing else is anywhere."""
    calls = client._calls
    alive = [record.call for record in records if record.alive and record.call is not None]
    outside = [call for call in alive if call.state is OUTSIDE]
    assert len(calls) == len(alive) - len(outside) <= LIMITS["max_in_flight"]
    assert calls.held <= LIMITS["max_waiting_bytes"]
    assert outside == list(calls.outside), "they wait in another order than they have come in"
    if outside:
        assert calls.lacking(len(calls.outside[outside[0]])), "the first waits though there is room"
    assert set(calls) == set(alive)
    publishers = [p for way in (client._confirming, client._plain) for p in (way.current, way._retired) if p]
    numbered = [call for publisher in publishers for call in publisher.confirms._open.values()]
    questions = client._endings._explainer
    asked = [call for question in questions._open.values() for call in question]
    asked += [call for _until, question in questions._next.values() for call in question]
    for state, place in ((WAITING, calls.waiting), (PARKED, calls.parked), (ASKED, asked), (WRITTEN, numbered)):
        found = list(place)
        expected = [call for call in alive if call.state is state]
        assert len(found) == len(set(found))
        if state is WRITTEN and client._link is None:  # the channel went first, and its link's loss is to be told
            assert set(found) <= set(expected)
        else:
            assert set(found) == set(expected), state
    assert all(call.state is not ENDED for call in alive)
    assert len(calls._timers) <= len(alive)
    assert calls.held == sum(len(call.body or b"") for call in alive) <= LIMITS["max_waiting_bytes"]


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """The client logs each closed channel, and each waiter that fails."""
    logger = logging.getLogger("warren.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


TestClient = ClientMachine.TestCase
TestClient.settings = settings(stateful_step_count=40)


def test_a_confirmed_call_survives_a_second_loss_while_another_has_its_number() -> None:
    # Publish numbers belong to a channel: those of a lost one say nothing of the next one's.
    machine = ClientMachine()
    try:
        machine.make(durable=True)
        machine.start("call", False, False, 19.0, 1)
        machine.ack(0, False)
        machine.lose_link()
        machine.connect()
        machine.start("call", False, False, 19.0, 1)
        assert [message.number for message in machine.broker.messages] == [1, 1]
        machine.lose_link()
        assert [record.alive for record in machine.records] == [True, False]
    finally:
        machine.teardown()


def test_a_call_that_was_refused_and_then_has_no_link_is_not_said_to_be_unsent() -> None:
    machine = ClientMachine()
    machine.make(durable=False)
    machine.start(kind="call", timeout=1.0, size=1, resend=True, fail_fast=True, connected=True)
    machine.nack(choice=0, multiple=False, dying=False)
    machine.delete_reply_queue()
    machine.no_link(for_good=False)
    machine.nobody_is_told_what_is_not_true()
    machine.teardown()


def test_a_call_that_was_refused_and_cannot_be_written_again_is_not_said_to_be_unsent() -> None:
    machine = ClientMachine()
    machine.make(durable=False)
    machine.start(kind="call", timeout=19.0, size=1, resend=True, fail_fast=False, connected=True)
    machine.nack(choice=0, multiple=False, dying=False)
    machine.sabotage(seam="publish", after=0)
    machine.time_passes(5.0)
    machine.connect()
    try:
        machine.nobody_is_told_what_is_not_true()
        assert [record.alive for record in machine.records] == [False]
    finally:
        machine.teardown()


def test_calls_are_told_to_be_given_up_also_after_a_link_that_was_lost_before_the_first_could_be_told() -> None:
    machine = ClientMachine()
    try:
        machine.make(durable=False)
        machine.start("call", False, False, 19.0, 1)
        machine.cancel_all("lose and connect", "slow")
        machine.start("call", False, False, 19.0, 1)
        machine.cancel_all("", "there")
        assert len(machine.broker.cancelled) == 1
    finally:
        machine.teardown()


def test_a_queue_that_no_service_can_have_is_told_nothing_and_the_others_are() -> None:
    machine = ClientMachine()
    try:
        machine.make(durable=False)
        machine.start("bare", False, False, 19.0, 1)
        call = machine.records[0].call
        assert call is not None
        call.target.queue = "q" * 255
        machine.start("call", False, False, 19.0, 1)
        second = machine.records[1].call
        assert second is not None
        machine.cancel_all("", "there")
        machine.settle()
        assert [id for id, _ in machine.broker.cancelled] == [second.id.decode()]
    finally:
        machine.teardown()


def test_a_failure_in_telling_workers_of_calls_that_are_given_up_is_logged_and_the_next_are_told() -> None:
    machine = ClientMachine()
    try:
        machine.make(durable=False)
        machine.sabotage("channel", 0)
        machine.start_and_give_up(["call"], "", "there")
        machine.nothing_raised_where_nothing_may()
        assert machine.broker.cancelled == []
        machine.start_and_give_up(["call"], "", "there")
        assert len(machine.broker.cancelled) == 1
    finally:
        machine.teardown()
        machine.nothing_raised_where_nothing_may()
