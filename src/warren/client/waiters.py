"""What waits in other threads for what the I/O thread does: threads, and futures."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextvars import Context, copy_context
from typing import Any, Protocol

from warren.client.calls import PendingCall
from warren.client.chain import Chained
from warren.client.core import ClientCore
from warren.client.core_loop import Request
from warren.client.outcomes import locate, withdrawn
from warren.client.requests import Target
from warren.client.target import read_result
from warren.connection.supervisor import closed_error
from warren.errors import CallError

#: What a task is to do.
Work = Callable[[ClientCore], Coroutine[Any, Any, Any]]


class Waiting:
    """Something whose thread waits for its outcome: a lock that the I/O thread releases.

    Attributes:
        given_up: whether the thread waits no more.
        outcome: what it was finished with.
    """

    __slots__ = ("_lock", "given_up", "outcome")

    def __init__(self) -> None:
        self.given_up = False
        self.outcome: Any = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def finish(self, outcome: Any) -> None:
        self.outcome = outcome
        self._lock.release()

    def begin(self, core: ClientCore) -> None:
        """See `Request`."""
        raise NotImplementedError

    def give_up(self, core: ClientCore) -> None:
        """See `Request`."""
        raise NotImplementedError

    def wait(self, timeout: float) -> bool:
        """Whether it has its outcome after at most `timeout` seconds."""
        return self._lock.acquire(timeout=timeout)

    def locate(self, error: CallError) -> None:
        """Make an error that the waiting ends in say which call it is about, if it is about one."""


class WaitingCall(Waiting):
    """A call, cast or bare call whose thread waits."""

    __slots__ = ("_body", "_call", "_deadline", "_target")

    def __init__(self, target: Target, body: bytes, deadline: float) -> None:
        super().__init__()
        self._target = target
        self._body = body
        self._deadline = deadline
        self._call: PendingCall | None = None

    def begin(self, core: ClientCore) -> None:
        body, self._body = self._body, b""
        self._call = core.start(self._target, body, self._deadline, self)

    def locate(self, error: CallError) -> None:
        call, target = self._call, self._target
        call_id = None if call is None else call.first_id.decode()
        error.locate(method=target.name, queue=target.queue, call_id=call_id)

    def give_up(self, core: ClientCore) -> None:
        if self._call is not None:
            core.cancel(self._call)

    def withdraw(self, core: ClientCore) -> None:
        """In the I/O thread: the call that it is made for is given up, so nobody waits for this one either."""
        call = self._call
        if call is not None and core.cancel(call):
            self.finish(locate(withdrawn(), call))

    def finish(self, outcome: Any) -> None:
        self._call = None
        super().finish(outcome)


class Withdrawable(Protocol):
    """What is made for a call that is being served here."""

    def withdraw(self, core: ClientCore) -> None:
        """In the I/O thread: nobody waits for that call any more."""


class Withdrawal:
    """Asks the I/O thread to withdraw a call (Request)."""

    given_up = False

    def __init__(self, waiting: Withdrawable) -> None:
        self.begin = waiting.withdraw

    def give_up(self, core: ClientCore) -> None:
        """Nobody waits for it."""

    def finish(self, outcome: Any) -> None:
        """See `give_up`: the call itself is told."""


class _InTask:
    """A request that a task of the event loop does; it is finished with the task."""

    _work: Work
    _context: Context | None
    _task: asyncio.Task[Any] | None

    def begin(self, core: ClientCore) -> None:
        self._task = core.tasks.spawn(self._work(core), self._context)
        self._task.add_done_callback(self.finish)

    def give_up(self, core: ClientCore) -> None:
        if self._task is not None:
            self._task.cancel()

    def finish(self, outcome: Any) -> None:
        raise NotImplementedError


class WaitingForTask(_InTask, Waiting):
    """A thread that waits for a task."""

    def __init__(
        self, work: Work, context: Context | None = None, locate: Callable[[CallError], object] | None = None
    ) -> None:
        super().__init__()
        self._work = work
        self._context = context
        self._locate = locate
        self._task = None

    def locate(self, error: CallError) -> None:
        if self._locate is not None:
            self._locate(error)

    def finish(self, outcome: Any) -> None:
        Waiting.finish(self, outcome)


class _Promise(Future[Any]):
    """A call whose outcome is a future's."""

    def __init__(self, give_up: Callable[[Request], None], owner: Any) -> None:
        """Prepare one.

        Args:
            give_up: called, in any thread, when the future is cancelled.
            owner: kept until the call has ended: what it owns must not end while a call is under way.
        """
        super().__init__()
        self.given_up = False
        self._on_given_up = give_up
        self._owner = owner

    def begin(self, core: ClientCore) -> None:
        """See `Request`."""
        raise NotImplementedError

    def give_up(self, core: ClientCore) -> None:
        """See `Request`."""
        raise NotImplementedError

    def _read(self, outcome: Any) -> Any:
        """The result; or raise what there is instead."""
        raise NotImplementedError

    def finish(self, outcome: Any) -> None:
        self._owner = None
        # Not marked as running first, as executors do: a second lock and wake-up for a state that nobody sees.
        with contextlib.suppress(InvalidStateError):  # cancelled in this very moment
            try:
                self.set_result(self._read(outcome))
            except InvalidStateError:
                raise
            except BaseException as error:
                self.set_exception(error)

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        with self._condition:  # two threads may cancel it at once
            first, self.given_up = not self.given_up, True
        if first:
            self._on_given_up(self)
            self._owner = None
            self.set_running_or_notify_cancel()  # tells `concurrent.futures.wait` and its like
        return True


class Promise(_Promise):
    """A call as it is usually made."""

    def __init__(
        self,
        target: Target,
        body: bytes,
        deadline: float,
        errors: dict[str, type[Exception]],
        give_up: Callable[[Request], None],
        owner: Any,
    ) -> None:
        super().__init__(give_up, owner)
        self._target = target
        self._body = body
        self._deadline = deadline
        self._call: PendingCall | None = None
        self._errors = errors

    def begin(self, core: ClientCore) -> None:
        body, self._body = self._body, b""
        self._call = core.start(self._target, body, self._deadline, self)

    def give_up(self, core: ClientCore) -> None:
        if self._call is not None:
            core.cancel(self._call)

    def finish(self, outcome: Any) -> None:
        self._call = None
        super().finish(outcome)

    def _read(self, outcome: Any) -> Any:
        return read_result(outcome, self._target, self._errors)


class ChainedPromise(_InTask, _Promise):
    """A call through middleware."""

    def __init__(self, chained: Chained, give_up: Callable[[Request], None], owner: Any) -> None:
        _Promise.__init__(self, give_up, owner)
        self._work = chained.run_alone
        self._context = copy_context()
        self._task = None

    def finish(self, outcome: Any) -> None:
        self._task = None
        _Promise.finish(self, outcome)

    def _read(self, outcome: Any) -> Any:
        return result_of(outcome)


def result_of(outcome: asyncio.Future[Any] | BaseException) -> Any:
    """What a task, or a call, has ended in, or why it was never begun."""
    if isinstance(outcome, BaseException):
        raise outcome
    if outcome.cancelled():
        raise closed_error()
    return outcome.result()
