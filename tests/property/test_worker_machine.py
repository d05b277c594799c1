"""Whatever happens to a worker, in whatever order: each request has one owner until its one end.

The worker and all its parts are the real ones, on a model of the broker and of threads, and on a clock that the machine
moves. After each step, and when everything has come to rest, it is held against what a plain book says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.model_channel import Message, ModelBroker, ModelChannel
from tests.support.odd_errors import ODD, Unwritable
from tests.support.virtual_time import Clock, SteppedLoop
from warren import Service, current_call
from warren.amqp.frames import Properties, decode_properties, encode_properties
from warren.amqp.tables import decode_table, encode_table
from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed, LinkLost
from warren.server import admission, context, copies, settler, worker
from warren.server.threads import JobFailed
from warren.server.worker import Worker

#: Of tasks that are cancelled before their first step.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)
MODULES = (admission, context, copies, settler, worker)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Workers log each refusal, asyncio each slow or odd task."""
    loggers = [logging.getLogger(name) for name in ("warren.server", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@dataclass(eq=False)
class Asked:
    """A request, and what the book says of it."""

    number: int
    method: str
    call: bool
    now: str
    around: str
    on_cancel: str
    odd: type[BaseException]
    elsewhere: bool  # another worker may have begun it
    entries: int = 0
    ran: int = 0  # handlers that returned
    inside: int = 0  # code of it that runs at this moment
    deliveries: int = 0
    put_back: int = 0  # copies of it that were published into its queue
    told: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        kind = "call" if self.call else "cast"
        return f"{kind} {self.number} of {self.method} ({self.now}, {self.around}, told {self.told})"


class ModelThreads:
    """Threads of which each job runs at once, when the machine says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Context, Callable[[], Any], Callable[[Any], None]]] = []
        self.none_left = False

    def run(self, context: Context, job: Callable[[], Any], on_done: Callable[[Any], None]) -> None:
        if self.none_left:
            raise RuntimeError("can't start new thread")
        self.jobs.append((context, job, on_done))

    def work(self, index: int) -> None:
        context, job, on_done = self.jobs.pop(index % len(self.jobs))
        try:
            result = context.run(job)
        except BaseException as error:
            result = JobFailed(error)
        on_done(result)

    def close(self) -> None:
        pass


class Sabotage:
    """One function fails, once, at its n-th call."""

    def __init__(self) -> None:
        self.armed = False
        self.done = False

    def arm(self, owner: Any, name: str, count: int, kind: type[BaseException]) -> None:
        original = getattr(owner, name)
        calls = 0
        self.armed = True

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                self.done = True
                raise kind
            return original(*args, **kwargs)

        setattr(owner, name, failing)


#: Whose functions fail: what takes a request from one owner or state to another.
SEAMS = {
    "admission": ("decide",),
    "replies": ("result", "ended", "raised", "_error"),
    "settler": ("take_off", "reply", "_send", "_release", "bury", "_answer", "_buried", "_not_buried", "hand_back"),
    "ending": ("_end_held", "_let_go", "_bury_cast"),
    "copies": ("_refused", "_in_doubt"),
    "releases": ("prove",),
    "places": ("take",),
    "runner": ("start", "_spawn", "_run_in_thread", "_in_thread", "_job"),
    "worker": ("_admit", "_start", "_refuse", "reply_to", "_log_failure", "_decline", "_end"),
    "channel": ("ack", "publish", "publish_unrouted", "flush"),
    "outlet": ("publish",),
}
METHODS = ("report", "again", "once", "threaded", "again_threaded", "once_threaded", "wrapped", "limited")


class WorkerMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self._modules = [(module, module.time) for module in MODULES if hasattr(module, "time")]
        for module, _ in self._modules:
            module.time = self.clock  # type: ignore[attr-defined]
        self.loop = SteppedLoop(self.clock)
        self.broker = ModelBroker()
        self.broker.on_publish = self._published
        self.requests: list[Asked] = []
        self.gates: list[tuple[Asked, asyncio.Future[str]]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.threads = ModelThreads()
        self.sabotage = Sabotage()
        self.losses = 0
        self.arrived: dict[Asked, float] = {}
        self.finishing: asyncio.Task[Any] | None = None

    # --- the parts ----------------------------------------------------------------------------------------------

    @initialize(concurrency=st.integers(1, 3), middleware=st.booleans(), tracebacks=st.booleans())
    def begin(self, concurrency: int, middleware: bool, tracebacks: bool) -> None:
        service = self._service(middleware, tracebacks)

        def make() -> None:
            self.worker = Worker(service, concurrency, "server", "a process")

        self.loop.turn(make)
        w = cast(Any, self.worker)
        w._threads = w._runner._threads = self.threads
        w.copies.on_broken = self._outlet_broke
        self.outlet_broken = False
        self._open_link()

    def _service(self, middleware: bool, tracebacks: bool) -> Service:
        service = Service("any", middleware=[self._around] if middleware else [], tracebacks=tracebacks)

        async def handle(number: int) -> Any:
            return await self._handle(number)

        def handle_in_thread(number: int) -> Any:
            return self._handle_now(number)

        def handle_late(number: int) -> Any:
            return self._handle(number)

        def declared(name: str, function: Any, **options: Any) -> None:
            async def one(number: int) -> Any:
                return await function(number)

            def other(number: int) -> Any:
                return function(number)

            service.method(name=name, **options)(one if function is handle else other)

        declared("report", handle)
        declared("again", handle, delivery="at-least-once", max_attempts=3)
        declared("once", handle, delivery="at-most-once")
        declared("threaded", handle_in_thread)
        declared("again_threaded", handle_in_thread, delivery="at-least-once", max_attempts=3)
        declared("once_threaded", handle_in_thread, delivery="at-most-once")
        declared("wrapped", handle_late)
        declared("limited", handle, delivery="at-most-once", time_limit=1.0)
        return service

    def _open_link(self) -> None:
        self.channel = ModelChannel(self.broker, "consuming")
        self.channel.receiver = self.worker
        self._open_outlet()

    def _open_outlet(self) -> None:
        self.outlet_broken = False
        self.outlet = ModelChannel(self.broker, "copies")
        self.loop.turn(lambda: self.worker.copies.attach(cast(HotChannel, self.outlet)))

    def _outlet_broke(self) -> None:
        self.outlet_broken = True

    # --- the handlers -------------------------------------------------------------------------------------------

    def _enter(self, number: int) -> Asked:
        asked = self.requests[number]
        asked.entries += 1
        assert "NOT_EXECUTED" not in asked.told, f"{asked} was told not to have been executed"
        if current_call().attempt > 1 and self.clock.now - self.arrived[asked] < 5:
            for handed in self.channel.unacked.values():
                other = handed.message.request
                doubled = other.put_back and handed.settled and not self.sabotage.done
                assert not doubled, f"{asked} begins, and {other} may come back though its copy is there"
        return asked

    async def _handle(self, number: int) -> Any:
        asked = self._enter(number)
        how = asked.now
        while how == "wait":
            gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self.gates.append((asked, gate))
            try:
                how = await gate
            except asyncio.CancelledError:
                if asked.on_cancel == "give in":
                    raise
                how = "wait" if asked.on_cancel == "wait on" else asked.on_cancel
                asked.on_cancel = "give in"
        return self._end(asked, how)

    def _handle_now(self, number: int) -> Any:
        asked = self._enter(number)
        return self._end(asked, "return" if asked.now == "wait" else asked.now)

    def _end(self, asked: Asked, how: str) -> Any:
        if how == "raise":
            raise asked.odd()
        if how == "unwritable":
            return Unwritable(asked.odd)
        asked.ran += 1
        return asked.number

    async def _around(self, call: Any, proceed: Any) -> Any:
        asked = self.requests[int(call.call_id)]
        match asked.around:
            case "raise":
                raise asked.odd()
            case "return":
                return -1
            case "twice":
                await proceed()
            case "raise after":
                await proceed()
                raise asked.odd()
            case "leave":
                self._task(proceed())
                return -1
            case "give up":
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(proceed(), 0.5)
                return -1
        return await proceed()

    def _task(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    # --- the book -----------------------------------------------------------------------------------------------

    def _published(self, channel: ModelChannel, key: bytes, head: bytes) -> None:
        p = decode_properties(head)
        asked = self.broker.requests[p.correlation_id or b""]
        if key == b"any":
            asked.put_back += 1
        elif key != b"any.dead":
            self._told(asked, p)

    def _told(self, asked: Asked, p: Properties) -> None:
        table = decode_table(p.table or b"")
        executed = str(table.get("rpc-executed", "result"))
        asked.told.append(executed)
        assert len(asked.told) <= asked.deliveries, f"{asked} was answered twice"
        if executed == "NOT_EXECUTED":
            assert not asked.entries, f"{asked} had begun"
            assert not asked.elsewhere, f"{asked} may have been begun elsewhere"
        elif executed == "EXECUTED":
            assert asked.entries, f"{asked} had not begun"
        elif executed == "result":
            assert asked.ran or asked.around in ("return", "leave", "give up"), f"{asked} has no result"

    # --- what happens -------------------------------------------------------------------------------------------

    @rule(
        method=st.sampled_from([*METHODS, *METHODS, "gone"]),
        call=st.booleans(),
        timeout=st.sampled_from([None, None, 30.0, 0.3, 0.0, -1.0]),
        now=st.sampled_from(["return", "raise", "unwritable", "wait", "wait"]),
        around=st.sampled_from(
            ["", "", "raise", "return", "twice", "raise after", "leave", "give up"],
        ),
        on_cancel=st.sampled_from(["give in", "give in", "return", "raise", "wait on"]),
        odd=st.sampled_from(list(ODD)),
        body=st.sampled_from(["right"] * 4 + ["wrong"]),
        before=st.sampled_from(["", "", "", "redelivered", "attempt", "died"]),
        cut=st.sampled_from(["", "", "", "cancel"]),
    )
    def deliver(
        self,
        method: str,
        call: bool,
        timeout: float | None,
        now: str,
        around: str,
        on_cancel: str,
        odd: str,
        body: str,
        before: str,
        cut: str,
    ) -> None:
        number = len(self.requests)
        asked = Asked(number, method, call, now, around, on_cancel, ODD[odd], elsewhere=before != "")
        self.requests.append(asked)
        name = b"%d" % number
        self.broker.requests[name] = asked
        table: dict[str, Any] = {"rpc-v": 1}
        if timeout is not None:
            table["rpc-timeout-ms"] = int(timeout * 1000)
        if before == "attempt":
            table["rpc-attempt"] = 2
        if before == "died":
            table["x-death"] = [{"reason": "rejected"}]
        p = Properties(table=encode_table(table), correlation_id=name, message_id=name, type=method.encode())
        p.content_type = b"application/json"
        p.reply_to = b"replies" if call else None
        message = Message(asked, encode_properties(p), name if body == "right" else b"{}", before == "redelivered")
        message.body = b"[" + name + b"]" if body == "right" else b'["x"]'
        self._deliver(message, cut)

    @precondition(lambda self: self.broker.queue)
    @rule(cut=st.sampled_from(["", "", "cancel"]))
    def deliver_from_queue(self, cut: str) -> None:
        self._deliver(self.broker.queue.popleft(), cut)

    def _deliver(self, message: Message, cut: str = "") -> None:
        asked = message.request

        def act() -> None:
            asked.deliveries += 1
            self.arrived[asked] = self.clock.now
            before = set(self.worker._places.taken)
            with contextlib.suppress(KeyboardInterrupt):
                self.channel.deliver(message)
            if cut:
                for attempt in set(self.worker._places.taken) - before:
                    if attempt.task is not None:
                        attempt.task.cancel()

        if self.channel.closed is not None or self.finishing is not None:
            self.broker.queue.append(message)
        else:
            self.loop.turn(act)

    @rule(turns=st.integers(1, 3))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.turn()

    @precondition(lambda self: self.gates)
    @rule(index=st.integers(0, 5), how=st.sampled_from(["return", "raise", "unwritable"]))
    def open_gate(self, index: int, how: str) -> None:
        _, gate = self.gates.pop(index % len(self.gates))
        self.loop.turn(lambda: None if gate.done() else gate.set_result(how))

    @precondition(lambda self: self.threads.jobs)
    @rule(index=st.integers(0, 5))
    def run_job(self, index: int) -> None:
        self.loop.turn(lambda: self.threads.work(index))

    @rule()
    def threads_end(self) -> None:
        self.threads.none_left = not self.threads.none_left

    @rule(index=st.integers(0, 5))
    def cancel_a_handler(self, index: int) -> None:
        running = [a.task for a in self.worker._places.taken if a.task is not None]
        if running:
            self.loop.turn(running[index % len(running)].cancel)

    @rule(seconds=st.sampled_from([0.02, 0.3, 0.6, 1.1, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.loop.turn()

    @rule(
        outlet=st.booleans(),
        count=st.integers(1, 3),
        fate=st.sampled_from(["take"] * 3 + ["refuse", "return", "close"]),
    )
    def broker_reads(self, outlet: bool, count: int, fate: str) -> None:
        channel = self.outlet if outlet else self.channel
        for _ in range(count):
            self.loop.turn(lambda: channel.read(fate))
        if channel.closed is not None:
            self.losses += 1

    @rule(count=st.integers(1, 3))
    def broker_answers(self, count: int) -> None:
        self.loop.turn(lambda: self.outlet.answer(count))

    @rule()
    def outlet_is_replaced(self) -> None:
        if self.outlet_broken or self.outlet.closed is not None:
            before = self.outlet
            self.losses += 1
            self._open_outlet()
            before.lose(LinkLost("replaced"))

    @rule()
    def channel_closes(self) -> None:
        if self.channel.closed is None:
            self.losses += 1
            self.loop.turn(lambda: self.channel.lose(ChannelClosed(406, "took too long")))
            self.loop.turn(lambda: self.worker.channel_lost())
            self.channel = ModelChannel(self.broker, "consuming")
            self.channel.receiver = self.worker

    @rule()
    def link_goes(self) -> None:
        self.losses += 1

        def lose() -> None:
            for channel in (self.channel, self.outlet):
                channel.lose(LinkLost("reset"))
            self.worker.link_lost()

        self.loop.turn(lose)

    @rule()
    def link_comes(self) -> None:
        if self.channel.closed is not None:
            self._open_link()

    @rule()
    def drain(self) -> None:
        if not self.worker.draining:
            self.loop.turn(self.worker.stop_taking)

    @precondition(lambda self: self.worker.draining)
    @rule()
    def hand_back(self) -> None:
        self.loop.turn(self.worker.hand_back)

    @precondition(lambda self: self.worker.draining and self.finishing is None)
    @rule()
    def finish(self) -> None:
        self.loop.turn(self.worker.hand_back)
        self.finishing = self.loop.create_task(self._finish())

    async def _finish(self) -> None:
        try:
            await self.worker.finish_running(5.0)
        finally:
            self.worker.close()

    @precondition(lambda self: not self.sabotage.armed)
    @rule(
        seam=st.sampled_from([(owner, name) for owner, names in SEAMS.items() for name in names]),
        count=st.integers(1, 2),
        kind=st.sampled_from([RuntimeError, MemoryError, asyncio.CancelledError, SystemExit]),
    )
    def break_a_seam(self, seam: tuple[str, str], count: int, kind: type[BaseException]) -> None:
        w = cast(Any, self.worker)
        owners = {
            "admission": w._admission,
            "replies": w._replies,
            "settler": w._settler,
            "ending": w._settler,
            "copies": w._settler.copies,
            "releases": w._settler.releases,
            "places": w._places,
            "runner": w._runner,
            "worker": w,
            "channel": self.channel,
            "outlet": self.outlet,
        }
        owner, name = seam
        if hasattr(owners[owner], name):
            self.sabotage.arm(owners[owner], name, count, kind)

    # --- what holds ---------------------------------------------------------------------------------------------

    @invariant()
    def no_more_runs_than_there_are_places(self) -> None:
        if hasattr(self, "worker"):
            taken = self.worker._places.taken
            assert len(taken) <= self.worker.concurrency
            assert self.sabotage.done or not self.loop.errors, self.loop.errors

    def teardown(self) -> None:
        try:
            if hasattr(self, "worker"):
                self._come_to_rest()
                self._check_rest()
        finally:
            for module, real in self._modules:
                module.time = real  # type: ignore[attr-defined]
            self._end_loop()

    def _come_to_rest(self) -> None:
        for _ in range(200):
            self._one_round()
            if not self._busy():
                break
            self.clock.now += 1.0
        if self.finishing is None:
            self.loop.turn(self.worker.stop_taking)
            self.loop.turn(self.worker.hand_back)
            self.finishing = self.loop.create_task(self._finish())
        for _ in range(40):
            self._one_round()
            self.clock.now += 1.0
        assert self.finishing.done(), "the drain does not end"
        if not self.finishing.cancelled() and not self.sabotage.done:
            self.finishing.result()

    def _one_round(self) -> None:
        self.loop.turn()
        self.loop.settle()
        if self.worker.draining and self.finishing is None:
            self.loop.turn(self.worker.hand_back)
        if self.channel.closed is not None:
            self._open_link()
        if self.outlet.closed is not None:
            self._open_outlet()
        while self.gates:
            self.open_gate(0, "return")
        while self.threads.jobs:
            self.run_job(0)
        for channel in (self.channel, self.outlet):
            while channel.outbox:
                self.loop.turn(channel.read)
        while self.outlet.inbox:
            self.loop.turn(self.outlet.answer)
        self.loop.settle()

    def _busy(self) -> bool:
        return bool(self.loop.ready) or any(map(len, self._tables()))

    def _tables(self) -> list[Any]:
        w = cast(Any, self.worker)
        releases = w._settler.releases
        return [w._places.taken, w._places.waiting, w._held, w.copies, releases._suspected, releases._proofs]

    def _check_rest(self) -> None:
        w = cast(Any, self.worker)
        for handed in self.broker.handed:
            if handed.channel.closed is None:
                assert len(handed.settled) == 1, f"{handed.message.request} is not settled"
        assert not any(map(len, self._tables())), self._tables()
        assert not any(w._timers._slices.values())
        self._check_nothing_lost()

    def _check_nothing_lost(self) -> None:
        waiting = {m.request for m in self.broker.queue} | {h.message.request for h in self.channel.unacked.values()}
        dead = [m.request for m in self.broker.dead]
        lost = {h.message.request for h in self.broker.handed if h.channel.closed is not None}
        for asked in self.requests:
            if asked in waiting:
                continue
            if asked.call:
                assert asked.told or asked in dead or asked in lost, f"{asked} got no answer"
            else:
                done = asked.ran or asked in dead or asked.around in ("return", "leave", "give up")
                assert done, f"{asked} is lost"
            if not self.losses and asked.deliveries == 1:
                assert dead.count(asked) <= 1, f"{asked} is in the dead queue {dead.count(asked)} times"

    def _end_loop(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for _ in range(20):
            self.loop.turn()
        self.loop.close()


TestWorkerMachine = WorkerMachine.TestCase
TestWorkerMachine.settings = settings(max_examples=150, stateful_step_count=40)
