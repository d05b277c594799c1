"""One service on one connection: from deliveries to their ends.

Here the parts meet. `Admission` says what becomes of a request, `Places` how much runs at a time, `Runner` runs it,
`Endings` decides what it ends in, `Replies` puts that into words, and `Settler` tells the broker. An `Attempt` owns
each delivery meanwhile: whatever is raised, its caller is answered, its delivery settled and its place given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol

from warren.amqp.frames import Delivery, FrameError
from warren.connection.channel import HotChannel, Returned
from warren.logs import get_logger
from warren.middleware import Middleware
from warren.protocol import evidence
from warren.protocol.request import Request
from warren.server.admission import Admission, Hold, Offered, Run, Staged, draining, for_one, full, too_late
from warren.server.attempt import Attempt
from warren.server.context import CurrentCall, OnRefused, Scope
from warren.server.cutoffs import CutOffs, limit_time, stop_all
from warren.server.endings import Endings
from warren.server.holding import Holding
from warren.server.lean_stages import LeanStages
from warren.server.lifespan import Startable
from warren.server.onward import Onward
from warren.server.places import Places
from warren.server.replies import Replies
from warren.server.runners import Runner
from warren.server.settler import Settler
from warren.server.statistics import Statistics
from warren.server.threads import WorkerThreads
from warren.server.withdrawals import Withdrawals

log: Final = get_logger("warren.server")

#: Seconds that the broker gets to confirm what a worker hands back when it stops.
_SETTLE_TIME: Final = 5.0
#: Seconds that handlers get to end once they are cancelled at the end of a drain.
_CANCEL_TIME: Final = 1.0

#: Requests for this very process, beyond which one more is refused while so many requests wait for a place.
_MOST_ADDRESSED: Final = 100

_DRAINED: Final = (
    "the worker was stopped, and the handler did not finish within its drain_timeout of {:g} s: look before"
    " you repeat it"
)


class Served(Offered, Startable, Protocol):
    """What a worker and its server have to know of a service."""

    @property
    def queue(self) -> str: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def middleware(self) -> Sequence[Middleware[CurrentCall]]: ...
    @property
    def tracebacks(self) -> bool: ...
    @property
    def on_refused(self) -> OnRefused | None: ...
    @property
    def version(self) -> str | None: ...
    @property
    def description(self) -> str | None: ...
    @property
    def errors(self) -> dict[str, type[Exception]]: ...
    @property
    def declare(self) -> bool: ...


class _Unconfirmed:
    """The receiver of a channel without confirms."""

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Replies are not confirmed: a reply that is lost is lost with its connection, and so is its ack."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""


class Worker(_Unconfirmed):
    """Serves one service; the receiver of its channel, which may be another one after each reconnect."""

    def __init__(self, service: Served, concurrency: int, user: str, instance: str) -> None:
        """Prepare to serve `concurrency` calls at a time, connected as the AMQP user `user`, in process `instance`."""
        self.service = service
        self.concurrency = concurrency
        self.scope = Scope(user)
        self._admission = Admission(service)
        self._names = {method: method.full_name for method in service.methods.values()}
        self._places: Places[Attempt] = Places(concurrency, {m: m.concurrency for m in self._names if m.concurrency})
        self._patience = CutOffs(self._waited_too_long)
        self.replies = replies = Replies(service.max_message_size, tracebacks=service.tracebacks)
        self._settler = Settler(service.name, user, instance, replies)
        self._stages = LeanStages(self._settler, Onward(self._settler, replies, service.name, user), service)
        self.copies = self._settler.copies  # what is put elsewhere; its channel is its server's to open
        self.statistics = Statistics(service.name, service.methods)
        self._endings = Endings(service, self.scope, replies, self._settler, self.statistics)
        threads = WorkerThreads(concurrency, f"warren-{service.name}")
        self._runner = Runner(self._endings, threads, service.middleware, stopped=self._stopped)
        self._context = contextvars.copy_context()  # no call's
        self._idle: asyncio.Event | None = None  # made when somebody waits for the last handler to end
        self.holding = Holding(self._places, self._settler.releases, self._patience, self._take_turn)
        self.withdrawals = Withdrawals(self.holding, self._withdraw, self._endings.stop)
        self.draining = False
        self.on_queue_deleted: Callable[[Worker], None] = lambda _worker: None

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery, addressed: bool = False) -> None:
        """A request; one that is `addressed` to this very process is acknowledged, and no other will ever get it."""
        attempt = Attempt(channel, delivery, time.time(), self.service.name)
        attempt.acked = addressed
        try:
            try:
                request = attempt.request = Request(delivery)
            except FrameError as error:
                self._endings.unreadable(attempt, error)
                return
            if self.withdrawals.coming and self.withdrawals.take(request):
                self._withdraw(attempt)
                return
            decision = self._admission.decide(request, attempt.came, self.draining)
            if type(decision) is tuple:
                self._admit(attempt, request, decision)  # type: ignore[arg-type]  # none of the others is of this very type
            else:
                self._decline(attempt, decision)
        except BaseException as failure:  # a name of its own: compiled, one name has one type
            self._fail(attempt, failure)
            if isinstance(failure, KeyboardInterrupt):  # for the process; other classes are somebody's values
                raise

    def returned(self, message: Returned) -> None:
        self.scope.returned(message.correlation_id)
        if not self._stages.returned(message):
            self._endings.reply_returned(message.correlation_id, message.why)

    def consumer_cancelled(self, channel: HotChannel) -> None:
        self.on_queue_deleted(self)

    # --- beginning ----------------------------------------------------------------------------------------------

    def _decline(self, attempt: Attempt, decision: object) -> None:
        """Do what there is to do with a request that is no ordinary one to run."""
        if isinstance(decision, Hold) and not attempt.acked:
            self.holding.keep(attempt, *decision, now=time.monotonic())
        elif isinstance(decision, Staged):
            attempt.slip = decision.slip
            self._admit(attempt, attempt.request, decision.run)  # type: ignore[arg-type]  # it has been read
        else:
            self._endings.decline(attempt, for_one(decision) if attempt.acked else decision)

    def _admit(self, attempt: Attempt, request: Request, run: Run) -> None:
        attempt.method, attempt.arguments, left = run
        now = time.monotonic()
        attempt.deadline = None if left is None else now + left
        if request.attempt > 1 and not self._settler.releases.clean:
            self._settler.releases.wait(attempt)
        elif self._places.take(attempt, attempt.method):
            self._start(attempt, now)
        elif attempt.acked and self._places.waits > max(_MOST_ADDRESSED, 2 * self.concurrency):
            self._places.withdraw(attempt)
            self._endings.refuse(attempt, full())
        else:
            self._patience.watch(attempt, attempt.deadline)

    def _take_turn(self, attempt: Attempt) -> None:
        """Start what had to wait for its turn, if it has a place or gets one. Never raises: others wait behind it."""
        with self._surely(attempt):
            if attempt in self._places.taken or self._places.take(attempt, attempt.method):
                self._start_late(attempt)
            else:
                self._patience.watch(attempt, attempt.deadline)

    def _waited_too_long(self, attempt: Attempt) -> None:
        """Its time is over before it had a place: the broker may send another for it."""
        with self._surely(attempt):
            if self._places.withdraw(attempt):
                self._endings.refuse(attempt, too_late())

    def _start_late(self, attempt: Attempt) -> None:
        now = time.monotonic()
        if attempt.deadline is not None and attempt.deadline <= now:
            self._places.leave(attempt)  # first: what the refusal sets in motion may let another begin
            self._endings.refuse(attempt, too_late())
        else:  # which often happens in the context of the call that has just ended
            self._context.copy().run(self._start, attempt, now)

    def _start(self, attempt: Attempt, now: float) -> None:
        method, request, ends = attempt.method, attempt.request, attempt.deadline
        assert request is not None
        attempt.limit, attempt.began = evidence.HANDLER_DEADLINE, now
        deadline = ends if method.time_limit is None else limit_time(attempt, method.time_limit)
        attempt.call = CurrentCall(self._names[method], deadline, request, self.scope, attempt.arguments, now, ends)
        if method.delivery == "at-most-once" and not attempt.acked:
            self._settler.take_off(attempt)
        self._runner.start(attempt)

    # --- ending -------------------------------------------------------------------------------------------------

    def _stopped(self, attempt: Attempt) -> None:
        """No code of the attempt runs any more: its place is free."""
        self._places.leave(attempt)
        if self._places.waits:
            self.holding.start_waiting()
        if self._idle is not None and not self._places.taken:
            self._idle.set()

    def _withdraw(self, attempt: Attempt) -> None:
        """Its caller has given up. It waits no more, as the broker sends another for it. Never raises."""
        with self._surely(attempt):
            self.holding.withdraw(attempt)
            self._endings.withdraw(attempt)

    @contextlib.contextmanager
    def _surely(self, attempt: Attempt) -> Iterator[None]:
        """What is raised in here ends the attempt, and goes no further."""
        try:
            yield
        except BaseException as error:
            self._fail(attempt, error)

    def _fail(self, attempt: Attempt, error: BaseException) -> None:
        """End what could not be handled; the place comes back, unless code of it runs that will give it back."""
        self._places.withdraw(attempt)
        self._endings.fail(attempt, error)
        if not attempt.busy and attempt in self._places.taken:
            self._places.leave(attempt)
            asyncio.get_running_loop().call_soon(self.holding.start_waiting)

    def set_concurrency(self, concurrency: int) -> None:
        """From now on so many calls at a time; what runs beyond that goes on to its end."""
        self.concurrency = concurrency
        self._places.set_limit(concurrency)
        self._runner.threads.limit = concurrency
        self.holding.start_waiting()

    # --- the channel goes, and the drain ------------------------------------------------------------------------

    def channel_lost(self) -> None:
        """The channel is gone: what had not started will be delivered again, except what is for this process only."""
        for attempt in self.holding.lose():
            with self._surely(attempt):
                self._endings.refuse(attempt, draining())
        self.copies.originals_lost()

    def link_lost(self) -> None:
        """The connection is gone."""
        self.channel_lost()
        self.copies.link_lost()

    def stop_taking(self) -> None:
        """From now on begin nothing; keep what has not been started, until `hand_back`."""
        self.draining = True
        self.holding.kept += self.holding.give_up_waiting()

    def hand_back(self) -> None:
        """Publish again what was kept; called when nothing more is delivered."""
        for attempt in self.holding.take_kept():
            with self._surely(attempt):
                self._endings.hand_back(attempt)

    async def finish_running(self, timeout: float, late: float = 0.0) -> tuple[list[str], int]:
        """Wait `timeout` seconds, less `late`, for what runs; returns what is abandoned, and how many go elsewhere."""
        if self._places.taken:
            self._idle = asyncio.Event()
            await _within(max(0.0, timeout - late), self._idle.wait())
        going = [attempt for attempt in self._places.taken if attempt.goes_on]
        abandoned = [f"{self.service.name}.{attempt.name}" for attempt in self._places.taken if not attempt.goes_on]
        await stop_all(self._places.taken, evidence.DRAIN, _DRAINED.format(timeout), _CANCEL_TIME)
        self.hand_back()  # what has come since, where the broker has not stopped the consumer yet
        await _within(_SETTLE_TIME, self._stages.settled())  # what is not confirmed may get lost with the connection
        return abandoned, sum(not attempt.answered for attempt in going)

    def close(self) -> None:
        """Give up what is left: threads, timers, copies. To be called in the end, however it comes; twice is once."""
        self._runner.close()
        self._patience.clear()
        self._settler.close()
        self._endings.close()


async def _within(seconds: float, wait: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(wait, seconds)
