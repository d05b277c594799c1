"""Where handlers run: on the event loop, in threads, inside middleware. Each is reported once, whatever happens.

The usual ways report from within, in the turn of the loop in which the handler ends. What they cannot report, a task
that is cancelled before its first step, for example, or an exception of any class in our own lines, is reported by the
task's done callback, the net, which asyncio calls in every case; a task that has reported takes it away.

From Python 3.12 on tasks are eager: a handler's lines before its first wait run in the turn in which its request has
come, and one that waits for nothing needs no other. What one turn can hold is bounded as before, by the requests that
one read brings, which are no more than may be unacknowledged.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from warren.middleware import Middleware, chain
from warren.protocol.running import reset_running, set_running
from warren.protocol.signature import is_awaitable
from warren.server.attempt import Attempt
from warren.server.context import CurrentCall
from warren.server.cutoffs import CutOffs, stop_late
from warren.server.endings import Endings
from warren.server.replies import Reply
from warren.server.threads import JobFailed, WorkerThreads


class Runner:
    """Runs the handlers of one service."""

    def __init__(
        self,
        endings: Endings,
        threads: WorkerThreads,
        middleware: Sequence[Middleware[CurrentCall]],
        *,
        stopped: Callable[[Attempt], None],
    ) -> None:
        """`stopped` is called when no code of an attempt runs any more."""
        self._loop = loop = asyncio.get_running_loop()
        self._make_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = loop.create_task
        if sys.version_info >= (3, 12) and loop.get_task_factory() is None:  # else the application has other plans
            self._make_task = partial(asyncio.Task, loop=loop, eager_start=True)
        self._endings = endings
        self.threads = threads
        self._middleware = tuple(middleware)
        self._stopped = stopped
        self._tasks: dict[asyncio.Task[None], Attempt] = {}  # those that have not reported
        self._cutoffs = CutOffs(stop_late)

    def start(self, attempt: Attempt) -> None:
        """Run an attempt.

        Raises:
            Exception: it does not run; there is no thread for it, for example.
        """
        if self._middleware:
            self._spawn(attempt, self._run_in_chain(attempt))
        elif attempt.method.is_async:
            self._spawn(attempt, self._run_async(attempt))
        else:
            self._run_in_thread(attempt)

    def close(self) -> None:
        """Cut off nothing more, and let the threads end once their jobs are done."""
        self._cutoffs.clear()
        self.threads.close()

    # --- on the loop --------------------------------------------------------------------------------------------

    def _spawn(self, attempt: Attempt, work: Coroutine[Any, Any, None]) -> None:
        token = set_running(attempt.call)
        attempt.busy += 1
        try:
            task = self._make_task(work)  # an eager one begins in here, and may end
        except BaseException:
            attempt.busy -= 1
            work.close()
            raise
        finally:
            reset_running(token)
        if not attempt.reported:
            attempt.task = task
            self._tasks[task] = attempt
            task.add_done_callback(self._caught)
            self._cutoffs.watch(attempt, attempt.call.deadline)

    def _ended(self, attempt: Attempt) -> None:
        """The task's last line: it has reported, so the net goes, which would cost another turn of the loop."""
        attempt.reported = True
        task = attempt.task
        if task is not None and self._tasks.pop(task, None) is not None:
            task.remove_done_callback(self._caught)
        self._cutoffs.forget(attempt)
        self._leave(attempt)

    def _caught(self, task: asyncio.Task[None]) -> None:
        """A task has ended without its last line; it was cancelled before its first step, for example."""
        attempt = self._tasks.pop(task)
        if not attempt.ended:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            unsaid = RuntimeError("the handler's end was not reported")
            self._endings.raised(attempt, unsaid if error is None else error)
        self._cutoffs.forget(attempt)
        self._leave(attempt)

    def _leave(self, attempt: Attempt) -> None:
        attempt.busy -= 1
        if not attempt.busy:
            self._stopped(attempt)

    async def _run_async(self, attempt: Attempt) -> None:
        args, kwargs = attempt.arguments
        attempt.entered = True
        try:
            value = await attempt.method.function(*args, **kwargs)
        except BaseException as error:  # SystemExit and the like must not end the worker
            self._endings.raised(attempt, error)
        else:
            self._endings.completed(attempt, value)
        self._ended(attempt)

    async def _run_in_chain(self, attempt: Attempt) -> None:
        args, kwargs = attempt.arguments
        method = attempt.method
        call = partial(method.function, *args, **kwargs)

        async def innermost() -> Any:
            if attempt.ended:  # its caller was told already whether it was executed
                raise asyncio.CancelledError("the call has ended")
            if not method.is_async:
                return await self._in_thread(attempt, call)
            attempt.entered = True
            attempt.busy += 1  # middleware may leave it alone
            try:
                return await call()
            finally:
                self._leave(attempt)

        try:
            value = await chain(self._middleware, attempt.call, innermost)()
        except BaseException as error:
            self._endings.raised(attempt, error)
        else:
            self._endings.completed(attempt, value)
        self._ended(attempt)

    async def _await(self, attempt: Attempt, value: Any) -> None:
        """A ``def`` returned something to be awaited: a decorator around an ``async def`` does."""
        try:
            result = await value
        except BaseException as error:
            self._endings.raised(attempt, error)
        else:
            self._endings.completed(attempt, result)
        self._ended(attempt)

    # --- in threads ---------------------------------------------------------------------------------------------

    def _run_in_thread(self, attempt: Attempt) -> None:
        context = contextvars.copy_context()
        context.run(set_running, attempt.call)
        attempt.busy += 1
        try:
            self.threads.run(context, partial(self._job, attempt), partial(self._job_done, attempt))
        except BaseException:
            attempt.busy -= 1
            raise

    def _job(self, attempt: Attempt) -> Any:
        """In the thread: the reply, or what has to be awaited first."""
        args, kwargs = attempt.arguments
        attempt.entered = True
        value = attempt.method.function(*args, **kwargs)
        return value if is_awaitable(value) else self._endings.reply_to(attempt, value)

    def _job_done(self, attempt: Attempt, result: Any) -> None:
        try:
            if type(result) is Reply:
                self._endings.finish(attempt, result)
            elif type(result) is JobFailed:
                self._endings.raised(attempt, result.error)
            else:
                self._spawn(attempt, self._await(attempt, result))
        except BaseException as error:
            self._endings.raised(attempt, error)
        finally:
            self._leave(attempt)

    async def _in_thread(self, attempt: Attempt, function: Callable[[], Any]) -> Any:
        """Run a function in a thread and wait for it, in the context of the middleware around it.

        Middleware may wait no longer than it likes; the place is held until the thread is done.
        """
        done: asyncio.Future[Any] = self._loop.create_future()

        def on_done(result: Any) -> None:
            if not done.done():
                done.set_result(result)
            self._leave(attempt)

        attempt.busy += 1
        try:
            self.threads.run(contextvars.copy_context(), function, on_done)
        except BaseException:
            attempt.busy -= 1
            raise
        attempt.entered = True
        result = await done
        if type(result) is JobFailed:
            raise result.error
        return await result if is_awaitable(result) else result
