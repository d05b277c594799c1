"""Whatever happens to a stream, in whatever order: its caller gets all that was yielded, or hears that it did not.

Client and worker are real, in all their parts, and so is what runs in threads; broker, time and the order in which
threads run are the machine's. After each step, and when all has come to rest, both are held against what was yielded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.support.both_ends import Gate
from tests.support.items_machine import LONG, SHORT, SIZES, ItemsMachine, Record, Run, choices, quietly, rough_or_alone
from tests.support.model_wire import Message
from tests.support.turns import Stopped
from warren import Service
from warren.client.streams import AsyncStream, BlockingStream
from warren.errors import CallError, RemoteError
from warren.protocol.streaming import read_items
from warren.protocol.uploading import STREAM

_WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "_again": {"delivery": "at-least-once"},
    "_resumable": {"delivery": "at-least-once", "resumable": True, "max_attempts": 1000},
}
NAMES = ("on_loop", "in_thread")
METHODS = st.sampled_from([name + way for way in ("", *_WAYS) for name in NAMES])
OF_ONE_RUN = st.sampled_from([*NAMES, *(name + "_again" for name in NAMES)])

pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with quietly():
        yield


class Streaming(Record):
    """A stream, and what its handler and its caller do when they are let.

    Attributes:
        waits: whether its caller has asked for an item, since `asked_at`.
    """

    def __init__(self, machine: StreamMachine, count: int, fails: bool, *given: Any) -> None:
        super().__init__(len(machine.records), *given)
        self.count, self.fails = count, fails
        self.asked_at, self.waits = 0.0, False
        self.gates = [Gate(machine.ends), Gate(machine.ends)]
        self.yields, self.takes = self.gates


class StreamMachine(ItemsMachine):
    """See the module."""

    records: list[Streaming]  # type: ignore[assignment]
    hesitated_at = 0.0  # when threads last did

    def service(self) -> Service:
        service = Service("any")
        for way, options in _WAYS.items():
            for function, name in zip(self.generators(), NAMES, strict=True):
                service.method(name=name + way, **options)(function)
        return service

    def generators(self) -> tuple[Any, Any]:
        async def on_loop(number: int) -> AsyncIterator[str]:
            run = self.begun(number)
            try:
                for at in range(run.record.count):
                    await run.record.yields.passed()
                    yield run.item(at)
                self.comes_to_its_end(run)
            finally:
                run.closed += 1

        def in_thread(number: int) -> Iterator[str]:
            run = self.begun(number)
            try:
                for at in range(run.record.count):
                    run.record.yields.passed_in_thread()
                    yield run.item(at)
                self.comes_to_its_end(run)
            finally:
                run.closed += 1

        return on_loop, in_thread

    def begun(self, number: int) -> Any:
        record = self.records[number]
        run = Run(record, len(record.runs))
        record.runs.append(run)
        return run

    @staticmethod
    def comes_to_its_end(run: Any) -> None:
        run.ended = True
        if run.record.fails:
            raise ValueError("the handler's own")

    # --- callers ------------------------------------------------------------------------------------------------

    @rule(
        method=METHODS,
        blocking=st.booleans(),
        count=st.integers(0, 12),
        fails=st.booleans(),
        sizes=SIZES,
        timeout=st.sampled_from([LONG, LONG, LONG, SHORT]),
        idle=st.sampled_from([None, None, 3.0]),
        yields=st.integers(0, 12),
        takes=st.integers(0, 12),
    )
    def a_stream_begins(
        self,
        method: str = "on_loop",
        blocking: bool = False,
        count: int = 5,
        fails: bool = False,
        sizes: Any = (1,),
        timeout: float = LONG,
        idle: float | None = None,
        yields: int = 12,
        takes: int = 12,
    ) -> None:
        record = Streaming(self, count, fails, sizes, timeout, idle)
        record.resumable = method.endswith("_resumable")
        self.records.append(record)
        record.yields.let(yields)
        record.takes.let(takes)
        if blocking:
            self.take_in_thread(record, method)
        else:
            self.take_in_task(record, method)
        self.ends.settle()

    def take_in_task(self, record: Streaming, method: str) -> None:
        stream: AsyncStream[str] = AsyncStream(self.prepare(record, STREAM, method), lambda: self.ends.core)
        task: list[asyncio.Task[None]] = []

        async def take() -> None:
            try:
                while True:
                    await record.takes.passed()
                    record.asked_at, record.waits = self.ends.clock.now, True
                    record.got.append(await anext(stream))
                    record.waits = False
            except StopAsyncIteration:
                await self.ends_once_async(stream)
                record.ends("end")
            except asyncio.CancelledError:
                record.ends("left")
                await stream.aclose()
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

    @staticmethod
    async def ends_once_async(stream: AsyncStream[str]) -> None:
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    def take_in_thread(self, record: Streaming, method: str) -> None:
        stream: BlockingStream[str] = BlockingStream(
            self.prepare(record, STREAM, method), lambda: self.ends.io, owner=None
        )

        def take() -> None:
            try:
                while True:
                    record.takes.passed_in_thread()
                    record.asked_at, record.waits = self.ends.clock.now, True
                    record.got.append(next(stream))
                    record.waits = False
            except Stopped:
                raise
            except StopIteration:
                with pytest.raises(StopIteration):
                    next(stream)
                record.ends("end")
            except BaseException as error:
                self.ended(record, error)

        def leave(_how: str) -> None:
            record.excuses.add("its caller has closed it")
            stream.close()

        record.leave = leave
        self.ends.threads.start(take)

    def ended(self, record: Streaming, error: BaseException) -> None:
        now = self.ends.clock.now
        if isinstance(error, CallError) and error.reason == "IDLE":
            self.hold_to(record.idle and now >= record.asked_at + record.idle, f"{record} has not been idle so long")
            record.excuses.add("it was idle")
        if now >= record.deadline:
            record.excuses.add("it was late")
        record.ends(error)

    @rule(which=choices, count=st.integers(1, 8))
    def a_caller_takes(self, which: int, count: int) -> None:
        if self.records:
            self.records[which % len(self.records)].takes.let(count)
            self.ends.settle()

    @rule(which=choices, count=st.integers(1, 8))
    def a_handler_yields(self, which: int, count: int) -> None:
        if self.records:
            self.records[which % len(self.records)].yields.let(count)
            self.ends.settle()

    # --- ways to where something may go wrong -------------------------------------------------------------------

    @rule(method=METHODS, blocking=st.booleans(), more=st.integers(1, 7), times=st.integers(1, 2))
    def all_that_is_told_of_credit_is_lost(self, method: str, blocking: bool, more: int, times: int) -> None:
        """The worker waits for it, and nothing comes that would make the caller tell more."""
        record = self.begin_in_the_clear(
            self.a_stream_begins, "control", method=method, blocking=blocking, count=self.window.items + more
        )
        for _ in range(times):
            self.ends.pass_time(1.1)
            for queue in self.ends.wire.of_kind("control"):
                queue.messages.clear()
        self.messages_come("control")
        self.must_be_over(record)

    @rule(
        method=METHODS,
        blocking=st.booleans(),
        count=st.sampled_from([12, 12, 6, 4]),
        fails=st.booleans(),
        takes=st.integers(1, 3),
        sizes=SIZES,
    )
    def a_window_is_used_up(
        self, method: str, blocking: bool, count: int, fails: bool, takes: int, sizes: list[int]
    ) -> None:
        """Its handler would yield more, or has ended, and its caller does not take it yet."""
        how: Any = {"method": method, "blocking": blocking, "count": count, "fails": fails, "sizes": sizes}
        record = self.begin_in_the_clear(self.a_stream_begins, takes=takes, **how)
        self.nobody_keeps_more_than_a_window()
        self.must_be_over(record)

    @precondition(rough_or_alone)
    @rule(method=METHODS, blocking=st.booleans(), yields=st.integers(1, 5))
    def a_caller_is_cut_off_from_its_stream(self, method: str, blocking: bool, yields: int) -> None:
        """Its handler has more to yield than a window; where the caller does not get that any more, it hears so."""
        record = self.begin_in_the_clear(
            self.a_stream_begins, method=method, blocking=blocking, count=12, yields=yields
        )
        self.the_client_is_cut_off(again=True)
        self.must_be_over(record)

    @rule(method=METHODS, blocking=st.booleans(), yields=st.integers(0, 5))
    def a_handler_pauses_for_too_long(self, method: str, blocking: bool, yields: int) -> None:
        """Its caller waits for so long, and no longer."""
        record = self.begin_in_the_clear(
            self.a_stream_begins, method=method, blocking=blocking, count=yields + 1, yields=yields, idle=3.0
        )
        self.ends.pass_time(5.1)
        self.nobody_waits_longer_than_it_would()
        self.must_be_over(record)

    @rule(
        method=METHODS,
        blocking=st.booleans(),
        count=st.integers(1, 5),
        how=st.sampled_from(["lose", "lose", "double", "swap"]),
        which=choices,
    )
    def items_go_astray(self, method: str, blocking: bool, count: int, how: str, which: int) -> None:
        record = self.begin_in_the_clear(
            self.a_stream_begins, "replies", method=method, blocking=blocking, count=count, yields=0
        )
        self.one_by_one(record.yields, count)
        self.go_astray(record, "replies", how, which)

    @precondition(lambda self: self.durable and (not self.calm or all(map(self.carries_on, self.alive()))))
    @rule(method=METHODS, blocking=st.booleans(), taken=st.integers(1, 5), more=st.integers(0, 5))
    def items_come_again(self, method: str, blocking: bool, taken: int, more: int) -> None:
        """A link is lost with what would have acknowledged them."""
        record = self.begin_in_the_clear(
            self.a_stream_begins, method=method, blocking=blocking, count=taken + more, yields=0
        )
        assert self.ends.supervisor.link is not None
        self.ends.supervisor.link.held = True
        self.one_by_one(record.yields, taken)
        self.the_client_is_cut_off(again=True)
        self.must_be_over(record)

    @precondition(rough_or_alone)
    @rule(
        name=st.sampled_from(NAMES),
        blocking=st.booleans(),
        count=st.integers(0, 12),
        yields=st.integers(0, 12),
        takes=st.integers(0, 12),
        more=st.integers(0, 5),
        twice=st.booleans(),
    )
    def another_run_goes_on(
        self, name: str, blocking: bool, count: int, yields: int, takes: int, more: int, twice: bool
    ) -> None:
        """Its worker is cut off, perhaps while it does what the first one has done; its caller notices none of it."""
        how: Any = {"blocking": blocking, "count": count, "yields": yields, "takes": takes}
        record = self.begin_in_the_clear(self.a_stream_begins, method=f"{name}_resumable", **how)
        for _ in range(1 + twice):
            self.the_worker_is_cut_off(again=True)
            record.yields.let(yields + more)
            record.takes.let(1)
            self.ends.settle()
        self.must_be_over(record)

    @precondition(rough_or_alone)
    @rule(method=OF_ONE_RUN, blocking=st.booleans(), first=st.integers(1, 4), more=st.integers(1, 3))
    def a_second_run_seems_to_go_on_where_the_first_was(
        self, method: str, blocking: bool, first: int, more: int
    ) -> None:
        """All is lost but what would follow by its number."""
        first = min(first, max(1, self.window.items - 1))
        record = self.begin_in_the_clear(
            self.a_stream_begins, method=method, blocking=blocking, count=first + more, yields=first
        )
        self.double(record)
        self.ends.wire.held.add("replies")
        self.one_by_one(record.yields, 2 * (first + more))
        for queue in self.ends.wire.of_kind("replies"):
            queue.messages = deque(m for m in queue.messages if m.p.correlation_id != record.id or seems(record, m))
        if self.items_of(record, "replies"):
            self.messages_come("replies")
            self.must_be_over(record)

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def nobody_waits_longer_than_it_would(self) -> None:
        if not hasattr(self, "ends"):
            return
        now = self.ends.clock.now
        if self.ends.threads.hesitant:
            self.hesitated_at = now
        for record in self.records:
            if record.alive and record.idle and record.waits:
                since = max(record.asked_at, self.hesitated_at)
                assert now < since + record.idle + 1.0, f"{record} has been idle for too long"

    def check_ending(self, record: Record) -> None:
        assert isinstance(record, Streaming)
        super().check_ending(record)
        ending, run = record.ending, record.run or (record.runs[-1] if record.runs else None)
        if ending == "end" and "its caller has closed it" not in record.excuses:
            assert run is not None, f"{record} has ended, and never began"
            assert any(r.ended for r in ([run], record.runs)[record.resumable]), (
                f"{record}: its generator has not ended"
            )
            assert not record.fails, f"{record} has ended well, and its generator has raised"
            assert len(record.got) == record.count, f"{record} is short: {record.count} were yielded"
        elif not record.excuses and ending != "left":
            assert run is not None, f"{record} was never run"
            assert record.fails, f"{record} ended in an error that nothing explains"
            assert isinstance(ending, RemoteError), f"{record} ended in another error than its handler's"
            assert len(record.got) == record.count, f"{record} is short: {record.count} were yielded before it raised"


def seems(record: Streaming, message: Message) -> bool:
    """Whether it has an item of the second run, which its caller waits for from the first."""
    told, run = read_items(message.p), record.by_id.get(message.p.message_id)
    return told is not None and run is not None and run.number == 1 and told.seq >= len(record.got)


TestStreams = StreamMachine.TestCase
TestStreams.settings = settings(stateful_step_count=30)
