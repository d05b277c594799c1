"""Whatever happens to what a caller sends, in whatever order: its handler gets all of it, or hears that it did not.

The same ends and the same wire as for streams (`test_stream_machine`); here items go from the caller to the worker,
and, in conversations, others back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.support.both_ends import Gate
from tests.support.items_machine import (
    LONG,
    SHORT,
    SIZES,
    ItemsMachine,
    Record,
    Run,
    choices,
    muddle,
    quietly,
    rough_or_alone,
)
from tests.support.model_wire import closed_by_broker
from tests.support.turns import Stopped
from warren import Service
from warren.client.streams import AsyncStream, BlockingStream
from warren.client.uploads import upload, upload_in_thread
from warren.errors import CallError, RemoteError
from warren.protocol.streaming import ITEM
from warren.protocol.uploading import CONVERSATION, END, TAKEN, UPLOAD

METHODS = st.sampled_from(["store", "keep", "store", "keep", "talk", "chat"])

pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with quietly():
        yield


#: Bytes of a small item, at most.
MOST_BYTES = 20
#: Seconds without a word from its caller after which a handler hears that something is wrong.
LONG_SILENCE = 70.0
#: Seconds in which a caller is silent, at most, where one sign of life is lost.
BETWEEN_SIGNS = 10.0


class Taken:
    """What one run of a handler has taken.

    Attributes:
        whole: whether it has come to the end of what was sent.
        error: what it was told instead.
    """

    def __init__(self) -> None:
        self.items: list[str] = []
        self.whole = False
        self.error: BaseException | None = None
        self.over = False


@contextlib.contextmanager
def ended_in(taken: Taken) -> Iterator[None]:
    """Notes how it went on in a handler that takes items; their end is no error."""
    try:
        yield
    except (StopIteration, StopAsyncIteration):
        taken.whole = True
    except BaseException as error:
        taken.error = error
        raise
    finally:
        taken.over = True


class Uploading(Record):
    """An upload or a conversation, and what its caller and its handler do when they are let.

    Attributes:
        given: what its caller has given.
        source_closed, source_ended: how often what gives it was closed, and whether it came to its end.
        most: how many items its handler takes, at most.
    """

    def __init__(self, machine: UploadMachine, count: int, breaks: bool, most: int, fails: bool, *given: Any) -> None:
        super().__init__(len(machine.records), *given)
        self.count, self.breaks, self.most, self.fails = count, breaks, most, fails
        self.given: list[str] = []
        self.taken: list[Taken] = []
        self.source_begun = self.source_ended = False
        self.source_closed = 0
        self.asked_at = 0.0
        self.gates = [Gate(machine.ends) for _ in range(3)]
        self.gives, self.handles, self.takes = self.gates
        self.on_loop = False  # what gives its items

    def give(self, at: int) -> str:
        made = f"{self.number}.{at}." + "y" * self.sizes[at % len(self.sizes)]
        self.given.append(made)
        return made


class SourceBroke(Exception):
    """What gives the items has failed."""


class UploadMachine(ItemsMachine):
    """See the module."""

    records: list[Uploading]  # type: ignore[assignment]
    deleted = False  # whether the queue for items was

    def service(self) -> Service:
        service = Service("any")
        for function in (*self.uploads(), *self.conversations()):
            service.method(function)
        return service

    def uploads(self) -> tuple[Any, Any]:
        async def store(items: AsyncIterator[str], number: int) -> int:
            record, taken = self.taken_by(number)
            with ended_in(taken):
                await record.handles.passed()
                while len(taken.items) < record.most:
                    taken.items.append(await anext(items))
                    await record.handles.passed()
            return self.stored(record, taken)

        def keep(items: Iterator[str], number: int) -> int:
            record, taken = self.taken_by(number)
            with ended_in(taken):
                record.handles.passed_in_thread()
                while len(taken.items) < record.most:
                    taken.items.append(next(items))
                    record.handles.passed_in_thread()
            return self.stored(record, taken)

        return store, keep

    def conversations(self) -> tuple[Any, Any]:
        async def talk(items: AsyncIterator[str], number: int) -> AsyncIterator[str]:
            record, taken = self.taken_by(number)
            run = Run(record, len(record.runs))
            record.runs.append(run)
            try:
                with ended_in(taken):
                    while len(taken.items) < record.most:
                        await record.handles.passed()
                        taken.items.append(await anext(items))
                        yield run.item(len(taken.items) - 1)
            finally:
                run.closed += 1
            self.stored(record, taken)
            run.ended = True

        def chat(items: Iterator[str], number: int) -> Iterator[str]:
            record, taken = self.taken_by(number)
            run = Run(record, len(record.runs))
            record.runs.append(run)
            try:
                with ended_in(taken):
                    while len(taken.items) < record.most:
                        record.handles.passed_in_thread()
                        taken.items.append(next(items))
                        yield run.item(len(taken.items) - 1)
            finally:
                run.closed += 1
            self.stored(record, taken)
            run.ended = True

        return talk, chat

    def taken_by(self, number: int) -> tuple[Uploading, Taken]:
        record = self.records[number]
        record.taken.append(Taken())
        return record, record.taken[-1]

    @staticmethod
    def stored(record: Uploading, taken: Taken) -> int:
        if record.fails:
            raise ValueError("the handler's own")
        return len(taken.items)

    # --- what is sent -------------------------------------------------------------------------------------------

    def source(self, record: Uploading) -> Iterator[str]:
        record.source_begun = True
        try:
            for at in range(record.count):
                record.gives.passed_in_thread()
                yield record.give(at)
            if record.breaks:
                raise SourceBroke
            record.source_ended = True
        finally:
            record.source_closed += 1

    async def async_source(self, record: Uploading) -> AsyncIterator[str]:
        record.source_begun = record.on_loop = True
        try:
            for at in range(record.count):
                await record.gives.passed()
                yield record.give(at)
            if record.breaks:
                raise SourceBroke
            record.source_ended = True
        finally:
            record.source_closed += 1

    # --- callers ------------------------------------------------------------------------------------------------

    @rule(
        method=METHODS,
        blocking=st.booleans(),
        count=st.integers(0, 12),
        breaks=st.sampled_from([False, False, False, True]),
        most=st.sampled_from([100, 100, 0, 3]),
        fails=st.sampled_from([False, False, True]),
        sizes=SIZES,
        timeout=st.sampled_from([LONG, LONG, LONG, SHORT]),
        idle=st.sampled_from([None, None, 3.0]),
        gives=st.integers(0, 12),
        handles=st.integers(0, 13),
        takes=st.integers(0, 12),
    )
    def an_upload_begins(
        self,
        method: str = "store",
        blocking: bool = False,
        count: int = 5,
        breaks: bool = False,
        most: int = 100,
        fails: bool = False,
        sizes: Any = (1,),
        timeout: float = LONG,
        idle: float | None = None,
        gives: int = 12,
        handles: int = 13,
        takes: int = 12,
    ) -> None:
        record = Uploading(self, count, breaks, most, fails, sizes, timeout, idle)
        self.records.append(record)
        for gate, count_ in ((record.gives, gives), (record.handles, handles), (record.takes, takes)):
            gate.let(count_)
        talks = method in ("talk", "chat")
        if blocking:
            (self.talk_in_thread if talks else self.upload_in_thread)(record, method)
        else:
            (self.talk_in_task if talks else self.upload_in_task)(record, method)
        self.ends.settle()

    def upload_in_task(self, record: Uploading, method: str) -> None:
        prepared = self.prepare(record, UPLOAD, method, self.async_source(record))
        task: list[asyncio.Task[None]] = []

        async def send() -> None:
            try:
                result = await upload(prepared, lambda: self.ends.core)
            except asyncio.CancelledError:
                record.ends("left")
            except BaseException as error:
                self.ended(record, error)
            else:
                record.ends(result)

        record.leave = lambda _how: self.ends.loop.turn(task[0].cancel)
        self.ends.loop.turn(lambda: task.append(self.ends._spawn(send())))

    def upload_in_thread(self, record: Uploading, method: str) -> None:
        prepared = self.prepare(record, UPLOAD, method, self.source(record))

        def send() -> None:
            try:
                result = upload_in_thread(prepared, lambda: self.ends.io)
            except Stopped:
                raise
            except BaseException as error:
                self.ended(record, error)
            else:
                record.ends(result)

        self.ends.threads.start(send)

    def talk_in_task(self, record: Uploading, method: str) -> None:
        prepared = self.prepare(record, CONVERSATION, method, self.async_source(record))
        stream: AsyncStream[str] = AsyncStream(prepared, lambda: self.ends.core)
        task: list[asyncio.Task[None]] = []

        async def take() -> None:
            try:
                while True:
                    await record.takes.passed()
                    record.asked_at = self.ends.clock.now
                    record.got.append(await anext(stream))
            except StopAsyncIteration:
                record.ends("end")
            except asyncio.CancelledError:
                await stream.aclose()
                record.ends("left")
            except BaseException as error:
                self.ended(record, error)

        def leave(how: str) -> None:
            if how == "cancel":
                self.ends.loop.turn(task[0].cancel)
            else:
                record.excuses.add("its caller has closed it")
                self.ends.loop.turn(lambda: self.ends._spawn(stream.aclose()))

        record.leave = leave
        self.ends.loop.turn(lambda: task.append(self.ends._spawn(take())))

    def talk_in_thread(self, record: Uploading, method: str) -> None:
        prepared = self.prepare(record, CONVERSATION, method, self.source(record))
        stream: BlockingStream[str] = BlockingStream(prepared, lambda: self.ends.io, owner=None)

        def take() -> None:
            try:
                while True:
                    record.takes.passed_in_thread()
                    record.asked_at = self.ends.clock.now
                    record.got.append(next(stream))
            except Stopped:
                raise
            except StopIteration:
                record.ends("end")
            except BaseException as error:
                self.ended(record, error)

        def leave(_how: str) -> None:
            record.excuses.add("its caller has closed it")
            stream.close()

        record.leave = leave
        self.ends.threads.start(take)

    def ended(self, record: Uploading, error: BaseException) -> None:
        if isinstance(error, CallError) and error.reason == "IDLE":
            self.hold_to(record.idle, f"{record} may be idle")
            record.excuses.add("it was idle")
        if isinstance(error, CallError) and error.reason == "STREAM_DOWN":
            self.hold_to(self.deleted, f"{record} is refused without need")
            record.excuses.add("the queue for items is not there again")
        if isinstance(error, CallError) and "has been silent" in str(error):
            self.hold_to(self.hushed >= 60, f"{record}: its caller has not been silent")
            record.excuses.add("its caller could not be heard")
        if isinstance(error, SourceBroke):
            self.hold_to(record.breaks, f"{record} has failed, and what gave its items has not")
        if self.ends.clock.now >= record.deadline:
            record.excuses.add("it was late")
        record.ends(error)

    @rule(which=choices, count=st.integers(1, 8), who=st.sampled_from(["gives", "handles", "takes"]))
    def one_goes_on(self, which: int, count: int, who: str) -> None:
        if self.records:
            getattr(self.records[which % len(self.records)], who).let(count)
            self.ends.settle()

    # --- the wire -----------------------------------------------------------------------------------------------

    @rule(how=st.sampled_from(["lose", "double", "swap"]), which=choices, busy=st.booleans())
    def items_are_spoiled(self, how: str, which: int, busy: bool = False) -> None:
        self.gather("items", busy)
        self.hushed += BETWEEN_SIGNS * (how == "lose")
        self.spoil(self.a_queue("items"), how, which)

    @rule(how=st.sampled_from(["lose", "all", "double", "swap", "turn round"]), which=choices, busy=st.booleans())
    def what_is_told_of_taking_is_muddled(self, how: str, which: int, busy: bool = False) -> None:
        """Each of these messages is enough by itself: to lose one, or get it late, does no harm."""
        self.gather("replies", busy)
        self.muddle_what_is_told_of_taking(how, which)

    def muddle_what_is_told_of_taking(self, how: str, which: int) -> None:
        for queue in self.ends.wire.of_kind("replies"):
            places = [at for at, message in enumerate(queue.messages) if message.p.type == TAKEN]
            told = deque(queue.messages[at] for at in places)
            if told:
                muddle(told, how, which)
                rest = [message for message in queue.messages if message.p.type != TAKEN]
                queue.messages = deque([*told, *rest])

    @rule(lost=st.booleans(), busy=st.booleans())
    def ends_and_signs_of_life_are_lost_or_doubled(self, lost: bool, busy: bool = False) -> None:
        """They are told again."""
        self.gather("items", busy)
        self.hushed += BETWEEN_SIGNS * lost
        for queue in self.ends.wire.of_kind("items"):
            queue.messages = deque(
                m for m in queue.messages for _ in range(1 if m.p.type == ITEM and m.body else 0 if lost else 2)
            )

    @rule(
        method=st.sampled_from(["store", "keep"]),
        blocking=st.booleans(),
        count=st.sampled_from([1, 2, 3, 3]),
        handles=st.sampled_from([1, 1, 13]),
        how=st.sampled_from(["lose", "double", "double", "lose what is before"]),
    )
    def the_end_of_a_small_upload_is_muddled(
        self, method: str, blocking: bool, count: int, handles: int, how: str
    ) -> None:
        record = self.begin_in_the_clear(
            self.an_upload_begins, "items", method=method, blocking=blocking, count=count, handles=handles, sizes=(20,)
        )
        for queue in self.ends.wire.of_kind("items"):
            if how == "lose what is before" and len(queue.messages) > 1 and queue.messages[-1].p.type == END:
                self.spoil(queue, "lose", len(queue.messages) - 2)
        if how != "lose what is before":
            self.ends_and_signs_of_life_are_lost_or_doubled(how == "lose")
        self.messages_come("items")
        self.must_be_over(record)

    @precondition(lambda self: not self.calm)
    @rule()
    def the_queue_for_items_is_deleted(self) -> None:
        queue = self.ends.post.uploads.queue.name
        if queue:
            self.deleted = True
            self.excuse_all("the queue for its items was deleted")
            self.ends.loop.turn(lambda: self.ends.wire.delete(queue))
            self.ends.settle()

    @precondition(lambda self: not self.calm)
    @rule(whose=st.sampled_from(["client", "worker"]))
    def a_channel_for_items_is_closed(self, whose: str) -> None:
        holder: Any = self.ends.core.cancels.uplink if whose == "client" else self.ends.post.uploads.queue
        channel = holder._channel
        if channel is not None and channel.closed is None:
            self.deleted = self.deleted or whose == "worker"
            self.excuse_all("the channel for its items was closed")
            self.ends.loop.turn(lambda: channel.close_with(closed_by_broker()))
            self.ends.settle()

    # --- ways to where something may go wrong -------------------------------------------------------------------

    @rule(
        method=METHODS,
        blocking=st.booleans(),
        count=st.integers(1, 5),
        how=st.sampled_from(["lose", "lose", "double", "swap"]),
        which=choices,
    )
    def items_go_astray(self, method: str, blocking: bool, count: int, how: str, which: int) -> None:
        record = self.begin_in_the_clear(
            self.an_upload_begins, "items", method=method, blocking=blocking, count=count, gives=0
        )
        self.one_by_one(record.gives, count)
        self.go_astray(record, "items", how, which)

    @rule(
        method=METHODS,
        blocking=st.booleans(),
        more=st.integers(1, 7),
        how=st.sampled_from(["turn round", "turn round", "swap", "lose", "all", "double"]),
        which=choices,
    )
    def what_is_told_of_a_whole_window_is_muddled(
        self, method: str, blocking: bool, more: int, how: str, which: int
    ) -> None:
        """The caller waits for it, with more to send."""
        record = self.begin_in_the_clear(
            self.an_upload_begins, method=method, blocking=blocking, count=self.window.items + more, handles=1
        )
        self.ends.wire.held.add("replies")
        self.one_by_one(record.handles, self.window.items)
        self.muddle_what_is_told_of_taking(how, which)
        self.messages_come("replies")
        self.must_be_over(record)

    @rule(method=METHODS, most=st.integers(0, 4), more=st.integers(0, 3), fails=st.booleans())
    def a_handler_ends_before_its_items(self, method: str, most: int, more: int, fails: bool) -> None:
        """What gives them is closed, though it waits; in a thread it would first have to give one more."""
        record = self.begin_in_the_clear(
            self.an_upload_begins, method=method, count=9, gives=most + more, most=most, fails=fails
        )
        self.ends.pass_time(1.1)
        assert not record.alive, f"it does not get on: {record}"
        self.must_be_over(record)

    @rule(method=METHODS, blocking=st.booleans(), count=st.integers(0, 5))
    def what_gives_items_breaks(self, method: str, blocking: bool, count: int) -> None:
        record = self.begin_in_the_clear(
            self.an_upload_begins, method=method, blocking=blocking, count=count, breaks=True
        )
        self.must_be_over(record)

    @rule(method=METHODS, blocking=st.booleans(), handles=st.integers(1, 4), sizes=SIZES)
    def a_window_is_used_up(self, method: str, blocking: bool, handles: int, sizes: list[int]) -> None:
        """Its caller would give more, and its handler does not take it yet, and says so again and again."""
        record = self.begin_in_the_clear(
            self.an_upload_begins, method=method, blocking=blocking, count=12, handles=handles, sizes=sizes
        )
        self.ends.pass_time(11.0)
        self.nobody_keeps_more_than_a_window_of_what_is_given()
        self.must_be_over(record)

    @precondition(rough_or_alone)
    @rule(
        method=METHODS,
        blocking=st.booleans(),
        given=st.integers(0, 5),
        more=st.integers(1, 5),
        way=st.sampled_from(["queue", "client", "worker"]),
    )
    def the_way_of_items_is_closed_under_an_upload(
        self, method: str, blocking: bool, given: int, more: int, way: str
    ) -> None:
        """Neither its handler nor its caller waits for ever."""
        record = self.begin_in_the_clear(
            self.an_upload_begins, method=method, blocking=blocking, count=given + more, gives=given
        )
        if way == "queue":
            self.the_queue_for_items_is_deleted()
        else:
            self.a_channel_for_items_is_closed(way)
        self.must_be_over(record)

    @precondition(rough_or_alone)
    @rule(method=METHODS, blocking=st.booleans(), given=st.integers(0, 5), more=st.integers(1, 5))
    def a_caller_is_cut_off_from_its_upload(self, method: str, blocking: bool, given: int, more: int) -> None:
        """Its handler waits for items, and hears it by what it tells."""
        record = self.begin_in_the_clear(
            self.an_upload_begins, method=method, blocking=blocking, count=given + more, gives=given
        )
        self.the_client_is_cut_off(again=True)
        self.must_be_over(record)

    @precondition(rough_or_alone)
    @rule(method=st.sampled_from(["store", "keep"]), blocking=st.booleans(), count=st.integers(1, 5))
    def two_runs_take_the_same_items(self, method: str, blocking: bool, count: int) -> None:
        """Within one window, so that neither needs to wait for the other."""
        count = min(count, self.window.items)
        record = self.begin_in_the_clear(
            self.an_upload_begins, method=method, blocking=blocking, count=count, gives=0, handles=2
        )
        if record.alive:  # else there is no queue for items
            self.double(record)
        self.must_be_over(record)
        if self.window.bytes >= MOST_BYTES * count:
            assert all(taken.whole for taken in record.taken), f"{record}: one of its runs has not heard all"

    @rule(method=METHODS, blocking=st.booleans(), given=st.integers(0, 3), more=st.integers(1, 3))
    def a_caller_falls_silent(self, method: str, blocking: bool, given: int, more: int) -> None:
        """Its handler does not wait for ever: it hears that something is wrong."""
        record = self.begin_in_the_clear(
            self.an_upload_begins, "items", method=method, blocking=blocking, count=given + more, gives=given
        )
        self.time_passes(LONG_SILENCE)
        for queue in self.ends.wire.of_kind("items"):
            queue.messages.clear()
        assert all(taken.over for taken in record.taken), f"{record}: its handler still waits"
        self.messages_come("items")
        self.must_be_over(record)

    def carries_on(self, record: Record) -> bool:
        """Items are lost with the caller's link."""
        return False

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def handlers_get_what_was_given_in_its_order(self) -> None:
        for record in self.records:
            for taken in record.taken:
                assert taken.items == record.given[: len(taken.items)], f"{record}: {taken.items} of {record.given}"
                if taken.whole:
                    assert record.source_ended, f"{record}: its handler was told of an end that is none"
                    assert taken.items == record.given, f"{record}: its handler was told of an end, and it is short"

    @invariant()
    def nobody_keeps_more_than_a_window_of_what_is_given(self) -> None:
        for record in self.records:
            most = max((taken.items for taken in record.taken), key=len, default=[])
            if not record.twice:
                self.within(record.given, most, f"{record} gives too much")

    def soon_over(self, records: list[Any]) -> None:
        for record in records:
            if record.on_loop:
                assert record.source_closed == 1, f"{record}: what gave its items stays open"
        super().soon_over(records)
        for record in records:
            assert all(taken.over for taken in record.taken), f"{record}: its handler goes on"

    def check_ending(self, record: Record) -> None:
        assert isinstance(record, Uploading)
        ending = record.ending
        super().check_ending(record)
        self.handlers_get_what_was_given_in_its_order()
        assert record.source_closed == record.source_begun, f"{record}: its source was closed {record.source_closed}"
        if isinstance(ending, int) and not record.runs:
            assert ending in [len(t.items) for t in record.taken if t.error is None], f"{record}: a wrong result"
            assert not record.fails, f"{record} has ended well, and its handler has raised"
        elif ending == "end" and "its caller has closed it" not in record.excuses:
            assert record.run is None or record.got == record.run.yielded, f"{record} is short"
            assert any(run.ended for run in record.runs), f"{record} has ended, and its handler has not"
        elif not record.excuses and ending != "left":
            self.check_error(record, ending)

    @staticmethod
    def check_error(record: Uploading, ending: Any) -> None:
        if isinstance(ending, SourceBroke):
            return
        assert record.fails, f"{record} ended in an error that nothing explains"
        assert isinstance(ending, RemoteError), f"{record} ended in another error than its handler's"


TestUploads = UploadMachine.TestCase
TestUploads.settings = settings(stateful_step_count=30)
