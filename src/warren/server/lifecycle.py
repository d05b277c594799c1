"""The life of a server: its states, and waiting for them. Every wait ends, with the reason where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from enum import Enum
from typing import Any, TypeVar

from warren.protocol import evidence
from warren.protocol.evidence import conclude

T = TypeVar("T")

#: Seconds that an event loop gets to answer another thread.
_PATIENCE = 1.0


class State(Enum):
    """Where a server is in its life."""

    IDLE = "idle"  # not served yet, or not any more
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


_NEXT: dict[State, frozenset[State]] = {
    State.IDLE: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.SERVING, State.DRAINING, State.IDLE}),
    State.SERVING: frozenset({State.DRAINING, State.IDLE}),
    State.DRAINING: frozenset({State.IDLE}),
}


class Lifecycle:
    """Belongs to the event loop on which the server is served; only `stop` may be called from anywhere.

    Attributes:
        state: see `State`.
        reason: why it ended without having served, or failed, the last time.
    """

    def __init__(self) -> None:
        self.state = State.IDLE
        self.reason: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moved = asyncio.Event()
        self._stop = asyncio.Event()
        self._life = 0  # which one it is, counted from 1
        self._has_served = False

    def begin(self) -> int:
        """A life begins; returns its number, for `end`.

        Raises:
            RuntimeError: one is under way.
        """
        if self.state is not State.IDLE:
            raise RuntimeError("this server is being served already: one serve() at a time, so make another Server")
        self._loop = _running_loop()  # none yet in `asyncio.run(server.serve())`
        if self._life:
            self._stop = asyncio.Event()
        self._life += 1
        self._has_served, self.reason = False, None
        self._move(State.STARTING)
        return self._life

    def serving(self) -> None:
        """It serves; once more after a reconnect is ignored."""
        if self.state is State.STARTING:
            self._has_served = True
            self._move(State.SERVING)

    def draining(self) -> None:
        """It takes no more work."""
        self._move(State.DRAINING)

    def end(self, life: int, reason: BaseException | None = None) -> None:
        """This life is over, for this reason if something went wrong; one that is over already is ignored."""
        if life == self._life and self.state is not State.IDLE:
            if reason is None or isinstance(reason, asyncio.CancelledError):  # who waits is not cancelled with it
                words = (
                    "the server has stopped: call serve() again"
                    if self._has_served
                    else "the server was stopped before it could serve: call serve() again"
                )
                reason = conclude(evidence.CLOSED_UNSENT, words)
            self.reason = reason
            self._move(State.IDLE)

    def stop(self) -> None:
        """Ask for the end, from any thread. Before the first life it ends that one at once; between lives nothing."""
        if self._life and self.state is State.IDLE:
            return
        if self._loop is None or self._loop is _running_loop():
            self._stop.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to a question that belongs to the loop, from any thread; at once where it is not served.

        Raises:
            TimeoutError: the loop has not answered in a second.
        """
        loop = self._loop
        if loop is None or loop is _running_loop() or not loop.is_running():
            return question()
        answer: Future[T] = Future()
        loop.call_soon_threadsafe(_answer, answer, question)
        return answer.result(_PATIENCE)

    async def stopped(self) -> None:
        """Wait until somebody has asked for the end."""
        self._loop = asyncio.get_running_loop()
        await self._stop.wait()

    async def ready(self) -> None:
        """Wait until it serves.

        Raises:
            RuntimeError: nobody has called ``serve``.
            CallError: it ended without having served; the reason.
        """
        if not self._life:
            raise RuntimeError("nothing to wait for: call serve() first, in a task, or use the server as `async with`")
        while not self._has_served and self.state is not State.IDLE:
            await self._moved.wait()
        if self.reason is not None:
            raise self.reason

    def _move(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"a server cannot go from {self.state.value} to {state.value}")
        self.state = state
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def _answer(answer: Future[T], question: Callable[[], T]) -> None:
    try:
        answer.set_result(question())
    except BaseException as error:
        answer.set_exception(error)


class Life(Coroutine[Any, Any, None]):
    """A life as something to be awaited. It ends when this does, also if no line of it has run: a task that is
    cancelled before its first step throws into it, and one that nobody awaits is closed or forgotten.
    """

    def __init__(self, cycle: Lifecycle, work: Coroutine[Any, Any, None]) -> None:
        """A life of this server begins; `work` is all of it.

        Raises:
            RuntimeError: one is under way.
        """
        self._work = work
        self._end, self._life = cycle.end, 0
        try:
            self._life = cycle.begin()
        except RuntimeError:
            work.close()
            raise

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._step(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        try:
            self._work.close()
        finally:
            self._end(self._life)

    def __del__(self) -> None:
        self._end(self._life)

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        try:
            return step(*args)
        except StopIteration:
            self._end(self._life)
            raise
        except BaseException as error:
            self._end(self._life, error)
            raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
