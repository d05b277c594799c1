"""Whatever happens to a worker, in whatever order: each request has one owner until its one end.

The worker and all its parts are the real ones, on a model of the broker and of threads, and on a clock that the machine
moves. After each step, and when everything has come to rest, it is held against what a plain book says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.model_channel import Handed, Message, ModelBroker, ModelChannel
from tests.support.odd_errors import ODD, Unwritable
from tests.support.virtual_time import Clock, SteppedLoop
from tests.support.worker_parts import SEAMS, Asked, ModelThreads, Sabotage, Wish, owner_of
from warren import Service
from warren.amqp.frames import Properties, decode_properties, encode_properties
from warren.amqp.tables import decode_table, encode_table
from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.explainer import Question, Standing
from warren.protocol.control import Cancel
from warren.server import admission, context, copies, cutoffs, releases, settler, withdrawals, worker
from warren.server import attempt as attempts
from warren.server.attempt import Attempt
from warren.server.copies import Copy
from warren.server.worker import Worker

#: Of tasks that are cancelled before their first step.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)
MODULES = (admission, attempts, context, copies, cutoffs, releases, settler, withdrawals, worker)


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


#: What a handler leaves in its context: nobody else may see it.
MARK: ContextVar[int | None] = ContextVar("mark", default=None)
#: Two bytes of property flags, and nothing behind them.
UNREADABLE_PROPERTIES = b"\xff\xfe"
METHODS = (
    "report", "again", "once", "threaded", "again_threaded", "once_threaded", "wrapped", "limited", "single",
    "again_single", "once_single", "single_threaded",
)  # fmt: skip
ADDRESSES = {"cast": None, "call": b"replies", "direct call": b"amq.rabbitmq.reply-to.g"}
#: Most are as they should be; one thing or another is wrong with some.
WISHES = st.lists(
    st.builds(
        Wish,
        method=st.sampled_from([*METHODS, *METHODS, *METHODS, "gone"]),
        kind=st.sampled_from(list(ADDRESSES)),
        timeout=st.sampled_from([None, None, None, 30.0, 0.3, 0.0, -1.0]),
        now=st.sampled_from(["return", "wait", "wait", "raise", "unwritable"]),
        around=st.sampled_from(["", "", "", "", "raise", "return", "twice", "raise after", "leave", "give up"]),
        around_again=st.sampled_from(["", "raise"]),
        on_cancel=st.sampled_from(["give in", "give in", "return", "raise", "wait on"]),
        odd=st.sampled_from(list(ODD)),
        flaw=st.sampled_from(["", "", "", "", "", "", "", "", "wrong", "large", "bad table", "bad flags"]),
        before=st.sampled_from(["", "", "", "", "redelivered", "attempt", "died"]),
        cut=st.sampled_from(["", "", "", "", "cancel", "give up"]),
    ),
    min_size=1,
    max_size=3,
)
#: At-least-once requests, nearly all as they should be, of which the worker was lost.
LOST = st.lists(
    st.builds(
        Wish,
        method=st.sampled_from(["again", "again_threaded", "again_single"]),
        kind=st.sampled_from(list(ADDRESSES)),
        timeout=st.just(None),
        now=st.sampled_from(["return", "wait", "raise"]),
        around=st.sampled_from(["", "raise"]),
        around_again=st.sampled_from(["", "", "", "raise"]),
        on_cancel=st.just("give in"),
        odd=st.just("ValueError"),
        flaw=st.just(""),
        before=st.sampled_from(["redelivered", "redelivered", "attempt", "last attempt"]),
        cut=st.just(""),
    ),
    min_size=1,
    max_size=3,
)
USUAL = Wish(
    method="report",
    kind="call",
    timeout=None,
    now="wait",
    around="",
    around_again="",
    on_cancel="give in",
    odd="ValueError",
    flaw="",
    before="",
    cut="",
)
FATES = st.sampled_from(["take", "take", "refuse", "refuse", "refuse taken", "return", "close"])
Broken = tuple[str, str, int, type[BaseException]]
_SEAMS = [(owner, name) for owner, names in SEAMS.items() for name in names]
_KINDS = [RuntimeError, MemoryError, asyncio.CancelledError, SystemExit]


def _break(seam: tuple[str, str], count: int, kind: type[BaseException]) -> Broken:
    return (*seam, count, kind)


#: A function of ours that fails at its n-th call, in half of the lives.
BROKEN = st.none() | st.builds(
    _break,
    st.sampled_from(_SEAMS),
    st.integers(1, 3),
    st.sampled_from(_KINDS),
)
ON_LOOP = ("report", "again", "once", "limited", "single", "again_single", "once_single")
AT_LEAST_ONCE = ("again", "again_threaded", "again_single")
AT_MOST_ONCE = ("once", "once_threaded", "limited", "once_single")
#: Of which one call at a time is run.
SINGLE = ("single", "again_single", "once_single", "single_threaded")


# When rules apply. Not lambdas: Hypothesis would parse their source, which CPython 3.11 fails at in odd moments.


def _queued(self: Any) -> bool:
    return bool(self.broker.queue)


def _asked(self: Any) -> bool:
    return bool(self.requests)


def _at_gates(self: Any) -> bool:
    return bool(self.gates)


def _in_threads(self: Any) -> bool:
    return bool(self.threads.jobs)


def _finished(self: Any) -> bool:
    return bool(self.finishing is not None and self.finishing.done())


def _may_finish(self: Any) -> bool:
    return bool(self.worker.draining and self.finishing is None)


def _draining(self: Any) -> bool:
    return bool(self.worker.draining)


def _not_finishing(self: Any) -> bool:
    return bool(self.finishing is None)


class WorkerMachine(RuleBasedStateMachine):
    """See the module."""

    #: For who looks for one kind of fault: this function fails in every life.
    surely_broken: Broken | None = None
    surely_wrapped = False  # in middleware

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
        self.sabotage = Sabotage()
        self.thrown: list[BaseException] = []  # by handlers: asyncio tells of those that middleware has left alone
        self.losses = 0
        self.refused_taken: set[bytes] = set()  # ids of copies that the broker has refused, and taken
        self.denied = False  # whether the broker has denied a copy
        self.life = 0  # which process it is; of earlier ones nothing runs any more
        self.arrived: dict[tuple[object, int], float] = {}  # by channel and delivery tag
        self.excused: set[Asked] = set()  # taken off before they ran, and then their process ended
        self.finishing: asyncio.Task[Any] | None = None

    # --- the parts ----------------------------------------------------------------------------------------------

    @initialize(
        concurrency=st.integers(1, 3),
        middleware=st.booleans(),
        tracebacks=st.booleans(),
        broken=BROKEN,
        wishes=WISHES,
        limited=st.booleans(),
    )
    def begin(
        self,
        concurrency: int,
        middleware: bool,
        tracebacks: bool,
        broken: Broken | None,
        wishes: list[Wish],
        limited: bool = True,
    ) -> None:
        self.single = SINGLE if limited else ()
        self.broker.on_reply, self.broker.on_back = self._heard, self._came_back
        self.broker.on_refused_taken = self._taken_all_the_same
        self.options = concurrency, middleware or self.surely_wrapped, tracebacks
        self._begin_life()
        broken = self.surely_broken or broken
        if broken is not None and broken[1] == "settled" and not issubclass(broken[3], Exception):
            broken = None  # nothing of a user's is in there, and a task of its own hears of it
        if broken is not None:
            owner, name, count, kind = broken
            self.sabotage.arm(owner_of(owner, self.worker, self.channel, self.outlet), name, count, kind)
        self.deliver(wishes)

    def _begin_life(self) -> None:
        concurrency, middleware, tracebacks = self.options
        self.life += 1
        self.gates.clear()
        self.threads, self.running, self.finishing = ModelThreads(), Counter[Asked](), None
        service = self._service(middleware, tracebacks)

        def make() -> None:
            self.worker = Worker(service, concurrency, "server", "a process")

        self.loop.turn(make)
        w = cast(Any, self.worker)
        w._runner.threads = self.threads
        w.copies.on_broken = self._outlet_broke
        w.copies.nacked.ask = partial(self._question, w.copies.nacked)
        w._start = partial(self._starting, w._start)
        w._settler.reject = partial(self._rejected, w._settler.reject)
        w._settler.fail = partial(self._failed, w._settler.fail)
        w.copies.on_retired = lambda channel: channel.lose(LinkLost("closed by us"))
        self.outlets: list[ModelChannel] = []
        self._open_link()

    def _service(self, middleware: bool, tracebacks: bool) -> Service:
        service = Service("any", middleware=[self._around] if middleware else [], tracebacks=tracebacks)

        life = self.life

        async def handle(number: int) -> Any:
            return await self._handle(number, life)

        def handle_in_thread(number: int) -> Any:
            return self._handle_now(number, life)

        def handle_late(number: int) -> Any:
            self.requests[number].begun = True
            return self._handle(number, life)

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
        most = 1 if self.single else None
        declared("single", handle, concurrency=most)
        declared("again_single", handle, delivery="at-least-once", max_attempts=3, concurrency=most)
        declared("once_single", handle, delivery="at-most-once", concurrency=most)
        declared("single_threaded", handle_in_thread, concurrency=most)
        return service

    def _open_link(self) -> None:
        self.channel = ModelChannel(self.broker, "consuming")
        self.channel.receiver = self.worker
        self._open_outlet()

    def _open_outlet(self) -> None:
        self.outlet_broken = False
        opened = ModelChannel(self.broker, "copies")
        self.outlets = [*(outlet for outlet in self.outlets if outlet.closed is None), opened]
        self.loop.turn(lambda: self.worker.copies.attach(cast(HotChannel, self.outlet)))

    def _rejected(self, reject: Callable[[Attempt], None], attempt: Attempt) -> None:
        if attempt.acked and not attempt.settled:  # the log says that it is lost
            self.broker.hold(self.denied or self.sabotage.done, f"{self._of(attempt)} is given up without need")
            self.excused.add(self._of(attempt))
        reject(attempt)

    def _failed(self, fail: Callable[..., None], attempt: Attempt, error: BaseException, *ending: Any) -> None:
        """The worker survives its own mistakes, and those of this machine: neither may hide here."""
        ours = type(error) in (TypeError, AttributeError, NameError)
        self.broker.hold(self.sabotage.done or not ours, f"{self._of(attempt)} failed: {error!r}")
        fail(attempt, error, *ending)

    def _starting(self, start: Callable[[Attempt, float], None], attempt: Attempt, now: float) -> None:
        asked, request = self._of(attempt), attempt.request
        assert request is not None
        if (
            request.attempt > 1
            and self.clock.now - self.arrived[attempt.channel, attempt.delivery.tag] < 5
            and not self.sabotage.done
        ):
            for handed in self.channel.unacked.values():
                doubled = handed.copied and handed.settled
                other = handed.message.request
                self.broker.hold(not doubled, f"{asked} begins, and {other} may come back though its copy is there")
        start(attempt, now)

    @property
    def outlet(self) -> ModelChannel:
        """The newest; one before may still be answered."""
        return self.outlets[-1]

    def _outlet_broke(self) -> None:
        self.outlet_broken = True

    def _question(self, nacked: Any, _queue: str) -> Question[Copy]:
        """The queue answers in the next turn, unless its node went down with what it had refused."""
        question: Question[Copy] = {}

        def answer() -> None:
            there = self.refused_taken.isdisjoint(copy.id or b"" for copy in question)
            nacked.answered(question, Standing(there, ""))

        asyncio.get_running_loop().call_soon(answer)
        return question

    def _taken_all_the_same(self, head: bytes) -> None:
        id = decode_properties(head).correlation_id or b""
        self.refused_taken.add(id)
        self.broker.requests[id].doubled += 1  # what may run twice is published again
        self.losses += 1

    # --- the handlers -------------------------------------------------------------------------------------------

    def _enter(self, number: int) -> Asked:
        asked = self.requests[number]
        asked.entries += 1
        asked.begun = True
        self.broker.hold(MARK.get() in (None, number), f"{asked} sees the context of {MARK.get()}")
        MARK.set(number)
        self.broker.hold("NOT_EXECUTED" not in asked.heard, f"{asked} was told not to have been executed")
        if not asked.call and asked.method in ON_LOOP:  # a thread's job, which waits for its turn, is never withdrawn
            dead = asked in [message.request for message in self.broker.dead]
            self.broker.hold(self.losses or not dead, f"{asked} was dead")
        return asked

    async def _handle(self, number: int, life: int) -> Any:
        self._still_alive(life)
        asked, running = self._enter(number), self.running
        running[asked] += 1
        try:
            return self._end(asked, await self._behind_gate(asked), life)
        finally:
            running[asked] -= 1

    async def _behind_gate(self, asked: Asked) -> str:
        how = asked.wish.now
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
        return how

    def _handle_now(self, number: int, life: int) -> Any:
        self._still_alive(life)
        asked = self._enter(number)
        return self._end(asked, "return" if asked.wish.now == "wait" else asked.wish.now, life)

    def _still_alive(self, life: int) -> None:
        """What is left of a process that has died does nothing any more."""
        if life != self.life:
            raise asyncio.CancelledError

    def _end(self, asked: Asked, how: str, life: int) -> Any:
        self._still_alive(life)
        if how == "raise":
            self.thrown.append(asked.odd())
            raise self.thrown[-1]
        if how == "unwritable":
            return Unwritable(asked.odd)
        asked.ran += 1
        return asked.number

    async def _around(self, call: Any, proceed: Any) -> Any:
        asked = self.requests[int(call.call_id)]
        match asked.wish.around if call.attempt == 1 else asked.wish.around_again:
            case "raise":
                raise asked.odd()
            case "return":
                asked.cut_short = True
                return -1
            case "twice":
                await proceed()
            case "raise after":
                await proceed()
                raise asked.odd()
            case "leave" | "leave begun":
                self._task(proceed())
                for _ in range(2 if asked.wish.around == "leave begun" else 0):
                    await asyncio.sleep(0)
                asked.cut_short = True
                return -1
            case "give up":
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(proceed(), 0.5)
                asked.cut_short = True
                return -1
        return await proceed()

    def _task(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    # --- the book -----------------------------------------------------------------------------------------------

    def _published(self, _channel: ModelChannel, key: bytes, head: bytes) -> None:
        p = decode_properties(head)
        asked = self.broker.requests[p.correlation_id or b""]
        table = decode_table(p.table or b"")
        if key == b"any":
            asked.put_back += 1
            for handed in self.channel.unacked.values():
                handed.copied |= handed.message.request is asked and not handed.settled and asked.put_back == 1
            self.broker.hold(
                "NOT_EXECUTED" not in asked.heard, f"{asked} is put back, its caller may have asked another"
            )
        elif key == b"any.dead":
            self._check_evidence(asked, str(table["rpc-dead-executed"]))
        else:
            executed = str(table.get("rpc-executed", "result"))
            asked.told.append(executed)
            silent = asked.hushed == self.life and not self.sabotage.done
            self.broker.hold(not silent, f"{asked} is answered though it was given up")
            self.broker.hold(len(asked.told) <= asked.deliveries, f"{asked} was answered twice")
            self._check_evidence(asked, executed)

    def _check_evidence(self, asked: Asked, executed: str) -> None:
        if executed == "NOT_EXECUTED":
            self.broker.hold(not asked.begun, f"{asked} had begun")
            self.broker.hold(not asked.elsewhere, f"{asked} may have been begun elsewhere")
            self.broker.hold(asked not in self._in_queue(), f"{asked} is still to be begun")
        elif executed == "EXECUTED":
            begun = asked.begun or asked.number in self.threads.serving()  # a thread's job is never withdrawn
            self.broker.hold(begun, f"{asked} had not begun")
        elif executed == "result":
            self.broker.hold(asked.ran or asked.cut_short, f"{asked} has no result")

    def _in_queue(self) -> list[Asked]:
        """What is in the queue, or on its way there, and will be begun by whoever gets it."""
        written = [rest for outlet in self.outlets for what, *rest in outlet.outbox if what == "publish"]
        heads = [head for _, _, key, head, _ in written if key == b"any"]
        under_way = [self.broker.requests[decode_properties(head).correlation_id or b""] for head in heads]
        queued = [m.request for m in self.broker.queue if not m.redelivered or m.request.method in AT_LEAST_ONCE]
        return queued + under_way

    def _heard(self, head: bytes) -> None:
        """A reply has come to the broker."""
        p = decode_properties(head)
        table = decode_table(p.table or b"")
        self.broker.requests[p.correlation_id or b""].heard.append(str(table.get("rpc-executed", "result")))

    def _came_back(self, handed: Handed) -> None:
        asked = handed.message.request
        asked.doubled += asked.put_back > 0
        if asked.method in AT_LEAST_ONCE:
            asked.heard.clear()  # it is run again where the ack behind its answer was lost; docs/wire.md says so

    # --- what happens -------------------------------------------------------------------------------------------

    @rule(wishes=WISHES)
    def deliver(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            self._ask(wish)

    @rule(wishes=WISHES)
    def deliver_more(self, wishes: list[Wish]) -> None:
        """Rules are chosen alike, and without requests the others have nothing to do."""
        self.deliver(wishes)

    @rule(wishes=WISHES)
    def deliver_still_more(self, wishes: list[Wish]) -> None:
        self.deliver(wishes)

    @rule(now=st.sampled_from(["wait", "wait", "return"]), method=st.sampled_from(["report", "once", "again"]))
    def middleware_leaves_its_handlers(self, now: str, method: str) -> None:
        """It answers before they end; those behind them have to wait for their places all the same."""
        left = replace(USUAL, method=method, now=now, around="leave begun")
        self.deliver([left] * (self.worker.concurrency + 1))
        self.loop.settle()

    @rule(method=st.sampled_from(["single", "once_single"]), timeout=st.sampled_from([0.3, 30.0]))
    def a_request_waits_for_its_place(self, method: str, timeout: float) -> None:
        """Longer than it has time, or not."""
        self.deliver([replace(USUAL, method=method), replace(USUAL, method=method, timeout=timeout)])
        self.loop.settle()
        self.pass_time(0.6)

    def _ask(self, wish: Wish) -> None:
        asked = Asked(len(self.requests), wish)
        self.requests.append(asked)
        self._come(asked)

    def _come(self, asked: Asked) -> None:
        wish, name = asked.wish, b"%d" % asked.number
        self.broker.requests[name] = asked
        table: dict[str, Any] = {"rpc-v": 1}
        if wish.timeout is not None:
            table["rpc-timeout-ms"] = int(wish.timeout * 1000)
        if wish.before in ("attempt", "last attempt"):
            table["rpc-attempt"] = 2 if wish.before == "attempt" else 3
        if wish.before == "died":
            table["x-death"] = [{"reason": "rejected"}]
        raw = b"\x05rpc-v?" if wish.flaw == "bad table" else encode_table(table)
        p = Properties(table=raw, correlation_id=name, message_id=name, type=wish.method.encode())
        p.content_type = b"application/json"
        p.reply_to = ADDRESSES[wish.kind]
        properties = UNREADABLE_PROPERTIES if wish.flaw == "bad flags" else encode_properties(p)
        content = b'["x"]' if wish.flaw == "wrong" else b"[" + name + b"]"
        message = Message(
            asked, properties, content, wish.before in ("redelivered", "last attempt"), large=wish.flaw == "large"
        )
        self._deliver(message, wish.cut)

    @precondition(_queued)
    @rule(cut=st.sampled_from(["", "", "cancel", "give up"]))
    def deliver_from_queue(self, cut: str) -> None:
        self._deliver(self.broker.queue.popleft(), cut)

    def _deliver(self, message: Message, cut: str = "") -> None:
        asked = message.request

        def act() -> None:
            asked.deliveries += 1
            asked.hushed = 0
            self.arrived[self.channel, self.channel.next_tag] = self.clock.now
            before = self._taken()
            with contextlib.suppress(KeyboardInterrupt):
                self.channel.deliver(message)
            self._check_dropped(asked)
            if cut == "give up":
                self._apply(asked, 30_000)
            elif cut:
                for attempt in self._taken():
                    if attempt.task is not None and attempt not in before:
                        attempt.task.cancel()

        if self.finishing is not None and self.finishing.done():
            self._begin_life()
        self.link_comes()
        if self.finishing is not None:
            self.broker.queue.append(message)
        else:
            self.loop.turn(act)

    def _taken(self) -> list[Attempt]:
        return sorted(self.worker._places.taken, key=lambda attempt: attempt.delivery.tag)

    @rule(how=st.sampled_from(["return", "return", "raise", "unwritable"]))
    def work_goes_on(self, how: str) -> None:
        """A stretch without trouble, but for how handlers end."""
        self.loop.settle()
        while self.gates:
            self.open_gate(0, how)
            self.loop.settle()
        while self.threads.jobs:
            self.run_job(0)
        self.loop.settle()

    @rule(turns=st.integers(1, 3))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.turn()

    @precondition(_at_gates)
    @rule(index=st.integers(0, 5), how=st.sampled_from(["return", "raise", "unwritable"]))
    def open_gate(self, index: int, how: str) -> None:
        _, gate = self.gates.pop(index % len(self.gates))
        self.loop.turn(lambda: None if gate.done() else gate.set_result(how))

    @precondition(_in_threads)
    @rule(index=st.integers(0, 5))
    def run_job(self, index: int) -> None:
        self.loop.turn(lambda: self.threads.work(index))

    @rule()
    def threads_end(self) -> None:
        self.threads.none_left = not self.threads.none_left

    @rule(index=st.integers(0, 5))
    def cancel_a_handler(self, index: int) -> None:
        running = [a.task for a in self._taken() if a.task is not None]
        if running:
            self.loop.turn(running[index % len(running)].cancel)

    # --- callers give up ----------------------------------------------------------------------------------------

    @precondition(_asked)
    @rule(index=st.integers(0, 12), count=st.integers(1, 3), left=st.sampled_from([0, 400, 30_000]))
    def callers_give_up(self, index: int, count: int, left: int) -> None:
        """The newest of them, and those before, in one message; a cast has no caller to give it up."""
        some = [self.requests[-1 - (index + n) % len(self.requests)] for n in range(count)]
        for asked in some:
            self.loop.turn(partial(self._apply, asked, left))

    @rule(wishes=WISHES, left=st.sampled_from([0, 400, 30_000]), late=st.booleans())
    def callers_have_given_up(self, wishes: list[Wish], left: int, late: bool) -> None:
        """Before their requests come; some come so late that they are forgotten."""
        first = len(self.requests)
        for wish in wishes:
            self.requests.append(asked := Asked(len(self.requests), wish))
            self.loop.turn(partial(self._apply, asked, left))
        if late:
            self.pass_time(0.6)
        for asked in self.requests[first:]:
            self._come(asked)

    def _apply(self, asked: Asked, left: int) -> None:
        """A worker hears that nobody waits for this request, and of another that has the same id elsewhere."""
        owned = [attempt for attempt in self._owned() if self._of(attempt) is asked and not attempt.ended]
        others = {attempt: self._state_of(attempt) for attempt in self._owned() if attempt not in owned}
        for address in ("another's", (ADDRESSES[asked.wish.kind] or b"replies").decode()):
            [found] = self.worker.withdrawals.apply([Cancel({str(asked.number): left}, address)])
            mine = owned if asked.call and address != "another's" else []
            self.broker.hold(found == len(mine), f"{found} of {asked} are given up, not {len(mine)}")
            self.broker.hold(
                mine or all(self._state_of(attempt) == state for attempt, state in others.items()),
                f"others end because {asked} is given up",
            )
        if not asked.call:
            return
        asked.given_up = True
        if not owned:
            asked.remembered = (self.life, self.clock.now + left / 1000)
        elsewhere = [self._of(_owner(copy)) for copy in self._copies()]  # of what is handed back its caller may hear
        for attempt in owned:
            asked.hushed = 0 if asked in elsewhere else self.life
            over = attempt.settled if not attempt.busy else attempt.call.cancelled
            self.broker.hold(
                over or attempt.channel.closed or self.sabotage.done, f"{asked} goes on though it is given up"
            )

    def _owned(self) -> list[Attempt]:
        return list(self.worker.holding)

    @staticmethod
    def _state_of(attempt: Attempt) -> tuple[object, ...]:
        return attempt.ended, attempt.answered, attempt.settled, attempt.stopped_by

    def _check_dropped(self, asked: Asked) -> None:
        """What was given up before it came is over at once; later ones, whose acks were lost, may run in vain."""
        life, until = asked.remembered
        asked.remembered = (0, 0.0)
        if life == self.life and self.clock.now < until and asked.wish.flaw != "bad flags" and not self.sabotage.armed:
            last = self.broker.handed[-1]
            self.broker.hold(last.settled == ["ack"], f"{asked} is begun though it was given up before")

    @rule(seconds=st.sampled_from([0.02, 0.3, 0.6, 1.1, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.loop.turn()

    @rule(wishes=LOST, fate=FATES)
    def attempts_were_lost_elsewhere(self, wishes: list[Wish], fate: str) -> None:
        """They are published again at once, and come to this worker, as there is no other."""
        for wish in wishes:
            self._ask(wish)
        self.loop.settle()
        self.broker_reads(outlet=True, count=1, fate=fate)
        self.copies_are_taken()
        for _ in range(len(self.broker.queue)):
            self.deliver_from_queue("")

    @rule()
    def copies_are_taken(self) -> None:
        for outlet in self.outlets:
            while outlet.outbox:
                self.loop.turn(outlet.read)
            while outlet.inbox:
                self.loop.turn(outlet.answer)

    @rule(
        outlet=st.booleans(),
        old=st.booleans(),
        count=st.integers(1, 3),
        fate=st.sampled_from(["take"] * 3 + ["refuse", "refuse taken", "return", "close"]),
    )
    def broker_reads(self, outlet: bool, count: int, fate: str, old: bool = False) -> None:
        channel = self.outlets[0 if old else -1] if outlet else self.channel
        self.denied |= fate != "take"
        for _ in range(count):
            self.loop.turn(lambda: channel.read(fate))
        if channel.closed is not None:
            self.losses += 1

    @rule(count=st.integers(1, 3), old=st.booleans())
    def broker_answers(self, count: int, old: bool) -> None:
        outlet = self.outlets[0 if old else -1]
        self.loop.turn(lambda: outlet.answer(count))

    @rule(what=st.sampled_from(["outlet", "channel", "link", "process"]))
    def something_goes(self, what: str) -> None:
        {
            "outlet": self._outlet_is_replaced,
            "channel": self._channel_closes,
            "link": self._link_goes,
            "process": self._process_dies,
        }[what]()

    def _outlet_is_replaced(self) -> None:
        """After a refusal, that is, while what was published behind it is unanswered."""
        if self.outlet.outbox and not self.outlet_broken:
            self.broker_reads(outlet=True, count=1, fate="refuse")
            while self.outlet.inbox and not self.outlet_broken:
                self.broker_answers(1, old=False)
        if self.outlet_broken or self.outlet.closed is not None:
            self.losses += 1
            self._open_outlet()

    def _channel_closes(self) -> None:
        if self.channel.closed is None:
            self.losses += 1
            self.loop.turn(lambda: self.channel.lose(ChannelClosed(406, "took too long")))
            self.loop.turn(lambda: self.worker.channel_lost())
            self.channel = ModelChannel(self.broker, "consuming")
            self.channel.receiver = self.worker

    def _link_goes(self) -> None:
        self.losses += 1

        def lose() -> None:
            for channel in (self.channel, *self.outlets):
                channel.lose(LinkLost("reset"))
            self.worker.link_lost()

        self.loop.turn(lose)

    def _process_dies(self) -> None:
        """And another begins in its place."""
        self.losses += 1
        w = cast(Any, self.worker)
        self.excused |= {self._of(attempt) for attempt in [*w._places.taken, *w._places.waiting()] if attempt.acked}
        self._process_ends()
        self._begin_life()

    def _process_ends(self) -> None:
        """What was unacknowledged goes back into its queue."""
        copies = [copy for copy in self._copies() if copy.outlives_link]  # the log says that they are lost
        self.excused |= {self._of(_owner(copy)) for copy in copies}
        self._in_the_loop(self.worker.close)
        for channel in (self.channel, *self.outlets):
            channel.lose(LinkLost("the process is gone"))
        self.worker.link_lost()

    def _in_the_loop(self, act: Callable[[], None]) -> None:
        """At once where the loop runs, else in a turn of it."""
        if asyncio._get_running_loop() is not None:
            act()
        else:
            self.loop.turn(act)

    def _of(self, attempt: Attempt) -> Asked:
        assert attempt.request is not None
        return cast(Asked, self.broker.requests[attempt.request.properties.correlation_id or b""])

    def _copies(self) -> list[Any]:
        """What is to be put elsewhere, and is not safe yet."""
        all = cast(Any, self.worker).copies
        unconfirmed = [copy for outlet in all._outlets for copy in outlet.confirms.open()]
        return [*unconfirmed, *all._kept]

    @precondition(_finished)
    @rule()
    def another_process_begins(self) -> None:
        self._begin_life()

    @rule()
    def link_comes(self) -> None:
        if self.channel.closed is not None:
            self._open_link()

    @rule()
    def drain(self) -> None:
        if not self.worker.draining:
            self.loop.turn(self.worker.stop_taking)

    @precondition(_not_finishing)
    @rule(wishes=WISHES, fate=FATES, never=st.booleans())
    def a_drain_hands_back(self, wishes: list[Wish], fate: str, never: bool = False) -> None:
        """What has come behind its beginning; the broker takes the first, and the second meets this fate.

        Or it takes none, for longer than the worker is patient.
        """
        self.drain()
        self.deliver(wishes)
        self.hand_back()
        for _ in range(4 if never and fate in ("refuse", "refuse taken", "return") else 0):
            self.broker_reads(outlet=True, count=3, fate=fate)
            self.broker_answers(6, old=False)
            self._outlet_is_replaced()
            self.pass_time(1.1)
        self.broker_reads(outlet=True, count=1, fate="take")
        self.broker_reads(outlet=True, count=1, fate=fate)

    @precondition(_draining)
    @rule()
    def hand_back(self) -> None:
        self.loop.turn(self.worker.hand_back)

    @precondition(_may_finish)
    @rule()
    def finish(self) -> None:
        self.loop.turn(self.worker.hand_back)
        self.finishing = self.loop.create_task(self._finish(self.life))

    async def _finish(self, life: int) -> None:
        try:
            await self.worker.finish_running(5.0)
        finally:
            if life == self.life:
                self._check_what_a_drain_leaves()
                self.losses += len(self._copies())
                for channel in (self.channel, *self.outlets):  # an orderly end: what was written arrives
                    while channel.read():
                        pass
                self._process_ends()

    def _check_what_a_drain_leaves(self) -> None:
        """Only what code still runs of, and what the broker has not confirmed in time."""
        owners = [*self.worker._places.taken, *map(_owner, self._copies())]
        left: set[tuple[object, int]] = {(owner.channel, owner.delivery.tag) for owner in owners}
        for handed in self.broker.handed:
            excused = handed.channel.closed is not None or (handed.channel, handed.tag) in left
            assert excused or handed.settled, f"{handed.message.request} is not settled"

    # --- what holds ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_was_wrong(self) -> None:
        assert not self.broker.wrong, self.broker.wrong

    @invariant()
    def no_more_runs_than_there_are_places(self) -> None:
        if hasattr(self, "worker"):
            assert len(self.worker._places.taken) <= self.worker.concurrency, "more places than there are"
            running = {asked.number for asked, count in self.running.items() if count} | {*self.threads.serving()}
            assert len(running) <= self.worker.concurrency, "more runs than places"
            methods = Counter(self.requests[number].method for number in running)
            assert all(methods[name] <= 1 for name in self.single), f"more runs of a method than it allows: {methods}"
            self._check_nothing_waits_in_vain()
            errors = [error for error in self.loop.errors if not any(error is thrown for thrown in self.thrown)]
            assert self.sabotage.done or not errors, errors

    def _check_nothing_waits_in_vain(self) -> None:
        places, releases = cast(Any, self.worker)._places, cast(Any, self.worker)._settler.releases
        over = [self._of(attempt) for attempt in (*places.waiting(), *releases.waiting) if attempt.settled]
        assert not over, f"{over} wait though they are over"  # while others come for them, without end
        if len(places.taken) == self.worker.concurrency or self.sabotage.done or self.loop.ready:
            return
        busy = {self._of(attempt).method for attempt in places.taken}
        waiting = [self._of(attempt) for attempt in places.waiting()]
        assert all(asked.method in self.single and asked.method in busy for asked in waiting), f"{waiting} wait in vain"

    @invariant()
    def nobody_is_told_of_what_is_still_to_be_begun(self) -> None:
        for message in self.broker.queue:
            executed = message.request.heard
            assert "NOT_EXECUTED" not in executed or message.redelivered, f"{message.request} is in the queue again"

    def teardown(self) -> None:
        try:
            if hasattr(self, "worker"):
                self._come_to_rest()
                self._check_rest()
                self._end_well()
                self._check_nothing_lost()
                self.nothing_was_wrong()
        finally:
            for module, real in self._modules:
                module.time = real  # type: ignore[attr-defined]
            self._end_loop()

    def _come_to_rest(self) -> None:
        """Workers serve all that is there, one after the other if need be."""
        for _ in range(200):
            self._one_round()
            if not self._busy():
                return
            self.clock.now += 1.0

    def _end_well(self) -> None:
        self.nothing_was_wrong()
        self.loop.turn(self.worker.stop_taking)
        self.finish()
        self.loop.settle()
        assert self.finishing is not None
        assert self.finishing.done(), "the drain does not end"
        self.finishing.result()

    def _one_round(self) -> None:
        self.loop.turn()
        self.loop.settle()
        if self.worker.draining and self.finishing is None:
            self.finish()
        if self.finishing is not None and self.finishing.done():
            self.another_process_begins()
        if self.finishing is None:
            self._serve_what_waits()
        while self.gates:
            self.open_gate(0, "return")
        while self.threads.jobs:
            self.run_job(0)
        while self.channel.outbox:
            self.loop.turn(self.channel.read)
        self.copies_are_taken()
        self.loop.settle()

    def _serve_what_waits(self) -> None:
        if self.channel.closed is not None:
            self._open_link()
        if self.outlet.closed is not None:
            self._open_outlet()
        while self.broker.queue:
            self._deliver(self.broker.queue.popleft())

    def _busy(self) -> bool:
        return bool(self.loop.ready or self.broker.queue or self.finishing) or any(map(len, self._tables()))

    def _tables(self) -> list[Any]:
        w = cast(Any, self.worker)
        releases = w._settler.releases
        return [w._places.taken, w._places.waiting(), w.holding.kept, w.copies, releases._suspected, releases._proofs]

    def _check_rest(self) -> None:
        w = cast(Any, self.worker)
        for handed in self.broker.handed:
            if handed.channel.closed is None:
                assert len(handed.settled) == 1, f"{handed.message.request} is not settled"
        assert not any(map(len, self._tables())), self._tables()
        assert not any(w._runner._cutoffs._timers._slices.values())
        assert not any(w._patience._timers._slices.values())
        assert not self.broker.queue

    def _check_nothing_lost(self) -> None:
        dead = [m.request for m in self.broker.dead]
        cut_off = {h.message.request for h in self.broker.handed if h.channel.closed is not None}
        for asked in self.requests:
            if asked in self.excused or asked.given_up:
                continue
            if asked.call:
                unheard = asked in cut_off and asked.wish.kind == "direct call"  # which is told on its own channel only
                assert asked.told or asked in dead or unheard, f"{asked} got no answer"
            else:
                assert asked.ran or asked in dead or asked.cut_short, f"{asked} is lost"
            if not self.losses and asked.deliveries == 1:
                assert dead.count(asked) <= 1, f"{asked} is in the dead queue {dead.count(asked)} times"
            if asked.method in AT_LEAST_ONCE and asked.wish.around != "twice":
                assert asked.entries <= 3 * (1 + asked.doubled), f"{asked} ran {asked.entries} times"

    def _end_loop(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        for _ in range(20):
            self.loop.turn()
        self.loop.close()


def _owner(copy: Any) -> Attempt:
    return cast(Attempt, copy.refused.args[0])


TestWorkerMachine = WorkerMachine.TestCase
TestWorkerMachine.settings = settings(max_examples=150, stateful_step_count=40)
