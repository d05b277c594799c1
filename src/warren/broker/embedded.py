"""The embedded broker as a library: start it, stop it, look into it, and have it misbehave."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from warren.broker.errors import AmqpError
from warren.broker.faults import Countdown
from warren.broker.server import Server, make_url
from warren.broker.session import Session
from warren.broker.state import Settings
from warren.broker.status import QUEUE, Status, answer_status, take_status
from warren.broker.tables import Value

T = TypeVar("T")

VERSION = "0.1.0"
_PATIENCE = 30.0  # seconds that the broker's own thread may take for anything


class Broker:
    """A small AMQP 0-9-1 broker in this process, for development and tests. No disk, no cluster.

    ``async with Broker() as broker`` runs it on the running event loop, ``with Broker() as broker`` on a thread of its
    own. Methods may be called from any thread, in both forms, while it runs; they return once they have taken effect.

    Everything is in memory: queues and messages, durable or not, live as long as the broker.

    Args:
        host: The address to listen on. The user guest is let in from this machine only.
        port: The TCP port; 0 takes a free one.
        socket: Path of a Unix socket to listen on instead.
        tls: Speak TLS; client certificates as the context demands.
        users: Passwords by user; guest with the password guest by default.
        vhosts: The virtual hosts that exist.
        product: What the broker calls itself; some clients look for "RabbitMQ".
        server_properties: Further server properties, or other values for the usual ones.
        heartbeat: The interval that clients are offered, in seconds; 0 for none.
        max_message_size: Larger messages are refused, in bytes.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        socket: str | None = None,
        tls: ssl.SSLContext | None = None,
        users: Mapping[str, str] | None = None,
        vhosts: Sequence[str] = ("/",),
        product: str = "Warren",
        server_properties: Mapping[str, Value] | None = None,
        heartbeat: int = 60,
        max_message_size: int = 128 * 1024 * 1024,
    ) -> None:
        self._settings = Settings(
            users=dict(users) if users is not None else {"guest": "guest"},
            vhosts=tuple(vhosts),
            product=product,
            version=VERSION,
            server_properties=dict(server_properties or {}),
            heartbeat=heartbeat,
            max_message_size=max_message_size,
        )
        self._host, self._port, self._socket, self._tls = host, port, socket, tls
        self._ahead = 0.0  # seconds that the broker's clock is ahead
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._home: int | None = None  # the thread of the loop
        self._thread: _LoopThread | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, on the running event loop.

        Raises:
            OSError: the address is not to be had.
            RuntimeError: it runs already.
        """
        if self._server is not None:
            raise RuntimeError("this broker runs already")
        server = Server(self._settings, lambda: time.monotonic() + self._ahead)
        await server.listen(host=self._host, port=self._port, path=self._socket, tls=self._tls)
        server.state.services[QUEUE] = lambda host, question: answer_status(self._status(), host, question)
        self._loop, self._home = asyncio.get_running_loop(), threading.get_ident()
        self._server = server

    async def stop(self) -> None:
        """Close all connections, as RabbitMQ does when it shuts down, and forget everything; again: nothing."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        self._thread = _LoopThread()
        try:
            self._thread.run(self.start)
        except BaseException:
            self._thread.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        try:
            self._thread.run(self.stop)
        finally:
            self._thread.end()

    # --- facts --------------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The TCP port; 0 on a Unix socket."""
        return self._running().port

    @property
    def url(self) -> str:
        """The AMQP URL for clients on this machine."""
        host = "127.0.0.1" if self._host in ("", "0.0.0.0") else self._host  # noqa: S104 - compared, not bound
        return make_url(host, self.port, self._socket, self._tls is not None, self._settings.users)

    def status(self) -> Status:
        """Connections, queues and consumers at this moment."""
        return self._do(self._status)

    def _status(self) -> Status:
        server = self._running()
        product, version = self._settings.product, self._settings.version
        return take_status(product, version, self._sessions(), server.state.hosts.values())

    # --- connections --------------------------------------------------------------------------------------------------

    def drop_connections(self, *, reset: bool = False) -> int:
        """Cut all connections without a word of AMQP, with a TCP reset if asked; returns how many there were."""
        return self._do(partial(self._drop, reset))

    def _drop(self, reset: bool) -> int:
        connections = list(self._running().connections.values())
        for connection in connections:
            if reset:
                connection.abort()
            else:
                connection.drop()
        return len(connections)

    def drop_connections_after(
        self, frames: int, *, to_clients: bool = False, reset: bool = False, name: str = ".*"
    ) -> int:
        """Cut the connections that there are, each once so many more frames have come from its client.

        The last frame is taken but not answered: a publish of three frames reaches its queue after the third, and its
        confirm is never sent. With `to_clients` it is the frames that go to a client that count, and the last one is
        still sent; whether a client reads what it got before a reset is its own affair. Heartbeats do not count.
        Connections that are made later are left alone.

        Args:
            frames: How many; 0 cuts at once.
            to_clients: Count what goes to the client.
            reset: End with a TCP reset.
            name: A regular expression for the whole name that a client calls itself, as `status` shows it.

        Returns:
            How many connections will be cut.
        """
        return self._do(partial(self._drop_after, re.compile(name, re.DOTALL), frames, to_clients, reset))

    def _drop_after(self, name: re.Pattern[str], frames: int, to_clients: bool, reset: bool) -> int:
        self._running().flush()  # what is on its way already does not count
        sessions = [session for session in self._sessions() if not session.ended and name.fullmatch(session.name)]
        for session in sessions:
            session.cut_after(Countdown(frames, to_clients, reset))
        return len(sessions)

    def close_connections(self, code: int = 320, text: str = "broker forced connection closure") -> int:
        """Close all connections with an AMQP reply code; returns how many there were."""

        def close() -> int:
            sessions = self._sessions()
            for session in sessions:
                session.close(AmqpError(code, text))
            return len(sessions)

        return self._do(close)

    def refuse_connections(self, refuse: bool = True) -> None:
        """Reset whoever connects from now on, or stop doing so."""
        self._set_fault("refusing", refuse)

    def freeze(self) -> None:
        """Read nothing and send nothing on any connection, as a stopped process would, until `thaw`."""
        self._do(partial(self._freeze, True))

    def thaw(self) -> None:
        """The end of `freeze`: go on where it was."""
        self._do(partial(self._freeze, False))

    def _freeze(self, frozen: bool) -> None:
        server = self._running()
        server.state.faults.frozen = frozen
        for session in self._sessions():
            session.freeze(frozen)
        for connection in server.connections.values():
            connection.hold_back()

    def block(self, reason: str = "low on memory", *, at_once: bool = False) -> None:
        """Block publishers, as RabbitMQ does under a memory alarm: who publishes is told so and not heard any more.

        As with RabbitMQ a client is told so when it publishes, and its first message is held if it has a body; with
        `at_once` all clients are told and held now.
        """
        self._do(partial(self._alarm, reason, at_once))

    def unblock(self) -> None:
        """The end of `block`: what blocked clients have sent since is read now."""
        self._do(partial(self._alarm, None, False))

    def _alarm(self, reason: str | None, at_once: bool) -> None:
        server = self._running()
        server.state.alarm = reason
        for session in self._sessions():
            if reason is None:
                session.unblock()
            elif at_once:
                session.block()
        for connection in server.connections.values():
            connection.hold_back()

    # --- channels, queues, messages -----------------------------------------------------------------------------------

    def close_channels(self, code: int = 406, text: str = "closed on purpose") -> int:
        """Close all channels with an AMQP reply code; returns how many there were."""

        def close() -> int:
            open_ones = [(s, c) for s in self._sessions() for c in s.channels.values() if not c.closing]
            for session, channel in open_ones:
                session.close_channel(channel, AmqpError(code, text))
            return len(open_ones)

        return self._do(close)

    def delete_queue(self, name: str, vhost: str = "/") -> None:
        """Delete a queue under its consumers; they are sent Basic.Cancel.

        Raises:
            KeyError: there is no such queue.
        """

        def delete() -> None:
            host = self._running().state.hosts[vhost]
            host.remove_queue(host.queues[name])

        self._do(delete)

    def withhold_confirms(self, count: int = 1) -> None:
        """Never confirm the next publishes; the messages are taken all the same."""
        self._set_fault("withheld_confirms", count)

    def delay_confirms(self, seconds: float) -> None:
        """Send all confirms so much later, until told otherwise; 0 ends it."""
        self._set_fault("confirm_delay", seconds)

    def reorder_confirms(self, count: int = 2) -> None:
        """Keep the confirms of the next publishes until there are so many, and send them one by one, the last first.

        Until then nothing is confirmed; 0 sends what is kept. The publishes count on all channels together.
        """

        def reorder() -> None:
            faults = self._running().state.faults
            faults.release_confirms()
            faults.reordered_confirms = count

        self._do(reorder)

    def nack_publishes(self, count: int = 1) -> None:
        """Throw the next publishes on channels with confirms away, and nack them."""
        self._set_fault("nacked_publishes", count)

    def duplicate_deliveries(self, count: int = 1, *, queue: str = ".*") -> None:
        """Send the next deliveries twice; `queue` is a regular expression for a whole queue name.

        Direct replies come from ``amq.rabbitmq.reply-to``.
        """
        self._set_fault("duplicated_queues", re.compile(queue, re.DOTALL))
        self._set_fault("duplicated_deliveries", count)

    def delay_deliveries(self, seconds: float, *, queue: str = ".*") -> None:
        """Send all deliveries from some queues so much later, until told otherwise; 0 ends it."""
        self._set_fault("delayed_queues", re.compile(queue, re.DOTALL))
        self._set_fault("delivery_delay", seconds)

    def _set_fault(self, name: str, value: object) -> None:
        self._do(lambda: setattr(self._running().state.faults, name, value))

    def advance(self, seconds: float) -> None:
        """Set the broker's clock forward: messages and idle queues expire. Clients do not count as silent meanwhile."""

        def advance() -> None:
            for session in self._sessions():
                session.skip(seconds)
            self._ahead += seconds
            self._running().tick(jump=True)

        self._do(advance)

    # --- threads ------------------------------------------------------------------------------------------------------

    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError("this broker does not run; use it as a context manager")
        return self._server

    def _sessions(self) -> list[Session]:
        return list(self._running().connections)

    def _do(self, action: Callable[[], T]) -> T:
        """Run on the broker's loop, and write what comes of it."""
        server = self._running()
        if threading.get_ident() == self._home:
            return _and_flush(action, server)
        assert self._loop is not None

        async def run() -> T:
            return _and_flush(action, server)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_PATIENCE)


def _and_flush(action: Callable[[], T], server: Server) -> T:
    server.tick()
    result = action()
    server.flush()
    return result


class _LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="warren-broker", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def run(self, function: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a coroutine function to its end.

        Raises:
            TimeoutError: the thread does not answer.
        """
        asyncio.run_coroutine_threadsafe(function(), self._loop).result(_PATIENCE)

    def end(self) -> None:
        """Stop the loop, and wait for the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
