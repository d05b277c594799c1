"""A TCP proxy in front of the broker that breaks what a test tells it to break.

It runs on a thread of its own, so it goes on while the test's event loop is busy or blocked. Calls on it take effect
before they return. "up" is from a peer to the broker, "down" from the broker to the peer.

The proxy passes whole AMQP frames on, knows them by their names (``Basic.Publish``, ``Header``, ``Body``,
``Heartbeat``, ``Protocol`` for the eight bytes that begin a connection) and can act on the n-th of a kind. What
`up` and `down` say is the weather: it is the same for all connections, later ones included. What `abandon`,
`half_open` and `cut` do hits the connections that are there now.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from pika import spec

from rabbit import free_ports
from tests.support.waiting import PATIENCE

HOST = "127.0.0.1"
#: Bytes that are read at a time, and how many such pieces may be on their way in one direction; beyond, the proxy stops
#: reading and TCP pushes back. Little of both, and of what the kernel holds for it: a peer shall feel a slow line.
_READ = 16384
_IN_FLIGHT = 4
_RECEIVE_BUFFER = 32768
_FRAME_KINDS = {2: "Header", 3: "Body", 8: "Heartbeat"}

Way = Literal["up", "down"]
How = Literal["rst", "fin"]


# --- frames -------------------------------------------------------------------------------------------------------


class FrameReader:
    """Cuts a byte stream into AMQP frames and names them. Pure.

    Bytes that are no frames (a corrupted stream) come out as they are, under the name ``?``.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._lost = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Take bytes and give the frames that are complete with them: name and bytes."""
        self._rest += data
        while size := self._next_size():
            frame = bytes(self._rest[:size])
            del self._rest[:size]
            yield self._name(frame), frame

    def _next_size(self) -> int:
        """Bytes of the next frame, 0 when it is not complete."""
        rest = self._rest
        if not rest or self._lost:
            return len(rest)
        if rest[0] == ord("A"):
            return 8 if len(rest) >= 8 else 0
        if rest[0] != 1 and rest[0] not in _FRAME_KINDS:
            self._lost = True
            return len(rest)
        if len(rest) < 7:
            return 0
        size = 8 + int(struct.unpack_from(">I", rest, 3)[0])
        return size if len(rest) >= size else 0

    def _name(self, frame: bytes) -> str:
        if self._lost:
            return "?"
        if frame[0] == ord("A"):
            return "Protocol"
        if frame[0] != 1:
            return _FRAME_KINDS[frame[0]]
        method = spec.methods.get(struct.unpack_from(">I", frame, 7)[0]) if len(frame) >= 12 else None
        return str(method.NAME) if method else "?"


# --- what can be wrong with a direction ---------------------------------------------------------------------------


class Line:
    """What happens to the bytes of one direction. Set the attributes at any time.

    Attributes:
        delay: seconds that everything is late.
        rate: bytes per second; None: as fast as it goes.
        slice: bytes per packet; None: as they come.
        silent: nothing moves, nothing is read, and the ends of connections are not passed on either.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.delay = 0.0
        self.rate: float | None = None
        self.slice: int | None = None
        self._silent = False
        self._changed = changed
        self._corrupt_at: int | None = None
        self._cut_at: tuple[int, How] | None = None

    @property
    def silent(self) -> bool:
        return self._silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        self._silent = silent
        self._changed()

    def corrupt(self, offset: int = 0) -> None:
        """Flip a bit of the byte that comes after so many others, once."""
        self._corrupt_at = offset

    def cut_after(self, count: int, how: How = "rst") -> None:
        """Let so many bytes through, then cut the connection on which the next one would go, once."""
        self._cut_at = (count, how)

    @property
    def corrupted(self) -> bool:
        """Whether the byte that `corrupt` speaks of has gone by."""
        return self._corrupt_at is None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Cut data into what goes into one packet each."""
        size = self.slice or (max(1, int(self.rate / 20)) if self.rate else len(data))
        return (data[start : start + size] for start in range(0, len(data), size))

    def spoil(self, piece: bytes) -> bytes:
        """Apply `corrupt`."""
        if self._corrupt_at is None:
            return piece
        if self._corrupt_at >= len(piece):
            self._corrupt_at -= len(piece)
            return piece
        at, self._corrupt_at = self._corrupt_at, None
        return piece[:at] + bytes([piece[at] ^ 0x10]) + piece[at + 1 :]

    def cut(self, piece: bytes) -> tuple[bytes, How | None]:
        """Apply `cut_after`: what may still go, and how to cut then, or None."""
        if self._cut_at is None:
            return piece, None
        left, how = self._cut_at
        if left >= len(piece):
            self._cut_at = (left - len(piece), how)
            return piece, None
        self._cut_at = None
        return piece[:left], how


@dataclass(eq=False)
class _Rule:
    """What to do when a frame of a kind comes by; `act` says whether the frame may pass."""

    way: Way
    name: str
    nth: int | None  # None: each of them
    act: Callable[[_Connection], bool]
    seen: int = 0

    def applies(self, way: Way, name: str) -> bool:
        if way != self.way or name != self.name:
            return False
        self.seen += 1
        return self.nth is None or self.seen == self.nth


# --- connections --------------------------------------------------------------------------------------------------


class _Connection:
    """One connection through the proxy. All of it runs on the proxy's loop."""

    def __init__(self, proxy: Proxy, peer: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers: dict[Way, asyncio.StreamWriter] = {"up": broker, "down": peer}
        self._abandoned: set[Way] = set()
        self._moves = asyncio.Event()
        self._moved = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        for writer in (peer, broker):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self, from_peer: asyncio.StreamReader, from_broker: asyncio.StreamReader) -> None:
        """Carry bytes both ways until both have ended."""
        self._tasks = [
            asyncio.create_task(self._carry("up", from_peer)),
            asyncio.create_task(self._carry("down", from_broker)),
        ]
        watch = asyncio.create_task(self._cut_when_idle())
        try:
            await asyncio.wait(self._tasks)
        finally:
            watch.cancel()
            self.cut("fin")

    def wake(self) -> None:
        """Something about silence has changed."""
        self._moves.set()

    def abandon(self, *ways: Way) -> None:
        """Nothing moves in these directions any more, until `resume`."""
        self._abandoned.update(ways)

    def resume(self) -> None:
        self._abandoned.clear()
        self._moves.set()

    def half_open(self) -> None:
        """The broker's side is gone, and the peer never hears of it."""
        self.abandon("up", "down")
        _reset(self._writers["up"])

    def cut(self, how: How) -> None:
        """End it on both sides; with a reset, what is under way is lost."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers.values():
            if how == "rst":
                _reset(writer)
            else:
                writer.close()

    async def _cut_when_idle(self) -> None:
        while time.monotonic() - self._moved < self._proxy.idle_limit:
            await asyncio.sleep(0.05)
        self.cut("fin")

    async def _carry(self, way: Way, reader: asyncio.StreamReader) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        sending = asyncio.create_task(self._deliver(way, queue))
        self._tasks.append(sending)
        how: How = "fin"
        try:
            await self._take(way, reader, queue)
        except OSError:
            how = "rst"
        await queue.put((0.0, b""))
        await sending
        await self._may_move(way)
        if how == "rst":
            self.cut(how)
        elif self._writers[way].can_write_eof():
            with contextlib.suppress(OSError):
                self._writers[way].write_eof()

    async def _take(self, way: Way, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Read, and pass on the frames that no rule holds back."""
        frames = FrameReader()
        line = self._proxy.line(way)
        while True:
            await self._may_move(way)
            data = await reader.read(_READ)
            if not data:
                return
            passed = [frame for name, frame in frames.feed(data) if self._proxy.admits(self, way, name)]
            if passed:
                await queue.put((time.monotonic() + line.delay, b"".join(passed)))

    async def _deliver(self, way: Way, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Write what is due, as the line says; an empty piece of data ends it."""
        while True:
            due, data = await queue.get()
            if not data:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # the other end is gone: its own direction says so
                await self._send(way, data)

    async def _send(self, way: Way, data: bytes) -> None:
        line, writer = self._proxy.line(way), self._writers[way]
        for number, piece in enumerate(line.pieces(data)):
            await self._may_move(way)
            self._moved = time.monotonic()
            piece, how = line.cut(line.spoil(piece))
            writer.write(piece)
            if how is not None:
                self._cut_when_sent(writer, how)
                return
            await writer.drain()
            if line.rate:
                await asyncio.sleep(len(piece) / line.rate)
            elif number % 64 == 63:
                await asyncio.sleep(0)

    def _cut_when_sent(self, writer: asyncio.StreamWriter, how: How) -> None:
        """The kernel has what was written: small writes go out at once. Cutting cancels the caller."""
        assert writer.transport.get_write_buffer_size() == 0
        self.cut(how)

    async def _may_move(self, way: Way) -> None:
        while self._proxy.line(way).silent or way in self._abandoned:
            self._moves.clear()
            await self._moves.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST, whatever is still to be sent."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, ValueError):  # closed already, which uvloop says by ValueError
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _turns(count: int) -> None:
    """Let the loop turn: transports are closed in callbacks of later turns."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- the proxy ----------------------------------------------------------------------------------------------------


class Proxy:
    """Stands in front of a broker on loopback; as a context manager, from entry to exit.

    Attributes:
        port: where it listens, for as long as it lives.
        up, down: the two directions of all connections.
        accepted: when each connection came in, in ``time.monotonic`` seconds, refused ones not included.
        seen: how many frames of a kind passed, by direction and name.
        idle_limit: seconds after which a connection is closed on which nothing has moved, as load balancers do.
    """

    def __init__(self, broker_port: int) -> None:
        [self.port] = free_ports(1)
        self.up = Line(self._wake)
        self.down = Line(self._wake)
        self.accepted: list[float] = []
        self.seen: Counter[tuple[Way, str]] = Counter()
        self.idle_limit = float("inf")
        self._broker_port = broker_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._connections: set[_Connection] = set()
        self._peers: dict[asyncio.Task[None], socket.socket] = {}
        self._rules: list[_Rule] = []
        self._reset_new = False

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The AMQP URL of the guest behind the proxy."""
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    @property
    def open(self) -> int:
        """Connections that are there now."""
        return len(self._connections)

    # --- new connections ----------------------------------------------------------------------------------------

    def refuse(self) -> None:
        """New connections are refused, as if nothing listened."""
        self._run(self._close_listener())

    def reset_new(self) -> None:
        """New connections are taken and reset at once."""
        self._reset_new = True

    def accept(self) -> None:
        """Undo `refuse` and `reset_new`."""
        self._reset_new = False
        self._run(self._listen())

    # --- connections that are there -----------------------------------------------------------------------------

    def cut(self, how: How = "rst") -> None:
        """End all connections, on both sides."""
        self._each(lambda connection: connection.cut(how))

    def abandon(self, *ways: Way) -> None:
        """A black hole for what is there now: nothing moves in these directions; new connections are not touched."""
        self._each(lambda connection: connection.abandon(*ways))

    def half_open(self) -> None:
        """The broker sees all connections reset, and the peers never hear of it."""
        self._each(_Connection.half_open)

    def heal(self) -> None:
        """The network is fine again: what was held back by silence moves on."""
        self.up.silent = self.down.silent = False
        self._each(_Connection.resume)

    # --- triggers -----------------------------------------------------------------------------------------------

    def cut_at(self, way: Way, name: str, *, nth: int = 1, how: How = "rst") -> None:
        """Cut the connection on which the n-th frame of this kind (from now) comes, before it passes; once."""

        def act(connection: _Connection) -> bool:
            connection.cut(how)
            return False

        self._rules.append(_Rule(way, name, nth, act))

    def abandon_at(self, way: Way, name: str, *ways: Way, nth: int = 1) -> None:
        """From the n-th frame of this kind on, which passes, nothing moves in these directions of its connection."""

        def act(connection: _Connection) -> bool:
            # The frame itself must still be delivered, so its own direction may not stop at once.
            connection.abandon(*ways)
            return True

        assert way not in ways, "a frame cannot pass and be held back"
        self._rules.append(_Rule(way, name, nth, act))

    def drop(self, way: Way, name: str, *, nth: int | None = None) -> None:
        """Swallow the n-th frame of this kind, or each one."""
        self._rules.append(_Rule(way, name, nth, lambda _connection: False))

    def forget_rules(self) -> None:
        """No `cut_at`, `abandon_at` or `drop` is in force any more."""
        self._rules.clear()

    # --- for the connections ------------------------------------------------------------------------------------

    def line(self, way: Way) -> Line:
        return self.up if way == "up" else self.down

    def admits(self, connection: _Connection, way: Way, name: str) -> bool:
        """Count a frame and ask the rules whether it may pass."""
        self.seen[way, name] += 1
        passes = True
        for rule in list(self._rules):
            passes = (not rule.applies(way, name) or rule.act(connection)) and passes
        return passes

    # --- inside -------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something on the proxy's loop, and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _each(self, work: Callable[[_Connection], None]) -> None:
        async def all_of_them() -> None:
            for connection in list(self._connections):
                work(connection)

        self._run(all_of_them())

    def _wake(self) -> None:
        if self._loop.is_running():
            self._each(_Connection.wake)

    # asyncio's own servers lose a connection that comes in while they are being closed: hence a plain listener.

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=500)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)  # accepted ones inherit it
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        sock, _address = listener.accept()
        sock.setblocking(False)
        self.accepted.append(time.monotonic())
        task = self._loop.create_task(self._serve(sock))
        self._peers[task] = sock
        task.add_done_callback(lambda task: self._peers.pop(task).close())

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock, limit=_READ)
        try:
            if self._reset_new:
                raise ConnectionResetError
            from_broker, broker = await asyncio.open_connection(HOST, self._broker_port, limit=_READ)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(self, writer, broker)
        self._connections.add(connection)
        try:
            await connection.run(reader, from_broker)
        finally:
            self._connections.discard(connection)

    async def _stop(self) -> None:
        await self._close_listener()
        for connection in list(self._connections):
            connection.cut("rst")
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await _turns(5)
