"""Keeps one connection to the broker open for as long as its owner wants it.

The states and the ways between them are the table `_NEXT`; `_run` is its interpreter. The owner gives `setup`, which
declares topology and starts consumers on every new link, `lost`, which is told when a link is gone, and `failed`,
which is told of each failed round of attempts and whether it was the last. Each link is an epoch of its own: what
belonged to the last one is void.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from enum import Enum

from warren.connection.link import ACCESS_REFUSED, ChannelClosed, ConnectFailed, Link, LinkLost, open_link
from warren.connection.settings import Settings
from warren.errors import CallError, Cancelled, Code, Execution, Origin, PermissionDenied, Unavailable
from warren.logs import get_logger

log = get_logger("warren.amqp")


class State(Enum):
    """Where a connection is in its life."""

    CLOSED = "closed"  # not started, closed by its owner, or failed for good
    CONNECTING = "connecting"  # trying the hosts in turn, then setting up
    OPEN = "open"
    WAITING = "waiting"  # between two rounds of attempts
    DRAINING = "draining"  # closing on its owner's wish


_NEXT: dict[State, frozenset[State]] = {
    State.CLOSED: frozenset({State.CONNECTING}),
    State.CONNECTING: frozenset({State.OPEN, State.WAITING, State.CLOSED, State.DRAINING}),
    State.OPEN: frozenset({State.WAITING, State.DRAINING}),
    State.WAITING: frozenset({State.CONNECTING, State.DRAINING}),
    State.DRAINING: frozenset({State.CLOSED}),
}


class Backoff:
    """Growing pauses with jitter, so that a thousand clients do not come back in the same instant. Pure."""

    def __init__(self, rng: random.Random, *, first: float = 0.1, longest: float = 10.0, calm: float = 5.0) -> None:
        """`calm`: after so many seconds without a call of `next` it starts again from `first`."""
        self._rng = rng
        self._first, self._longest, self._calm = first, longest, calm
        self._pause = first
        self._last = float("-inf")

    def next(self, now: float) -> float:
        """Seconds to wait before the next attempt: between half and the whole of a doubling pause."""
        if now - self._last > self._calm + self._pause:
            self._pause = self._first
        self._last = now
        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        return pause * self._rng.uniform(0.5, 1.0)


class Supervisor:
    """One connection, opened again whenever it is lost.

    Attributes:
        state: see `State`.
        link: the open link, else None.
        failure: the reason for not being connected now.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        setup: Callable[[Link], Awaitable[None]],
        lost: Callable[[CallError], None],
        failed: Callable[[CallError, bool], None],
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._setup = setup
        self._lost = lost
        self._failed = failed
        self._backoff = Backoff(rng or random.Random())
        self._task: asyncio.Task[None] | None = None
        self._permanent = False
        self._waiters: set[asyncio.Future[Link]] = set()
        self.state = State.CLOSED
        self.link: Link | None = None
        self.failure: CallError | None = None
        self._was_open = False
        self._patience = 3.0  # seconds that a silent broker gets to close a link

    def start(self) -> None:
        """Begin connecting, in a task of its own; once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"warren supervisor {self._settings!r}")

    async def open(self) -> Link:
        """Wait for an open link, no longer than until each host has been tried once more.

        Raises:
            CallError: why there is none.
        """
        if self.link is not None:
            return self.link
        if self.state is State.WAITING or self._task is None or self._task.done():
            raise copy_of(self.failure or closed_error())
        waiter: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)

    async def close(self, patience: float = 3.0) -> None:
        """Close the link and stop; returns after so many seconds, whatever the broker does."""
        if self._task is None:
            return
        self._patience = patience
        if self.state is State.OPEN and self.link is not None:
            self._move(State.DRAINING)
            await self.link.close(patience)
        else:
            self._task.cancel()
        await asyncio.wait([self._task])

    # --- the interpreter ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._draining():
                self._move(State.CONNECTING)
                if await self._try_hosts():
                    await self._while_open()
                elif self._gave_up():
                    break
                if not self._draining():
                    self._move(State.WAITING)
                    self._tell_waiters()
                    await asyncio.sleep(self._backoff.next(time.monotonic()))
        except Exception as error:  # the owner's setup, or a bug: whoever waits must not wait for ever
            log.exception("the connection is given up after an unexpected error")
            message = f"setting up the connection failed: {error!r}"
            self.failure = CallError(message, code=Code.INTERNAL, reason="CONNECTION", execution=Execution.NOT_SENT)
            self._failed(self.failure, True)
        finally:
            self.state = State.CLOSED
            self._tell_waiters()

    def _draining(self) -> bool:
        return self.state is State.DRAINING

    async def _try_hosts(self) -> bool:
        self._permanent = False
        for host, port in self._settings.hosts:
            try:
                link = await open_link(self._settings, host, port)
                await self._prepare(link)
            except ConnectFailed as failed:
                self._permanent = failed.permanent
                self._report(failed.error)
                if failed.permanent:
                    break
            else:
                self.failure = None
                self.link = link
                return True
        return False

    def _gave_up(self) -> bool:
        """A round of attempts failed. Wrong settings end it, unless they were right before: then they may be again."""
        assert self.failure is not None
        for_good = self._permanent and not self._was_open
        self._failed(self.failure, for_good)
        return for_good

    async def _prepare(self, link: Link) -> None:
        """Run the owner's setup; a link on which that fails is closed again."""
        try:
            async with asyncio.timeout(max(self._settings.connect_timeout, 1.0)):
                await self._setup(link)
        except (LinkLost, ChannelClosed, TimeoutError) as error:
            await link.close()
            raise _setup_failed(link.peer, error) from error
        except BaseException:
            await link.close(self._patience)
            raise

    async def _while_open(self) -> None:
        link = self.link
        assert link is not None
        log.log(logging.WARNING if self._was_open else logging.INFO, "connected to %s", link.peer)
        self._move(State.OPEN)
        self._was_open = True
        self._tell_waiters()
        try:
            reason = await asyncio.shield(link.closed)
        finally:
            self.link = None
        if self.state is State.DRAINING:
            return
        log.warning("lost the connection to %s: %s; reconnecting", link.peer, reason)
        message = f"the connection to {link.peer} was lost: {reason}"
        self.failure = Unavailable(message, reason="NOT_CONNECTED", execution=Execution.NOT_SENT)
        self._lost(self.failure)

    def _report(self, error: CallError) -> None:
        """One WARNING per change: the same failure again is not news, and one that ends it all is raised."""
        news = self.failure is None or self.failure.message != error.message
        news = news and not (self._permanent and not self._was_open)
        self.failure = error
        log.log(logging.WARNING if news else logging.DEBUG, "%s", error.message)

    def _move(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"a connection cannot go from {self.state.value} to {state.value}")
        log.debug("connection: %s -> %s", self.state.value, state.value)
        self.state = state

    def _tell_waiters(self) -> None:
        for waiter in self._waiters:
            if waiter.done():
                continue
            if self.link is not None:
                waiter.set_result(self.link)
            else:
                waiter.set_exception(copy_of(self.failure or closed_error()))


def _setup_failed(peer: str, error: Exception) -> ConnectFailed:
    message = f"{peer}: setting up the connection failed: {str(error) or 'no answer'}"
    if isinstance(error, ChannelClosed) and error.code == ACCESS_REFUSED:
        denied = PermissionDenied(message, execution=Execution.NOT_SENT, origin=Origin.BROKER)
        return ConnectFailed(denied, permanent=True)
    return ConnectFailed(Unavailable(message, reason="NOT_CONNECTED", execution=Execution.NOT_SENT))


def copy_of(error: CallError) -> CallError:
    """An exception of its own for each caller: tracebacks and call ids must not pile up on a shared one."""
    copy = type(error)(
        error.message, code=error.code, reason=error.reason, execution=error.execution, origin=error.origin
    )
    copy.__cause__ = error.__cause__
    return copy


def closed_error() -> CallError:
    """What happens to calls when their client is closed before they were sent."""
    return Cancelled("the client is closed", reason="CLOSED", execution=Execution.NOT_SENT)
