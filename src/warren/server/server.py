"""Serving: the life of a worker process, from the connection to the drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import ssl as tls
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Self

from warren.connection.channel import Channel, HotChannel
from warren.connection.declare import declare_exchanges
from warren.connection.errors import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    ChannelClosed,
    ConnectFailed,
    LinkLost,
)
from warren.connection.link import Link
from warren.connection.settings import Password, make_settings
from warren.connection.supervisor import Backoff, Supervisor
from warren.errors import CallError, Code, Execution, Origin, make_error
from warren.protocol import wire
from warren.server.aside import Aside
from warren.server.worker import Served, Worker

log = logging.getLogger("warren.server")

#: Seconds that running handlers get to finish when a server is told to stop.
DEFAULT_DRAIN_TIMEOUT = 30.0
#: Seconds between two looks at whether exchanges, queues and bindings are all there.
TOPOLOGY_INTERVAL = 30.0


class Server:
    """Serves one or several services over one connection.

    Example::

        Server(calc.service, mail.service, url="amqp://localhost").run()

    Attributes:
        abandoned: the calls that were still running when the drain gave up on them.
    """

    def __init__(
        self,
        *services: Served,
        url: str | Sequence[str] | None = None,
        concurrency: int | None = None,
        drain_timeout: float = DEFAULT_DRAIN_TIMEOUT,
        name: str | None = None,
        username: str | None = None,
        password: Password | None = None,
        vhost: str | None = None,
        ssl: tls.SSLContext | None = None,
        heartbeat: int | None = None,
        liveness_timeout: float | None = None,
        connect_timeout: float | None = None,
    ) -> None:
        """Prepare a server; nothing is opened yet.

        Args:
            *services: what to serve; each has its own queue, channel and concurrency.
            url, username, password, vhost, ssl, heartbeat, liveness_timeout, connect_timeout: as for `AsyncClient`.
            concurrency: overrides that of each service.
            drain_timeout: seconds that running handlers get to finish when the server is told to stop.
            name: what this worker calls itself in the broker's list of connections.

        Raises:
            ValueError: no service, one without methods, two of one name, or an option that makes no sense.
        """
        names = [service.name for service in services]
        if not services or len(set(names)) < len(names):
            raise ValueError(f"serve at least one service, each once; got {names}")
        for service in services:
            if not service.methods:
                raise ValueError(f"service {service.name!r} has no methods: decorate functions with @service.method")
        if concurrency is not None and not 1 <= concurrency <= 65_535:
            raise ValueError(f"concurrency={concurrency}: from 1 to 65535")
        self._services = services
        self._concurrency = concurrency
        self._drain_timeout = drain_timeout
        self._settings = make_settings(
            url,
            username=username,
            password=password,
            vhost=vhost,
            ssl=ssl,
            heartbeat=heartbeat,
            liveness_timeout=liveness_timeout,
            connect_timeout=connect_timeout,
            name=name or f"{'+'.join(names)} worker, pid {os.getpid()}",
        )
        self._backoff = Backoff(random.Random())
        self.abandoned: list[str] = []
        self._workers: list[Worker] = []
        self._channels: dict[Worker, HotChannel] = {}
        self._link: Link | None = None
        self._may_declare = True
        self._stopping: asyncio.Event | None = None
        self._failure: CallError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Event | None = None
        self._serving: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C, then finish what is running; a second signal ends at once.

        Raises:
            CallError: as for `serve`.
        """
        asyncio.run(self._run())

    async def serve(self) -> None:
        """Serve until cancelled or `stop`, then finish what is running.

        A broker that cannot be reached is tried again and again, with growing pauses.

        Raises:
            CallError: the broker refuses the login or a service's queue: what trying again cannot mend.
        """
        self._stopping = self._stopping or asyncio.Event()
        self._workers = [Worker(s, self._concurrency or s.concurrency, self._settings.username) for s in self._services]
        for worker in self._workers:
            worker.on_queue_deleted = self._on_queue_deleted
        supervisor = Supervisor(self._settings, setup=self._set_up, lost=self._on_lost, failed=self._on_failed)
        supervisor.start()
        self._spawn(self._keep_topology())
        try:
            await self._stopping.wait()
        finally:
            await self._drain()
            await supervisor.close()
            for task in self._tasks:
                task.cancel()
        if self._failure is not None:
            raise self._failure

    async def __aenter__(self) -> Self:
        """Serve in the background; returns once requests are being consumed. Leaving finishes what is running.

        Raises:
            CallError: as for `serve`.
        """
        self._serving = asyncio.create_task(self.serve())
        ready = asyncio.create_task(self.ready())
        try:
            await asyncio.wait([self._serving, ready], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._serving.cancel()
            raise
        finally:
            ready.cancel()
        if self._serving.done():
            await self._serving
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.stop()
        if self._serving is not None:
            await self._serving

    def stop(self) -> None:
        """Make `serve` finish what is running and return. For the event loop's own thread."""
        if self._stopping is not None:
            self._stopping.set()

    async def ready(self) -> None:
        """Wait until requests are being consumed (while `serve` runs in another task)."""
        self._ready = self._ready or asyncio.Event()
        await self._ready.wait()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        await self.serve()

    def _on_signal(self, number: int) -> None:
        assert self._stopping is not None
        if self._stopping.is_set():
            log.warning("second signal: ending at once")
            os._exit(128 + number)
        log.info("%s: finishing what is running", signal.Signals(number).name)
        self._stopping.set()

    # --- the connection -----------------------------------------------------------------------------------------

    async def _set_up(self, link: Link) -> None:
        await self._declare_all(link)
        for worker in self._workers:
            if worker.draining:  # it may still have to set something aside
                await self._open_aside(link, worker)
            else:
                await self._consume(link, worker)
        self._link = link
        for worker in self._workers:
            methods = ", ".join(sorted(worker.service.methods))
            log.info("serving %s (%s), %d at a time", worker.service.name, methods, worker.concurrency)
        self._ready = self._ready or asyncio.Event()
        self._ready.set()

    async def _declare_all(self, link: Link) -> None:
        allowed = await declare_exchanges(link)
        for worker in self._workers:
            allowed &= await self._declare(link, worker.service)
        self._may_declare = allowed

    async def _declare(self, link: Link, service: Served) -> bool:
        """Declare what a service needs; False where the broker does not allow it all."""
        allowed = True
        queue, dead = wire.service_queue(service.name), wire.dead_queue(service.name)
        quorum = service.queue == "quorum"
        arguments = wire.queue_arguments(quorum=quorum, max_length=service.max_length)
        dead_arguments = wire.dead_queue_arguments(quorum=quorum)
        steps: list[tuple[Callable[[Channel], Awaitable[None]], str]] = []
        if service.declare:
            steps += [
                (lambda channel: channel.declare_queue(queue, arguments=arguments), queue),
                (lambda channel: channel.declare_queue(dead, arguments=dead_arguments), dead),
                (lambda channel: channel.bind(dead, wire.BOUNCE_EXCHANGE, service.name), dead),
            ]
        steps.append((lambda channel: channel.bind(queue, wire.EXCHANGE, service.name), queue))
        for step, about in steps:
            channel = await link.channel()  # one for each step, as a refusal closes it
            try:
                await step(channel)
                await channel.close()
            except ChannelClosed as error:
                if error.code in (NOT_FOUND, PRECONDITION_FAILED) and about == dead:
                    # On a node that is down, or made by somebody else: the service can be served all the same.
                    log.warning("%s: the dead queue is not as it should be: %s", service.name, error.text)
                    continue
                if error.code != ACCESS_REFUSED:
                    raise ConnectFailed(_topology_error(service, queue, error), permanent=True) from error
                # Least privilege: somebody with the permission has done it before.
                log.info("%s: taking what is there, as not all may be declared: %s", service.name, error.text)
                allowed = False
        return allowed

    async def _consume(self, link: Link, worker: Worker) -> None:
        queue = wire.service_queue(worker.service.name)
        if worker.aside is None or worker.aside.closed:  # first: what is consumed may have to be set aside at once
            await self._open_aside(link, worker)
        channel = await link.hot_channel()
        channel.attach(worker, body_limit=worker.service.max_message_size)
        channel.on_closed = lambda reason: self._on_channel_closed(worker, reason)
        try:
            await channel.qos(worker.concurrency)
            await channel.consume(queue, no_ack=False)
        except ChannelClosed as error:
            raise ConnectFailed(_topology_error(worker.service, queue, error), permanent=True) from error
        self._channels[worker] = channel
        if worker.draining:  # it was told to stop meanwhile
            await self._stop_consuming(worker, channel)
            worker.hand_back()

    async def _open_aside(self, link: Link, worker: Worker) -> None:
        channel = await link.hot_channel()
        await channel.confirm()
        worker.aside = Aside(
            channel,
            worker.service.name,
            self._settings.username,
            on_broken=lambda: self._spawn(self._reopen_aside(link, worker)),
        )

    async def _reopen_aside(self, link: Link, worker: Worker) -> None:
        await asyncio.sleep(self._backoff.next(time.monotonic()))
        old = worker.aside
        with contextlib.suppress(ChannelClosed, LinkLost):
            await self._open_aside(link, worker)
            if old is not None:
                await old.close()

    def _on_lost(self, _reason: CallError) -> None:
        self._link = None
        self._channels.clear()
        for worker in self._workers:
            worker.connection_lost()

    def _on_failed(self, reason: CallError, for_good: bool) -> None:
        if for_good:
            self._failure = reason
            self.stop()

    def _on_queue_deleted(self, worker: Worker) -> None:
        log.warning(
            "%s: the broker ended the consumer: the queue is gone, or a handler took too long", worker.service.name
        )
        self._spawn(self._resume(worker, same_channel=True))

    def _on_channel_closed(self, worker: Worker, reason: Exception) -> None:
        self._channels.pop(worker, None)
        worker.connection_lost()
        if isinstance(reason, ChannelClosed):  # else the link is going, and the supervisor opens another
            log.warning("%s: the broker closed the channel: %s; opening another", worker.service.name, reason)
            self._spawn(self._resume(worker, same_channel=False))

    async def _resume(self, worker: Worker, *, same_channel: bool) -> None:
        """Declare and consume again on the link that is open; if that fails, on a new one."""
        link = self._link
        if link is None or worker.draining:
            return
        try:
            await asyncio.sleep(self._backoff.next(time.monotonic()))  # what closed the channel may do so again
            await declare_exchanges(link)
            await self._declare(link, worker.service)
            if same_channel and worker in self._channels:
                await self._channels[worker].consume(wire.service_queue(worker.service.name), no_ack=False)
            else:
                await self._consume(link, worker)
        except (ChannelClosed, ConnectFailed, LinkLost) as error:
            log.warning("%s: cannot consume again: %s; reconnecting", worker.service.name, error)
            await link.close()

    async def _keep_topology(self) -> None:
        """Declare everything again from time to time.

        Nothing tells a server that its exchange was deleted, and the bindings with it: its queue and consumer stay,
        and no request reaches them any more.
        """
        while True:
            await asyncio.sleep(TOPOLOGY_INTERVAL)
            link = self._link
            if link is None or not self._may_declare:  # each refusal closes a channel and fills the broker's log
                continue
            try:
                await self._declare_all(link)
            except (ChannelClosed, ConnectFailed, LinkLost) as error:
                log.warning("exchanges, queues or bindings cannot be declared again: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the end ------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Stop intake, hand back what has not started, finish the rest, and let the replies leave."""
        for worker in self._workers:
            worker.stop_taking()
        await asyncio.gather(*(self._stop_consuming(worker, channel) for worker, channel in self._channels.items()))
        for worker in self._workers:
            worker.hand_back()
        for worker in self._workers:
            abandoned = await worker.finish(self._drain_timeout)
            if abandoned:
                self.abandoned += abandoned
                log.error(
                    "%s: abandoned after %g s: %s",
                    worker.service.name,
                    self._drain_timeout,
                    ", ".join(abandoned),
                )

    async def _stop_consuming(self, worker: Worker, channel: HotChannel) -> None:
        # Known only of a queue that was declared here: any other may be a quorum queue, which needs the window.
        classic = worker.service.queue == "classic" and worker.service.declare and self._may_declare
        try:
            async with asyncio.timeout(5.0):
                await channel.cancel(window=0 if classic else worker.concurrency)
        except (ChannelClosed, LinkLost, TimeoutError):
            log.debug("the consumer could not be cancelled; its connection is going anyway")


def _topology_error(service: Served, queue: str, error: ChannelClosed) -> CallError:
    if error.code == PRECONDITION_FAILED:
        message = (
            f"queue {queue!r} exists with other arguments: {error.text}. Delete it, or serve it as it is with"
            f" Service({service.name!r}, declare=False)"
        )
        reason = "QUEUE_ARGUMENTS"
    else:
        message, reason = f"queue {queue!r} cannot be used: {error}", "TOPOLOGY"
    return make_error(Code.FAILED_PRECONDITION, reason, message, execution=Execution.NOT_SENT, origin=Origin.BROKER)
