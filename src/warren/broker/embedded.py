"""The embedded broker as a library: start it, stop it, look into it, and have it misbehave."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from warren.broker.misbehaviour import Misbehaviour
from warren.broker.server import Server, make_url
from warren.broker.state import Settings
from warren.broker.status import QUEUE, Status, answer_status, take_status

T = TypeVar("T")

VERSION = "0.1.0"
_PATIENCE = 30.0  # seconds that the broker's own thread may take for anything


class Broker(Misbehaviour):
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
        heartbeat: int = 60,
        max_message_size: int = 128 * 1024 * 1024,
    ) -> None:
        self._settings = Settings(
            users=dict(users) if users is not None else {"guest": "guest"},
            vhosts=tuple(vhosts),
            product=product,
            version=VERSION,
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
        thread = _LoopThread()
        try:
            thread.run(self.start)
        except BaseException:
            thread.end()
            raise
        self._thread = thread
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

    # --- time ---

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
        try:
            self._thread.start()
        except BaseException:  # the system has no thread left
            self._loop.close()
            raise

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
