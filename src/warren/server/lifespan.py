"""What a service keeps open while it is served: entered before the first request is taken, left after the drain.

Each service's lifespan lives in a task of its own, from its first line to its last, so that it may hold what belongs to
one task: an `asyncio.TaskGroup`, for example. Services begin one after the other, in the order in which the server has
them, and end in reverse order.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import evidence
from warren.protocol.problems import in_words
from warren.server.context import Scope

log = get_logger("warren.server")

#: What a lifespan is: called without arguments, it opens, yields, and closes.
Lifespan = Callable[[], AsyncIterator[Any] | AbstractAsyncContextManager[Any]]

#: Seconds that lifespans get to end at the least, however long the drain took.
LEAST_TIME = 2.0
#: Seconds that each of them gets, whatever those before it have taken.
_LEAST_EACH = 0.5
#: Seconds that a lifespan gets to end once it is cancelled.
_CANCEL_TIME = 0.5


class Startable(Protocol):
    """A service, as far as its beginning goes."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raises TypeError or ValueError if it cannot be served."""

    def begin(self) -> AbstractAsyncContextManager[Any] | None:
        """What to enter first, if anything."""

    def prepare(self, scope: Scope) -> None:
        """Find what the methods depend on in what was yielded; raises what keeps the service from being served."""


class Lifespans:
    """Those of one life of a server."""

    def __init__(self, on_broken: Callable[[CallError], None]) -> None:
        """`on_broken` is told when a lifespan ends by itself."""
        self._on_broken = on_broken
        self._stays: list[_Stay] = []

    async def enter(self, services: Sequence[tuple[Startable, Scope]], stopped: Coroutine[Any, Any, None]) -> bool:
        """Begin all, one after the other; False if `stopped` is done before. What was entered is `leave`'s to end.

        Raises:
            LifespanError: one cannot begin.
        """
        entering = asyncio.create_task(self._enter_all(services))
        stopping = asyncio.create_task(stopped)
        try:
            await asyncio.wait((entering, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not entering.done():
                return False
            await entering
            return True
        finally:
            for task in (entering, stopping):
                task.cancel()
            await asyncio.gather(entering, stopping, return_exceptions=True)

    async def _enter_all(self, services: Sequence[tuple[Startable, Scope]]) -> None:
        for service, scope in services:
            try:
                manager = service.begin()
                if manager is not None:
                    log.info("%s: starting", service.name)
                    stay = _Stay(service.name, manager, self._on_broken)
                    self._stays.append(stay)
                    scope.state = await stay.entered()
                service.prepare(scope)
            except (asyncio.CancelledError, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise _failed(service.name, "cannot start", error) from error

    async def leave(self, timeout: float) -> None:
        """End all, the last one first, within `timeout` seconds; cancelled, it hurries."""
        end = time.monotonic() + timeout
        stays, self._stays = self._stays[::-1], []
        try:
            for stay in stays:
                await stay.leave(end)
        except asyncio.CancelledError:
            await asyncio.gather(*(stay.leave(0) for stay in stays))
            raise


class _Stay:
    """One lifespan, in its task."""

    def __init__(
        self, service: str, manager: AbstractAsyncContextManager[Any], on_broken: Callable[[CallError], None]
    ) -> None:
        self._service = service
        self._manager = manager
        self._on_broken = on_broken
        self._entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._leaving = asyncio.Event()
        self._task = asyncio.create_task(self._live())
        self._task.add_done_callback(self._on_done)

    async def entered(self) -> Any:
        """Wait until it has yielded; raises what it raises instead."""
        return await asyncio.shield(self._entered)

    async def leave(self, end: float) -> None:
        """See to its end, until `end` of `time.monotonic`: then it is cancelled, and left behind if need be."""
        self._leaving.set()
        if not self._entered.done():
            self._entered.cancel()
            self._task.cancel()
        if not self._task.done():
            await asyncio.wait((self._task,), timeout=max(_LEAST_EACH, end - time.monotonic()))
        if not self._task.done():
            log.error(
                "the lifespan of service %r does not end in time: it is cancelled; raise drain_timeout if it"
                " needs longer",
                self._service,
            )
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=_CANCEL_TIME)

    async def _live(self) -> None:
        try:
            async with self._manager as state:
                if not self._entered.done():
                    self._entered.set_result(state)
                await self._leaving.wait()
        except SystemExit as error:  # a task that ends in it would end the loop, in the middle of everything
            raise _EndedEarly(f"it called for the end of the process: {in_words(error)}") from error

    def _on_done(self, task: asyncio.Task[None]) -> None:
        error = _EndedEarly("it was cancelled") if task.cancelled() else task.exception()
        if not self._entered.done():
            self._entered.set_exception(_EndedEarly("it ended without yielding") if error is None else error)
        elif not self._leaving.is_set():
            error = _EndedEarly("it ended by itself") if error is None else error
            self._on_broken(_failed(self._service, "cannot be served any longer", error))
        elif error is not None and not task.cancelled():
            log.error("the lifespan of service %r raised as it ended", self._service, exc_info=error)


class _EndedEarly(RuntimeError):
    """A lifespan is over before the server is."""


def _failed(service: str, what: str, error: BaseException) -> CallError:
    log.error("service %r %s", service, what, exc_info=error)
    why = f"service {service!r} {what}: {in_words(error)}; the log has the traceback"
    failure = evidence.conclude(evidence.LIFESPAN, why)
    failure.__cause__ = error
    return failure


def as_manager(lifespan: Lifespan) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """What makes the context manager of a lifespan.

    Raises:
        TypeError: it is not one, or takes arguments.
    """
    if inspect.isasyncgenfunction(lifespan):
        make: Callable[[], Any] = contextlib.asynccontextmanager(lifespan)
    elif callable(lifespan) and not inspect.isgeneratorfunction(lifespan) and not inspect.iscoroutinefunction(lifespan):
        make = lifespan
    else:
        raise TypeError(f"lifespan {lifespan!r}: {_ADVICE}")
    if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in _parameters(lifespan)):
        raise TypeError(f"lifespan {lifespan!r} is called without arguments: open in it what it needs")
    return lambda: _checked(make())


_ADVICE = "declare an async function that yields once: open before the `yield`, close after it"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _checked(manager: Any) -> AbstractAsyncContextManager[Any]:
    if not hasattr(type(manager), "__aenter__"):
        raise TypeError(f"the lifespan has made {manager!r}, which is no async context manager: {_ADVICE}")
    checked: AbstractAsyncContextManager[Any] = manager
    return checked
