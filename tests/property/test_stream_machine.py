"""Whatever happens to a stream, in whatever order: its caller gets all that was yielded, or hears that it did not.

Client and worker are real, in all their parts, and so is what runs in threads; broker, time and the order in which
threads run are the machine's. After each step, and when all has come to rest, both are held against what was yielded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.support.both_ends import Gate
from tests.support.items_machine import LONG, SHORT, SIZES, ItemsMachine, Record, Run, choices
from tests.support.turns import Stopped
from warren import Service
from warren.client.streams import AsyncStream, BlockingStream
from warren.errors import CallError, RemoteError
from warren.protocol.uploading import STREAM

pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Both ends log what is lost and broken."""
    loggers = [logging.getLogger(name) for name in ("warren.server", "warren.client", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


class Streaming(Record):
    """A stream, and what its handler and its caller do when they are let."""

    def __init__(self, machine: StreamMachine, count: int, fails: bool, *given: Any) -> None:
        super().__init__(len(machine.records), *given)
        self.count, self.fails = count, fails
        self.asked_at = 0.0
        self.gates = [Gate(machine.ends), Gate(machine.ends)]
        self.yields, self.takes = self.gates


class StreamMachine(ItemsMachine):
    """See the module."""

    records: list[Streaming]  # type: ignore[assignment]

    def service(self) -> Service:
        service = Service("any")
        for ending, delivery in (("", "report"), ("_again", "at-least-once")):
            for function, name in zip(self.generators(), ("on_loop", "in_thread"), strict=True):
                service.method(function, name=name + ending, delivery=delivery)  # type: ignore[call-overload]
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
        method=st.sampled_from(["on_loop", "in_thread", "on_loop", "in_thread", "on_loop_again", "in_thread_again"]),
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
                    record.asked_at = self.ends.clock.now
                    record.got.append(await anext(stream))
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
                    record.asked_at = self.ends.clock.now
                    record.got.append(next(stream))
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

    # --- what must hold -----------------------------------------------------------------------------------------

    def check_ending(self, record: Record) -> None:
        assert isinstance(record, Streaming)
        super().check_ending(record)
        ending, run = record.ending, record.run or (record.runs[-1] if record.runs else None)
        if ending == "end" and "its caller has closed it" not in record.excuses:
            assert run is not None, f"{record} has ended, and never began"
            assert run.ended, f"{record} has ended, and its generator has not"
            assert not record.fails, f"{record} has ended well, and its generator has raised"
            assert len(record.got) == record.count, f"{record} is short: {record.count} were yielded"
        elif not record.excuses and ending != "left":
            assert run is not None, f"{record} was never run"
            assert record.fails, f"{record} ended in an error that nothing explains"
            assert isinstance(ending, RemoteError), f"{record} ended in another error than its handler's"
            assert len(record.got) == record.count, f"{record} is short: {record.count} were yielded before it raised"


TestStreams = StreamMachine.TestCase
TestStreams.settings = settings(stateful_step_count=30)
