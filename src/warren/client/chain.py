"""Calls through a client's middleware: code around every call that is made. With none there is no chain at all.

The chain runs on the client's event loop, an `AsyncClient`'s in the task of its caller, a `Client`'s in a task of its
own, with the context of the thread that has made the call. Middleware may send a call more than once. What is known of
each attempt is then weighed together, so that each error says what is certain of the whole call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Literal

from warren.client.awaited import AwaitedCall
from warren.client.core import ClientCore
from warren.client.requests import Target
from warren.client.target import encode_bare, encode_call, read_bare, read_confirm, read_result, with_own
from warren.errors import CallError
from warren.middleware import Middleware, chain
from warren.protocol import evidence
from warren.protocol.evidence import Ending

#: Seconds after a call's deadline in which middleware may still finish what it does about its end.
_GRACE = 1.0
_TOO_SLOW = "the client's middleware has not ended with the call's time: await nothing in it without a limit"
_NOBODY_WAITS = "nobody waits for this call any more: let middleware end when it is cancelled"

ItemsKind = Literal["stream", "upload", "conversation"]


class ClientCall:
    """A call that is being made, as middleware sees it, and may change it before it proceeds.

    Attributes:
        kind: ``call``, ``cast`` or ``bare``; ``stream``, ``upload`` or ``conversation``, whose items pass by.
        service, method: what is called; of a bare call the queue, and nothing.
        function: the declared function; None where the call was made by name.
        args, kwargs: its arguments, as they were given; without the items of an upload.
        headers: the application's headers, to be changed in place. A bare call has none: its peer reads none.
        deadline: when the call has to have ended, in seconds of `time.monotonic`.
        call_id: its ``message_id``, the same in each attempt; None until it is sent.
    """

    __slots__ = (
        "args", "call_id", "deadline", "function", "headers", "kind", "kwargs", "method", "service",
    )  # fmt: skip

    def __init__(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float) -> None:
        self.kind: ItemsKind | Literal["call", "cast", "bare"] = target.kind
        self.service, self.method = target.queue, target.method
        self.function: Callable[..., Any] | None = None if target.declared is None else target.declared.function
        self.args = args
        self.kwargs = kwargs
        self.headers = dict(target.headers or {})
        self.deadline = deadline
        self.call_id: str | None = None

    def __repr__(self) -> str:
        return f"<{self.kind} of {self.name}, {self.call_id or 'not sent'}>"

    @property
    def name(self) -> str:
        """``service.method``."""
        return f"{self.service}.{self.method}" if self.method else self.service

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self.deadline - time.monotonic())


ClientMiddleware = Middleware[ClientCall]


class Chained:
    """One call through middleware.

    Attributes:
        call: what the middleware sees.
        deadline: when it has to have ended, in seconds of `time.monotonic`.
        is_over: it has ended for its caller, though its middleware may go on: nothing more is sent.
    """

    __slots__ = (
        "_attempts", "_core", "_errors", "_is_late", "_middleware", "_target", "_task", "call", "deadline", "is_over",
    )  # fmt: skip

    def __init__(
        self,
        middleware: tuple[ClientMiddleware, ...],
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float,
        errors: dict[str, type[Exception]],
    ) -> None:
        self._middleware = middleware
        self._target = target
        self._errors = errors
        self.deadline = deadline
        self._attempts = evidence.Attempts()
        self._core: Callable[[], ClientCore]
        self._task: asyncio.Task[Any] | None = None
        self._is_late = self.is_over = False
        self.call = ClientCall(target, args, kwargs, deadline)

    async def run(self, core: Callable[[], ClientCore]) -> Any:
        """Make the call: its result, or what is raised instead. `core` is asked for at each attempt.

        Raises:
            DeadlineExceeded: the middleware has not ended a second after the call's time.
        """
        self._core, timers = core, core().late.timers
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        limit = timers.add(self.deadline + _GRACE, self)
        try:
            return await chain(self._middleware, self.call, self._proceed)()
        except CallError as error:
            self.locate(error)
            raise
        except asyncio.CancelledError as error:
            if self._is_late and task.cancelling() <= cancelled + 1:  # by us alone: as `asyncio.timeout` does
                raise self._ended_by(evidence.TIMER, _TOO_SLOW) from error
            raise
        finally:
            timers.remove(limit, self)
            self._task = None
            if self._is_late:
                task.uncancel()

    def cut_off(self) -> None:
        """Its time is over, and more (Late)."""
        if self._task is not None:
            self._is_late = True
            self._task.cancel()

    async def run_alone(self, core: ClientCore) -> Any:
        """The same in a task of its own, cancelled when the client is closed or nobody waits any more.

        It ends then, or when its time is over, even if the middleware ends for nothing.
        """
        work = core.tasks.spawn(self.run(lambda: core), copy_context())
        work.add_done_callback(retrieve)
        ending, message = evidence.TIMER, _TOO_SLOW
        try:
            await asyncio.wait([work], timeout=self.call.remaining + 2 * _GRACE)
        except asyncio.CancelledError:
            ending, message = evidence.CLOSED, "the client was closed"
            self.is_over = True
            work.cancel()
            await asyncio.wait([work], timeout=_GRACE)
        if not work.done():
            self.is_over = True
            raise self._ended_by(ending, message)
        if not work.cancelled():
            return work.result()
        if ending is not evidence.CLOSED:
            ending, message = evidence.GIVEN_UP_OUTSIDE, "the client's middleware has cancelled the call"
        raise self._ended_by(ending, message)

    async def _proceed(self) -> Any:
        attempts, future = self._attempts, None
        try:
            if self.is_over:
                raise self._ended_by(evidence.GIVEN_UP_OUTSIDE, _NOBODY_WAITS)
            future = self._send(self._core())
            attempts.begin()
            result = self._read(await future)
        except BaseException as error:
            self._note(error, begun=future is not None)
            raise
        finally:
            del future  # what it holds may be the exception that is raised: no cycle with this frame
        attempts.end(None, is_cast=self._target.kind == "cast")
        return result

    def _note(self, error: BaseException, *, begun: bool) -> None:
        """An attempt has ended so; one that could not begin is none."""
        if begun:
            self._attempts.end(error, is_cast=self._target.kind == "cast")
        if isinstance(error, CallError):
            error.call_id = self.call.call_id or error.call_id
            self.locate(error)

    def locate(self, error: CallError) -> None:
        """Make an error say what is certain of all attempts, and which call it is about, unless that is another one."""
        self._attempts.weigh(error)
        if error.method in (None, self._target.name):
            error.locate(method=self._target.name, queue=self._target.queue, call_id=self.call.call_id)

    def _send(self, core: ClientCore) -> asyncio.Future[Any]:
        future = AwaitedCall(core, *self._written(), self.deadline)
        if self.call.call_id is None:
            self.call.call_id = future.call_id
        return future

    def _written(self) -> tuple[Target, bytes]:
        """The request, as the middleware has left it."""
        call, target = self.call, self._target
        if target.kind == "bare":
            return target, encode_bare(*call.args)
        target = with_own(target, call.headers, None if call.call_id is None else call.call_id.encode())
        return target, encode_call(target, call.args, call.kwargs)

    def _read(self, outcome: Any) -> Any:
        if self._target.kind == "bare":
            return read_bare(outcome, self._target)
        if self._target.kind == "cast":
            return read_confirm(outcome)
        return read_result(outcome, self._target, self._errors)

    def _ended_by(self, ending: Ending, message: str) -> CallError:
        target, execution = self._target, self._attempts.execution
        return evidence.conclude(
            ending, message, word=execution, method=target.name, queue=target.queue, call_id=self.call.call_id
        )


def retrieve(work: asyncio.Task[Any]) -> None:
    """Else asyncio would complain of an error that nobody has asked for."""
    if not work.cancelled():
        work.exception()
