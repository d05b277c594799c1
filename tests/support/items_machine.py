"""What the machines of streams and uploads have in common: the wire, time, threads, and what must hold in the end."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.both_ends import BothEnds, Gate
from tests.support.model_wire import KINDS, Message, Queue, closed_by_broker
from warren import Service
from warren.amqp.frames import Properties, encode_properties
from warren.client.calls import CONFIRMED, PendingCall
from warren.client.options import Options
from warren.client.prepared import Prepared
from warren.errors import CallError, Execution
from warren.protocol.streaming import ITEM, Window, read_items
from warren.protocol.uploading import Kind

choices = st.integers(0, 100)
kinds = st.sampled_from([*KINDS, "control"])
SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=3)
#: Seconds that everything gets to end in, once nothing is in its way.
_AT_LAST = 100.0
#: Seconds in which a worker hears that its caller has gone: signs of life go every 5 s.
_SOON = 20.0
#: What may take away for good what a call would end with; its time ends it then.
HOPELESS = {
    "spoiled",
    "its request was doubled",
    "its channel was closed",
    "the caller was cut off",
    "the worker was cut off",
}
#: What ends one run, or begins another: nothing to those that yield the same.
_OTHER_RUNS = {"its request was doubled", "its channel was closed", "the worker was cut off"}
#: Seconds that the short calls have.
SHORT = 8.0
LONG = 5000.0
PROVEN = (Execution.NOT_SENT, Execution.NOT_EXECUTED)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Both ends log what is lost and broken."""
    loggers = [logging.getLogger(name) for name in ("warren.server", "warren.client", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def _rough(self: Any) -> bool:
    return not self.calm


def rough_or_alone(self: Any) -> bool:
    """Whether what would disturb all calls disturbs none that has to be left in peace."""
    return not self.calm or not self.alive()


class Run:
    """One run of a handler that yields.

    Attributes:
        yielded: its items; all but the last one, at least, were sent.
        published: how many were.
        closed: how often it was.
        ended: whether it has come to its end by itself.
    """

    def __init__(self, record: Record, number: int) -> None:
        self.record = record
        self.number = number
        self.yielded: list[str] = []
        self.published = 0
        self.closed = 0
        self.ended = False

    def item(self, number: int) -> str:
        sizes = self.record.sizes
        of = 0 if self.record.resumable else self.number
        made = f"{self.record.number}.{of}.{number}." + "x" * sizes[number % len(sizes)]
        self.yielded.append(made)
        return made


class Record:
    """What a machine knows of one call.

    Attributes:
        got: the items that its caller has got.
        ending: what it has ended in: ``end``, an exception, or ``left``.
        excuses: why it may end in an error that is not its handler's.
        twice: whether its request was doubled.
        resumable: whether each of its runs yields the same items.
    """

    def __init__(self, number: int, sizes: list[int], timeout: float, idle: float | None) -> None:
        self.number, self.sizes, self.idle = number, sizes, idle
        self.timeout = timeout
        self.deadline = 0.0
        self.id = b""
        self.call_id = b""
        self.runs: list[Run] = []
        self.by_id: dict[bytes | None, Run] = {}
        self.got: list[str] = []
        self.ending: Any = None
        self.excuses: set[str] = set()
        self.twice = False
        self.request: Message | None = None
        self.leave: Callable[[str], None] = lambda _how: None
        self.gates: list[Gate] = []
        self.resumable = False

    def excuse(self, why: str) -> None:
        if not (self.resumable and why in _OTHER_RUNS):
            self.excuses.add(why)

    @property
    def alive(self) -> bool:
        return self.ending is None

    @property
    def run(self) -> Run | None:
        """The one whose items its caller gets; of those that yield the same, the one that has come furthest."""
        if self.resumable:
            return max(self.runs, key=lambda run: len(run.yielded), default=None)
        return self.runs[int(self.got[0].split(".")[1])] if self.got else None

    def ends(self, ending: Any) -> None:
        assert self.ending is None, f"it has ended in {self.ending!r}, and now in {ending!r}"
        self.ending = ending

    def __repr__(self) -> str:
        return f"call {self.number} (got {len(self.got)}, {self.ending!r}, {self.excuses})"


class ItemsMachine(RuleBasedStateMachine):
    """The ends, the wire between them, and ways to disturb it."""

    calm = False  # whether calls are neither cut off nor given up, so that much can happen to them
    durable = False  # whether what was sent to the caller outlives its link

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []
        self.by_correlation: dict[bytes, Record] = {}
        self.wrong: list[str] = []
        self.hushed = 0.0  # seconds in which callers and workers could not hear of each other

    def service(self) -> Service:
        raise NotImplementedError

    @initialize(items=st.integers(1, 5), size=st.integers(20, 120), durable=st.booleans(), calm=st.booleans())
    def begin(self, items: int, size: int, durable: bool, calm: bool = False) -> None:
        self.calm = calm
        self.window, self.durable = Window(items, size), durable
        self.ends = BothEnds(self.service(), self.window, durable=durable)
        self.ends.wire.on_publish = self.published

    def hold_to(self, truth: object, otherwise: str) -> None:
        """An assertion that nobody can catch."""
        if not truth:
            self.wrong.append(otherwise)

    def prepare(self, record: Record, kind: Kind, name: str, items: Any = None) -> Prepared:
        record.deadline = self.ends.clock.now + record.timeout
        options = Options(timeout=record.timeout, idle_timeout=record.idle)
        hints = {"returns": str} if kind.verb in ("stream", "converse") else {}
        return Prepared(options, {}, kind, f"any.{name}", (record.number,), hints, items)

    # --- what is published --------------------------------------------------------------------------------------

    def published(self, exchange: str, key: str, p: Properties, body: bytes) -> None:
        id = p.correlation_id or b""
        if exchange == "warren":
            record = self.records[json.loads(body)[0]]
            record.id, record.call_id = id, p.message_id or b""
            record.request = Message(encode_properties(p), body)
            self.by_correlation[id] = record
        elif exchange == "" and p.type == ITEM and id in self.by_correlation:
            self.item_published(self.by_correlation[id], p, json.loads(body or b"[]"))

    def item_published(self, record: Record, p: Properties, items: list[str]) -> None:
        told = read_items(p)
        assert told is not None
        if not items:
            return
        run = record.run if record.resumable else None
        if run is None:
            run = record.by_id.setdefault(p.message_id, record.runs[int(items[0].split(".")[1])])
            self.hold_to(told.seq == run.published, f"item {told.seq} is sent where {run.published} is due: {record}")
        self.hold_to(run.yielded[told.seq : told.seq + told.number] == items, f"others are sent than yielded: {record}")
        run.published = max(run.published, told.seq + told.number)

    # --- the wire -----------------------------------------------------------------------------------------------

    @rule(kind=kinds)
    def messages_are_held_up(self, kind: str) -> None:
        self.ends.wire.held.add(kind)

    @rule(kind=kinds)
    def messages_come(self, kind: str) -> None:
        self.ends.wire.held.discard(kind)
        self.ends.settle()

    @rule(kind=kinds, count=st.integers(1, 3))
    def some_messages_come(self, kind: str, count: int) -> None:
        for queue in self.ends.wire.of_kind(kind):
            for _ in range(count):
                self.ends.loop.turn(partial(self.ends.wire.deliver, queue))
        self.ends.settle()

    def a_queue(self, kind: str) -> Queue | None:
        return next((queue for queue in self.ends.wire.of_kind(kind) if queue.messages), None)

    def gather(self, kind: str, busy: bool) -> None:
        """Have something to muddle: all go on for a while, and nothing of this kind comes."""
        if busy:
            self.ends.wire.held.add(kind)
            for gate in self.ends.gates:
                gate.let(2)
            self.time_passes(5.1)

    @rule(
        how=st.sampled_from(["lose", "lose", "all", "double", "swap", "turn round"]), which=choices, busy=st.booleans()
    )
    def what_is_told_of_credit_is_muddled(self, how: str, which: int, busy: bool = False) -> None:
        """Nothing that is lost or comes late there may do harm to a stream that goes on."""
        self.gather("control", busy)
        queue = self.a_queue("control")
        if queue is not None:
            muddle(queue.messages, how, which)

    @rule(how=st.sampled_from(["lose", "double", "swap"]), which=choices, busy=st.booleans())
    def replies_are_spoiled(self, how: str, which: int, busy: bool = False) -> None:
        self.gather("replies", busy)
        self.spoil(self.a_queue("replies"), how, which)

    def spoil(self, queue: Queue | None, how: str, which: int) -> None:
        if queue is None or (how == "swap" and len(queue.messages) < 2):
            return
        for at in (which, which + 1):
            record = self.by_correlation.get(queue.messages[at % len(queue.messages)].p.correlation_id or b"")
            if record is not None:
                record.excuses.add("spoiled")
        muddle(queue.messages, how, which)

    @rule(which=st.sampled_from(["client", "worker"]), held=st.booleans())
    def a_link_is_slow(self, which: str, held: bool) -> None:
        link = self.ends.supervisor.link if which == "client" else self.ends.workers_link
        if link is not None:
            link.held = held
            self.ends.settle()

    @precondition(_rough)
    @rule(again=st.booleans())
    def the_client_is_cut_off(self, again: bool) -> None:
        for record in self.alive():
            if not self.carries_on(record):
                record.excuses.add("the caller was cut off")
        self.ends.cut_client()
        if again:
            self.ends.connect_client()

    def carries_on(self, record: Record) -> bool:
        """Whether a call is not lost with its caller's link."""
        call = self.call_of(record)
        return self.durable and call is not None and call.state is CONFIRMED

    def call_of(self, record: Record) -> PendingCall | None:
        return self.ends.core._calls.find(record.id) if record.id else None

    @precondition(_rough)
    @rule(again=st.booleans())
    def the_worker_is_cut_off(self, again: bool) -> None:
        self.excuse_all("the worker was cut off")
        self.ends.cut_worker()
        if again:
            self.ends.connect_worker()

    @rule()
    def links_are_there_again(self) -> None:
        self.ends.connect_client()
        self.ends.connect_worker()

    @precondition(_rough)
    @rule()
    def the_worker_loses_its_channel(self) -> None:
        channel = self.ends.post._intake.channel
        if channel is not None:
            self.excuse_all("its channel was closed")
            self.ends.loop.turn(lambda: channel.close_with(closed_by_broker()))  # type: ignore[attr-defined]
            self.ends.settle()

    @rule()
    def the_client_loses_the_channel_for_credit(self) -> None:
        channel = self.ends.core.cancels._channel
        if channel is not None and channel.closed is None:
            self.ends.loop.turn(lambda: channel.close_with(closed_by_broker()))  # type: ignore[attr-defined]
            self.ends.settle()

    @precondition(_rough)
    @rule(which=choices)
    def a_request_is_doubled(self, which: int) -> None:
        """As when a worker that seems to be lost goes on."""
        asked = [record for record in self.alive() if record.request is not None]
        if asked:
            self.double(asked[which % len(asked)])

    def double(self, record: Record) -> None:
        assert record.request is not None
        record.twice = True
        record.excuse("its request was doubled")
        self.ends.wire.queues["any"].messages.append(record.request)
        self.ends.settle()

    # --- both sides ---------------------------------------------------------------------------------------------

    @precondition(_rough)
    @rule(which=choices, how=st.sampled_from(["cancel", "close"]))
    def a_caller_leaves(self, which: int, how: str) -> None:
        if alive := self.alive():
            alive[which % len(alive)].leave(how)
            self.ends.settle()

    @precondition(_rough)
    @rule(which=choices)
    def an_operator_stops_a_call(self, which: int) -> None:
        asked = [record for record in self.alive() if record.call_id]
        if asked:
            record = asked[which % len(asked)]
            record.excuses.add("an operator stopped it")
            self.ends.loop.turn(lambda: self.ends.worker.withdrawals.stop(record.call_id.decode()))
            self.ends.settle()

    @rule(hesitant=st.booleans(), which=choices)
    def threads_hesitate(self, hesitant: bool, which: int) -> None:
        self.ends.threads.hesitant = hesitant
        self.ends.threads.urge(which)
        self.ends.settle()

    @rule(seconds=st.sampled_from([0.3, 1.1, 2.1, 5.1, 5.1, 20.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        wire = self.ends.wire
        if wire.held & {"items", "replies"} or len(wire.links) < 2 or any(link.held for link in wire.links):
            self.hushed += seconds
        self.ends.pass_time(seconds)

    def alive(self) -> list[Record]:
        return [record for record in self.records if record.alive]

    def excuse_all(self, why: str) -> None:
        for record in self.alive():
            record.excuse(why)

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert not self.wrong, self.wrong
        if hasattr(self, "ends"):
            for error in [*self.ends.loop.errors, *self.ends.failures()]:
                raise error  # as itself: who looks for a fault must not take a mistake of the model for it

    @invariant()
    def callers_get_what_one_run_has_yielded_in_its_order(self) -> None:
        for record in self.records:
            run = record.run
            if run is not None:
                assert record.got == run.yielded[: len(record.got)], f"{record} of {run.yielded}"

    @invariant()
    def nobody_keeps_more_than_a_window(self) -> None:
        for record in self.records:
            for run in [] if record.twice or record.resumable else record.runs:
                self.within(run.yielded[: run.published], record.got, f"{record} was sent too many items")
                assert len(run.yielded) - run.published <= self.window.items + 1, f"{record}: too many are kept"

    def within(self, sent: list[str], consumed: list[str], otherwise: str) -> None:
        """No more than a window is unconsumed; but for the last item, whatever its size."""
        unconsumed = sent[len(consumed) :]
        assert len(unconsumed) <= self.window.items, otherwise
        assert sum(len(item) + 4 for item in unconsumed[:-1]) < self.window.bytes, otherwise

    def check_ending(self, record: Record) -> None:
        """What a call has ended in is true."""
        ending = record.ending
        if isinstance(ending, CallError):
            began = any(run.yielded for run in record.runs)
            assert not (began and ending.execution in PROVEN), f"{record}: it has begun"

    def late(self, record: Record) -> bool:
        """Whether it may have ended because its time was over."""
        return record.timeout == SHORT and self.ends.clock.now >= record.deadline

    # --- ways to where something may go wrong -------------------------------------------------------------------

    def clear_the_way(self) -> None:
        """Nothing is held up, and both ends are there."""
        self.ends.threads.hesitant = False
        self.ends.wire.held.clear()
        for link in self.ends.wire.links:
            link.held = False
        self.ends.pass_time(10.0)  # a link's loss may be under way
        self.ends.connect_client()
        self.ends.connect_worker()

    def begin_in_the_clear(self, begin: Callable[..., None], held: str = "", **how: Any) -> Any:
        """A call that nothing stops, but that one kind of message may be held up."""
        self.clear_the_way()
        self.ends.wire.held.add(held)
        begin(**{"sizes": (0,), **how})
        return self.records[-1]

    def items_of(self, record: Record, kind: str) -> list[tuple[Queue, Message]]:
        """Its items that are on their way."""
        found = [(queue, message) for queue in self.ends.wire.of_kind(kind) for message in queue.messages]
        return [(q, m) for q, m in found if m.p.correlation_id == record.id and m.p.type == ITEM and m.body]

    def go_astray(self, record: Record, kind: str, how: str, which: int) -> None:
        """Spoil one of its items, in front of others that are on their way as well, and of the end."""
        if items := self.items_of(record, kind):
            queue, message = items[which % len(items)]
            self.spoil(queue, how, queue.messages.index(message))
            self.messages_come(kind)
            self.must_be_over(record)

    def one_by_one(self, gate: Gate, count: int) -> None:
        """Let so many pass, so that each item travels in a message of its own."""
        for _ in range(count):
            gate.let(1)
            self.ends.settle()

    def must_be_over(self, record: Record) -> None:
        """Nothing stops it any more, so it ends soon, and in what is true."""
        if not record.alive:
            self.soon_over([record])
        for gate in record.gates:
            gate.open()
        self.ends.pass_time(_SOON)
        assert not record.alive, f"it does not get on: {record}"
        self.soon_over([record])
        self.check_ending(record)

    # --- the end ------------------------------------------------------------------------------------------------

    def soon_over(self, records: list[Any]) -> None:
        """What has ended for its caller ends at its worker, long before its time is over."""
        for record in records:
            for gate in record.gates:
                gate.open()
        self.ends.pass_time(_SOON)
        for record in records:
            for run in record.runs:
                assert run.closed == 1, f"{record}: run {run.number} was closed {run.closed} times"

    def come_to_the_end(self) -> None:
        """Nothing is in the way any more: all that goes on ends, and nothing is left of it."""
        ends = self.ends
        self.clear_the_way()
        self.soon_over([record for record in self.records if not record.alive])
        for gate in ends.gates:
            gate.open()
        ends.pass_time(_AT_LAST)
        stuck = [r for r in self.alive() if not (r.excuses & HOPELESS) and not self.late(r)]
        assert not stuck, f"it does not get on: {stuck}"
        self.soon_over([record for record in self.records if not record.alive])
        if self.alive():  # which has lost something for good: its time ends it
            ends.pass_time(LONG)
        ends.pass_time(60.0)  # and threads that wait for a while
        assert not self.alive(), f"it never ends: {self.alive()}"
        self.nothing_is_wrong()
        self.callers_get_what_one_run_has_yielded_in_its_order()
        for record in self.records:
            self.check_ending(record)
            for run in record.runs:
                assert run.closed == 1, f"{record}: run {run.number} was closed {run.closed} times"
        assert not ends.left_over(), ends.left_over()

    def teardown(self) -> None:
        if hasattr(self, "ends"):
            try:
                self.come_to_the_end()
            finally:
                self.ends.close()


def muddle(messages: deque[Message], how: str, which: int) -> None:
    """Lose, double or misplace what is on its way."""
    at = which % len(messages)
    if how == "all":
        messages.clear()
    elif how == "lose":
        del messages[at]
    elif how == "double":
        messages.insert(at, Message(messages[at].properties, messages[at].body))
    elif how == "turn round":
        messages.reverse()
    elif len(messages) > 1:
        one, other = at, (at + 1) % len(messages)
        messages[one], messages[other] = messages[other], messages[one]
