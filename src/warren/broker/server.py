"""The embedded broker on a socket: asyncio around `session.Session`.

One loop, one thread, no locks. What a turn of the loop produces leaves in one write per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast
from urllib.parse import quote

from warren.broker.errors import AmqpError
from warren.broker.session import Session
from warren.broker.state import Settings, State
from warren.logs import get_logger

_log = get_logger("warren.broker")

_LINGER = 2.0  # seconds that a client has to close its side after the last byte
_GOODBYE = 0.5  # seconds that clients have to answer Connection.Close when the broker stops
_LATE = 0.25  # seconds after its time that a timer still counts as punctual
_HIGH_WATER = 256 * 1024  # bytes in a socket's buffer from which on nothing more is put there


class _Connection(asyncio.Protocol):
    """One socket."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self.session: Session | None = None
        self._paused = False
        self._closing = False

    # --- from asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport = transport
        if self._server.state.faults.refusing:
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        address, loopback = _peer(transport)
        self._server.tick()
        backlog = transport.get_write_buffer_size
        self.session = Session(self._server.state, loopback=loopback, address=address, backlog=backlog)
        self.session.frozen = self._server.state.faults.frozen
        self._server.connections[self.session] = self
        _log.debug("%s connected", address)

    def data_received(self, data: bytes) -> None:
        session = self.session
        if session is None or session.ended:
            return
        self._server.tick()
        self._carry_out(session, partial(session.receive, data))
        self.hold_back()

    def eof_received(self) -> bool:
        return False  # the client is done: asyncio closes

    def pause_writing(self) -> None:
        if self.session is not None:
            self.session.congest()
            self.hold_back()

    def resume_writing(self) -> None:
        if self.session is not None:
            self._carry_out(self.session, self.session.relieve)
            self.hold_back()

    @staticmethod
    def _carry_out(session: Session, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # a defect of ours: it may cost this connection, not the broker
            _log.exception("%s: internal error", session.address)
            session.close(AmqpError(541, "internal error"))

    def connection_lost(self, error: Exception | None) -> None:
        session = self.session
        if session is None:
            return
        self._server.tick()
        self._server.forget(session)
        _log.debug("%s disconnected%s", session.address, f": {session.ended_by}" if session.ended_by else "")

    # --- from the server ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what the session has, and close if it has ended."""
        session, transport = self.session, self._transport
        if session is None or transport is None or self._closing:
            return
        was_full = session.full
        data = session.take_output()
        if data:
            transport.write(data)
        if session.ended:
            self._finish(transport, reset=session.resets)
        elif was_full and not session.full:
            self._carry_out(session, session.relieve)
        self.hold_back()

    def hold_back(self) -> None:
        """Read from the client only as long as it may go on."""
        session, transport = self.session, self._transport
        if session is None or transport is None or transport.is_closing() or session.stalled == self._paused:
            return
        self._paused = session.stalled
        if self._paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _finish(self, transport: asyncio.Transport, *, reset: bool) -> None:
        """Half-close and go on reading: closing with unread input would reset a client that is still writing."""
        self._closing = True
        if reset:
            self.abort()
            return
        if self._paused:
            transport.resume_reading()
        if transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client has reset the connection: connection_lost is on its way
                transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER, transport.abort)
        else:
            transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            _reset_on_close(self._transport)
            self._transport.abort()

    def drop(self) -> None:
        """Close the socket without a word of AMQP."""
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size():  # it would wait for who does not read
            self._transport.abort()
        else:
            self._transport.close()


def _peer(transport: asyncio.Transport) -> tuple[str, bool]:
    """The client's address, and whether it is on this machine."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return "unix socket", True
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = transport.get_extra_info("peername")[:2]
    return f"{host}:{port}", ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _reset_on_close(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


class Server:
    """Listens, and owns the clock. `state` is the broker that its connections share."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        now = clock()
        self.state = State(settings, lambda: secrets.token_urlsafe(16), now, time.time() - now)
        self.state.on_dirty = self._flush_soon
        self.state.timers.on_earlier = self.set_timer
        self.connections: dict[Session, _Connection] = {}
        self._listener: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None
        self._socket_path: str | None = None
        self._nobody_left = asyncio.Event()

    async def listen(self, *, host: str, port: int, path: str | None, tls: ssl.SSLContext | None) -> None:
        """Begin to accept connections, on a Unix socket if `path` is given.

        Raises:
            OSError: the address is not to be had.
        """
        self._loop = asyncio.get_running_loop()
        if path is not None:
            _remove_stale(path)
            self._listener = await self._loop.create_unix_server(lambda: _Connection(self), path, ssl=tls)
            self._socket_path = path
        else:
            self._listener = await self._loop.create_server(lambda: _Connection(self), host, port, ssl=tls)

    @property
    def port(self) -> int:
        """The TCP port; 0 on a Unix socket."""
        if self._listener is None or self._socket_path is not None:
            return 0
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Send every client Connection.Close 320, as RabbitMQ does when it shuts down, and stop."""
        if self._listener is None:
            return
        await self._stop_listening(self._listener)
        self.tick()
        for session in list(self.connections):
            session.close(AmqpError(320, "broker forced connection closure with reason 'shutdown'"))
        self.flush()
        await self._wait_for_clients()
        if self._timer is not None:
            self._timer.cancel()
        if self._socket_path is not None:
            _unlink(self._socket_path)
        self._listener = None

    async def _stop_listening(self, listener: asyncio.Server) -> None:
        """Accept no more, and get to know those that have just been accepted.

        asyncio takes some turns of the loop to make a connection of what it has accepted. If its server is closed
        meanwhile it forgets the socket without closing it (Python 3.11), and that client would wait for ever.
        """
        assert self._loop is not None
        with contextlib.suppress(NotImplementedError):  # Windows' own event loop has none
            for sock in listener.sockets:
                self._loop.remove_reader(sock.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        listener.close()

    async def _wait_for_clients(self) -> None:
        """Give them a moment to answer, then reset."""
        assert self._loop is not None
        self._nobody_left.clear()
        reset = self._loop.call_later(_GOODBYE, self._reset_all)
        if self.connections:
            await self._nobody_left.wait()
        reset.cancel()

    def _reset_all(self) -> None:
        for connection in list(self.connections.values()):
            connection.abort()

    def forget(self, session: Session) -> None:
        """A connection is gone."""
        self.connections.pop(session, None)
        session.lost()
        if not self.connections:
            self._nobody_left.set()

    # --- time and output ----------------------------------------------------------------------------------------------

    def tick(self, *, jump: bool = False) -> None:
        """Bring the broker's time up to date; an error in what was due is nobody's who happens to ask.

        If the loop has been held up, clients have not been heard meanwhile: that is not their silence. A `jump` is of
        the clock alone.
        """
        now, due = self.clock(), self.state.timers.next()
        if due is not None and now - due > _LATE and not jump:
            for session in self.connections:
                session.skip(now - due)
        while True:
            try:
                self.state.advance(now)
                return
            except Exception:  # a defect of ours; what failed is not tried again
                _log.exception("internal error")

    def _flush_soon(self) -> None:
        if self._loop is not None:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what has come together."""
        for session in self.state.take_dirty():
            connection = self.connections.get(session) if isinstance(session, Session) else None
            if connection is not None:
                connection.flush()

    def set_timer(self) -> None:
        """Wake up when something is due."""
        due = self.state.timers.next()
        if due is None or self._loop is None or (self._timer_due is not None and self._timer_due <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(due - self.clock(), 0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer_due = self._timer = None
        self.tick()
        self.set_timer()


def _remove_stale(path: str) -> None:
    """Remove the socket of a broker that is no more; one that answers is left alone.

    Raises:
        OSError: somebody listens there.
    """
    if not os.path.exists(path):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            _unlink(path)
            return
    raise OSError(f"somebody listens on {path} already")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_url(host: str, port: int, path: str | None, tls: bool, users: Mapping[str, str]) -> str:
    """The AMQP URL of an address, with the first user's name and password."""
    user, password = next(iter(users.items()))
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    if path is not None:
        return f"amqp+unix://{login}@/%2F?socket={quote(path, safe='')}"
    shown = f"[{host}]" if ":" in host else host
    return f"{'amqps' if tls else 'amqp'}://{login}@{shown}:{port}/%2F"
