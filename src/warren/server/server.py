"""Serving: the life of a server, from the connection to the drain."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Self, Unpack

from warren import checks, keywords
from warren.connection.link import Link
from warren.connection.settings import MAX_NAME, ConnectionOptions, make_settings
from warren.connection.supervisor import Supervisor
from warren.connection.tasks import Tasks
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol.control import MAX_CONCURRENCY
from warren.server.control import ControlMode, answering, checked_mode
from warren.server.lifecycle import Life, Lifecycle
from warren.server.lifespan import LEAST_TIME, Lifespans
from warren.server.looking import Looking
from warren.server.observable import Observable
from warren.server.post import Post
from warren.server.signals import Signals
from warren.server.upkeep import Upkeep
from warren.server.vitals import Vitals
from warren.server.worker import Served, Worker

log = get_logger("warren.server")

#: Seconds that running handlers get to finish when a server is told to stop.
DEFAULT_DRAIN_TIMEOUT = 30.0


class Server(Observable):
    """Serves one or several services over one connection.

    Example::

        Server(calc.service, mail.service, url="amqp://localhost").run()

    Attributes:
        abandoned: the calls that were still running when the drain gave up on them; none that another run goes on with.
    """

    @keywords.naming(ConnectionOptions)
    def __init__(
        self,
        *services: Served,
        url: str | Sequence[str] | None = None,
        concurrency: int | None = None,
        drain_timeout: float = DEFAULT_DRAIN_TIMEOUT,
        control: ControlMode | None = "look",
        **connection: Unpack[ConnectionOptions],
    ) -> None:
        """Prepare a server; nothing is opened yet.

        Args:
            *services: what to serve; each has its own queue, channel and concurrency.
            url: as for `AsyncClient`.
            concurrency: overrides that of each service.
            drain_timeout: seconds that running handlers get to finish when the server is told to stop.
            control: what others may ask of it over the exchange ``warren.control``: ``look`` lets them see what it
                does, and callers give up their calls; ``full`` lets operators act, too; None is nothing at all.
            **connection: how to reach the broker, and as whom; see `ConnectionOptions`.

        Raises:
            TypeError: something that is not a service, an unknown option, or one of the wrong type.
            ValueError: no service, one without methods, two of one name, or an option that makes no sense.
        """
        keywords.refuse_unknown(type(self).__name__, Server.__init__, connection)
        names = _names(services)
        if concurrency is not None:
            checks.whole("concurrency", concurrency, most=MAX_CONCURRENCY)
        checks.seconds("drain_timeout", drain_timeout, zero=True)
        self._services = services
        self._concurrency = concurrency
        self._drain_timeout = drain_timeout
        self._control = checked_mode(control)
        if connection.get("name") in (None, ""):
            connection["name"] = _own_name(names)
        self._settings = make_settings(url, **connection)
        self.abandoned: list[str] = []
        self._life = Lifecycle()
        self._tasks = Tasks()
        self._posts: list[Post] = []
        self._upkeep = Upkeep(self._posts, self._tasks.spawn)
        self._vitals = Vitals()
        self._looking = Looking("", self._posts, self._life, self._vitals)
        self._failure: CallError | None = None
        self._serving: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C, then finish what is running; a second signal ends at once.

        Raises:
            CallError: as for `serve`.
            RuntimeError: not in the main thread, where Python handles signals; in an event loop (a notebook has one);
                or it is being served already.
        """
        _forbid_running_loop()
        asyncio.run(self._run())

    def serve(self) -> Coroutine[Any, Any, None]:
        """Serve until cancelled or `stop`, then finish what is running; to be awaited, or made a task.

        A broker that cannot be reached is tried again and again, with growing pauses. A server may be served again
        when it has ended.

        Raises:
            CallError: the broker refuses the login or a service's queue: what trying again cannot mend.
            LifespanError: a service cannot start, or its lifespan ended while it was served.
            RuntimeError: it is being served already.
        """
        return Life(self._life, self._live())

    async def __aenter__(self) -> Self:
        """Serve in the background; returns once requests are being consumed. Leaving finishes what is running.

        Raises:
            CallError: as for `serve`.
        """
        self._serving = asyncio.create_task(self.serve())
        try:
            await self.ready()
        except BaseException:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.stop()
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving

    def stop(self) -> None:
        """Make `serve` finish what is running and return; from any thread.

        Before `serve` is called it makes that one return at once; afterwards it does nothing.
        """
        self._life.stop()

    async def ready(self) -> None:
        """Wait until requests are being consumed (while `serve` runs in another task).

        Raises:
            CallError: `serve` ended before: its own reason, or that it was stopped.
            RuntimeError: nobody has called `serve`.
        """
        await self._life.ready()

    async def _run(self) -> None:
        with Signals(self._on_signal):
            await self.serve()

    def _on_signal(self, number: int) -> None:
        log.info("%s: finishing what is running", signal.Signals(number).name)
        self.stop()

    async def _live(self) -> None:
        self._failure, self.abandoned = None, []
        user, instance = self._settings.username, self._settings.name or ""
        workers = [Worker(s, self._concurrency or s.concurrency, user, instance) for s in self._services]
        self._posts = [Post(worker, self._tasks.spawn) for worker in workers]
        self._vitals = Vitals()
        self._looking = Looking(instance, self._posts, self._life, self._vitals)
        self._upkeep = Upkeep(self._posts, self._tasks.spawn, answering(self._control, self._looking))
        supervisor = Supervisor(
            self._settings, setup=self._set_up, opened=self._on_opened, lost=self._on_lost, failed=self._on_failed
        )
        lifespans = Lifespans(self._on_broken)
        try:
            if await lifespans.enter([(w.service, w.scope) for w in workers], self._life.stopped()):
                supervisor.start()
                self._tasks.spawn(self._upkeep.run())
                self._tasks.spawn(self._vitals.run(self._looking.ended))
                await self._life.stopped()
        finally:
            self._life.draining()
            await _whatever_happens(self._wind_up(supervisor, lifespans))
        if self._failure is not None:
            raise self._failure

    # --- the connection -----------------------------------------------------------------------------------------

    async def _set_up(self, link: Link) -> None:
        await self._upkeep.declare(link)
        if self._upkeep.answering is not None:  # first: what is begun can then be given up
            await self._upkeep.answering.open(link)
        for post in self._posts:
            await post.set_up(link)
        self._upkeep.link = link

    def _on_opened(self) -> None:
        self._vitals.connected()
        for post in self._posts:
            post.announce()
        self._life.serving()

    def _on_lost(self, _reason: CallError) -> None:
        self._upkeep.link = None
        for post in self._posts:
            post.lost()

    def _on_failed(self, reason: CallError, for_good: bool) -> None:
        if for_good:
            self._on_broken(reason)

    def _on_broken(self, reason: CallError) -> None:
        self._failure = reason
        self.stop()

    # --- the end ------------------------------------------------------------------------------------------------

    async def _wind_up(self, supervisor: Supervisor, lifespans: Lifespans) -> None:
        """Stop intake everywhere, then drain all services together, then end their lifespans; cancelled, it hurries."""
        end, left = time.monotonic() + self._drain_timeout, 0.0
        for post in self._posts:
            post.worker.stop_taking()
        try:
            for abandoned in await asyncio.gather(*(post.drain(self._drain_timeout) for post in self._posts)):
                self.abandoned += abandoned
            left = end - time.monotonic()
        finally:  # first what cannot be cut short
            for post in self._posts:
                post.worker.close()
            self._tasks.cancel()
            try:
                await supervisor.close()
                await self._tasks.ended()
            finally:
                await lifespans.leave(max(LEAST_TIME, left))


def _names(services: Sequence[Served]) -> list[str]:
    """The names of the services, if they can be served together."""
    for service in services:
        if not hasattr(service, "methods"):
            raise TypeError(f"{service!r} is not a Service: say Server(service, other_service, url=…)")
    names = [service.name for service in services]
    if not services or len(set(names)) < len(names):
        raise ValueError(
            f"a server takes at least one service, and each only once: give it others than {names or 'none'}"
        )
    for service in services:
        service.check()
    return names


def _own_name(names: Sequence[str]) -> str:
    """What a server is called unless it is told: it names its services, as far as there is room."""
    services, end = "+".join(names), f" worker, pid {os.getpid()}"
    room = MAX_NAME - len(end)  # a service's name is ASCII
    return (services if len(services) <= room else f"{services[: room - 3]}...") + end


def _forbid_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "an event loop runs in this thread already (a notebook's?), and run() would start another:"
        " say `await server.serve()`, or `async with server:`"
    )


async def _whatever_happens(work: Coroutine[Any, Any, None]) -> None:
    """Do this to its end, also when the task that waits for it is cancelled: then it is told to hurry."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                break
            cancelled = error
            task.cancel()
        except BaseException:
            break
    if cancelled is not None:
        raise cancelled
    await task
