"""Keeps one connection to the broker open for as long as its owner wants it.

`_NEXT` is the machine: what may happen in each state, and which state follows. Each state but the first and the last
has one activity, a task whose result is the next event. The step to the next state hangs on the task's done callback,
so that it is taken also when the task is cancelled before its first step; whoever waits for a link hears of it there.

The owner gives `setup`, which declares topology and starts consumers on every new link, `opened`, which is told when
that is done, `lost`, which is told when a link is gone, and `failed`, which is told of each failed round of attempts
and whether it was the last. What belonged to one link is void on the next.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any

from warren.connection.backoff import Backoff
from warren.connection.dial import open_link
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed, ConnectFailed, LinkLost
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import evidence

log = get_logger("warren.amqp")


class State(Enum):
    """Where a connection is in its life."""

    NEW = "new"  # nobody has asked for it yet
    CONNECTING = "connecting"  # trying the hosts in turn, then setting up
    OPEN = "open"
    WAITING = "waiting"  # between two rounds of attempts
    DRAINING = "draining"  # closing on its owner's wish
    CLOSED = "closed"  # closed by its owner, or failed for good: nothing follows


class Event(Enum):
    """What takes a connection from one state to the next."""

    START = "start"
    OPENED = "opened"
    FAILED = "failed"  # a round of attempts; there will be another
    REFUSED = "refused"  # for good: trying again cannot mend it
    LOST = "lost"
    RESTED = "rested"
    CLOSE = "close"  # the owner's wish
    DRAINED = "drained"
    BROKE = "broke"  # the activity was cancelled from outside (the loop is ending), or raised


_NEXT: dict[State, dict[Event, State]] = {
    State.NEW: {Event.START: State.CONNECTING, Event.CLOSE: State.CLOSED},
    State.CONNECTING: {
        Event.OPENED: State.OPEN,
        Event.FAILED: State.WAITING,
        Event.REFUSED: State.CLOSED,
        Event.BROKE: State.CLOSED,
        Event.CLOSE: State.DRAINING,
    },
    State.OPEN: {Event.LOST: State.WAITING, Event.BROKE: State.CLOSED, Event.CLOSE: State.DRAINING},
    State.WAITING: {Event.RESTED: State.CONNECTING, Event.BROKE: State.CLOSED, Event.CLOSE: State.DRAINING},
    State.DRAINING: {Event.DRAINED: State.CLOSED, Event.BROKE: State.CLOSED},
    State.CLOSED: {},
}


class _Waiters:
    """Those who wait for a link."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[Link]] = set()

    async def wait(self) -> Link:
        waiter: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            return await waiter
        finally:
            self._waiting.discard(waiter)

    def tell(self, link: Link | None, failure: CallError) -> None:
        """Here is one, or the reason why there is none."""
        for waiter in self._waiting:
            if waiter.done():
                continue
            if link is not None:
                waiter.set_result(link)
            else:
                waiter.set_exception(copy_of(failure))


class Supervisor:
    """One connection, opened again whenever it is lost.

    Attributes:
        state: see `State`.
        link: the open link, else None.
        links: how many there were.
        failure: the reason for not being connected now.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        setup: Callable[[Link], Awaitable[None]],
        lost: Callable[[CallError], None],
        failed: Callable[[CallError, bool], None],
        opened: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._setup = setup
        self._opened = opened
        self._lost = lost
        self._failed = failed
        self._backoff = Backoff(rng or random.Random())
        self._activities: dict[State, Callable[[], Coroutine[Any, Any, Event]]] = {
            State.CONNECTING: self._connect,
            State.OPEN: self._stay_open,
            State.WAITING: self._rest,
            State.DRAINING: self._drain,
        }
        self._activity: asyncio.Task[Event] | None = None
        self._interrupted: asyncio.Task[Event] | None = None  # the activity that `close` cut short
        self._permanent = False
        self._waiters = _Waiters()
        self.state = State.NEW
        self.link: Link | None = None
        self._fresh: Link | None = None  # made, and not yet set up
        self.failure: CallError | None = None
        self.links = 0
        self._trouble = _Trouble()
        self._patience = 3.0  # seconds that a silent broker gets to close a link

    def start(self) -> None:
        """Begin connecting, in a task of its own; what has begun or ended already stays as it is."""
        self._on(Event.START)

    async def open(self) -> Link:
        """Wait for an open link, no longer than until each host has been tried once more.

        Raises:
            CallError: why there is none.
        """
        self.start()
        if self._usable is not None:
            return self._usable
        if self.state is not State.CONNECTING:
            raise copy_of(self.failure or closed_error())
        return await self._waiters.wait()

    async def close(self, patience: float = 3.0) -> None:
        """Close the link, for good; returns after `patience` seconds, whatever the broker does.

        In any state and any number of times: each call returns when the connection is closed.
        """
        self._patience = patience
        if Event.CLOSE in _NEXT[self.state]:
            self.failure = closed_error()
            self._interrupted = self._activity
            if self._interrupted is not None:
                self._interrupted.cancel()
            self._on(Event.CLOSE)
        if self._activity is not None:
            await asyncio.wait([self._activity])

    @property
    def _usable(self) -> Link | None:
        return None if self.state in (State.DRAINING, State.CLOSED) else self.link

    # --- the interpreter ----------------------------------------------------------------------------------------

    def _on(self, event: Event) -> None:
        """Take the step that the table names; what it does not name changes nothing."""
        state = _NEXT[self.state].get(event)
        if state is None:
            return
        log.debug("connection: %s -> %s", self.state.value, state.value)
        self.state = state
        if state in self._activities:
            self._activity = asyncio.get_running_loop().create_task(self._activities[state]())
            self._activity.add_done_callback(self._done)
        if state is not State.CONNECTING:
            self._waiters.tell(self._usable, self.failure or closed_error())

    def _done(self, activity: asyncio.Task[Event]) -> None:
        """An activity has ended, in whatever way."""
        broke = activity.cancelled() or activity.exception() is not None
        if activity is not self._activity:  # cut short: what it began is closed by `_drain`
            return
        if broke:
            self._break(None if activity.cancelled() else activity.exception())
        else:
            self._on(activity.result())

    def _break(self, error: BaseException | None) -> None:
        """The activity failed, and nothing can be awaited any more: drop the link, and tell the owner that it is over.

        The owner's `setup` raised what it may not, there is a bug, or the event loop is ending.
        """
        before, was_open = self.state, self.link is not None
        if before is not State.DRAINING:
            self.failure = _broken(error)
        self._on(Event.BROKE)
        for link in self._links():
            link.stream.fail(ConnectionAbortedError("given up"))
        self.link = self._fresh = None
        if before is State.DRAINING:
            return
        assert self.failure is not None
        if before is State.OPEN and was_open:
            _tell_owner(self._lost, self.failure)
        _tell_owner(self._failed, self.failure, True)

    # --- the activities -----------------------------------------------------------------------------------------

    async def _connect(self) -> Event:
        self._permanent = False
        for host, port in self._settings.hosts:
            try:
                self._fresh = await open_link(self._settings, host, port)
                await self._prepare(self._fresh)
            except ConnectFailed as failed:
                self._fresh = None
                self._permanent = failed.permanent
                self._report(failed.error)
                if failed.permanent:
                    break
            else:
                self.failure = None
                self.link, self._fresh = self._fresh, None
                return Event.OPENED
        return self._give_up()

    def _give_up(self) -> Event:
        """A round of attempts failed. Wrong settings end it, unless they were right before: then they may be again."""
        assert self.failure is not None
        for_good = self._permanent and not self.links
        self._failed(self.failure, for_good)
        return Event.REFUSED if for_good else Event.FAILED

    async def _prepare(self, link: Link) -> None:
        """Run the owner's setup; a link on which that fails is closed again, here or by who ends the activity."""
        try:
            await link.while_answered(self._setup(link), max(self._settings.connect_timeout, 1.0))
        except (LinkLost, ChannelClosed, TimeoutError) as error:
            await link.close()
            raise _setup_failed(link.peer, error) from error
        except ConnectFailed:
            await link.close()
            raise

    async def _stay_open(self) -> Event:
        link = self.link
        assert link is not None
        self._trouble.end(link.peer, again=self.links > 0)
        self.links += 1
        self._opened()
        reason = await asyncio.shield(link.closed)
        self.link = None
        self._trouble.warning("lost the connection to %s: %s; reconnecting", link.peer, reason)
        words = f"the connection to {link.peer} was lost: {reason}; look at broker and network"
        self.failure = evidence.conclude(evidence.NOT_CONNECTED, words)
        self._lost(self.failure)
        return Event.LOST

    def _links(self) -> list[Link]:
        return [link for link in (self.link, self._fresh) if link is not None]

    async def _rest(self) -> Event:
        await asyncio.sleep(self._backoff.next(time.monotonic()))
        return Event.RESTED

    async def _drain(self) -> Event:
        """Let what was cut short wind up, then close the link that is there or was just made."""
        if self._interrupted is not None:
            await asyncio.wait([self._interrupted])
        await asyncio.gather(*(link.close(self._patience) for link in self._links()))
        self.link = self._fresh = None
        self.failure = closed_error()
        return Event.DRAINED

    # --- telling ------------------------------------------------------------------------------------------------

    def _report(self, error: CallError) -> None:
        """One WARNING per change: the same failure again is not news, and one that ends it all is raised."""
        news = self.failure is None or self.failure.message != error.message
        news = news and not (self._permanent and not self.links)
        self.failure = error
        (self._trouble.warning if news else log.debug)("%s", error.message)


class _Trouble:
    """What the log tells of being without a connection: its end is as loud as its beginning.

    So whoever was warned hears that it is over, and nobody is warned that all is well.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # when somebody was warned

    def warning(self, text: str, *values: object) -> None:
        if self._since is None:
            self._since = time.monotonic()
        log.warning(text, *values)

    def end(self, peer: str, *, again: bool) -> None:
        """There is a connection."""
        since, self._since = self._since, None
        if since is None:
            log.info("connected to %s", peer)
        else:
            pause = time.monotonic() - since
            log.warning("connected to %s%s: it took %.1f s; all goes on", peer, " again" if again else "", pause)


def _tell_owner(what: Callable[..., None], *news: object) -> None:
    try:
        what(*news)
    except Exception:  # it may have been what failed in the first place
        log.exception("the end of a connection could not be handled")


def _broken(error: BaseException | None) -> CallError:
    if error is None:
        return evidence.conclude(
            evidence.CLOSED_UNSENT,
            "the connection ended with its event loop's tasks: make a client on the loop that goes on",
        )
    log.error("the connection is given up after an unexpected error: report it", exc_info=error)
    return evidence.conclude(
        evidence.CONNECTION, f"setting up the connection failed: {error!r}; report it with the log's traceback"
    )


def _setup_failed(peer: str, error: Exception) -> ConnectFailed:
    message = f"{peer}: setting up the connection failed: {str(error) or 'no answer'}; look at the broker's log"
    if isinstance(error, ChannelClosed) and error.code == ACCESS_REFUSED:
        return ConnectFailed(evidence.conclude(evidence.SETUP_DENIED, message), permanent=True)
    return ConnectFailed(evidence.conclude(evidence.NOT_CONNECTED, message))


def copy_of(error: CallError) -> CallError:
    """An exception of its own for each caller: tracebacks and call ids must not pile up on a shared one."""
    copy = type(error)(
        error.message, code=error.code, reason=error.reason, execution=error.execution, origin=error.origin
    )
    copy.__cause__ = error.__cause__
    return copy


def closed_error() -> CallError:
    """What happens to calls of a client that was closed before they were sent."""
    return evidence.conclude(evidence.CLOSED_UNSENT, "the client is closed: make a new one")
