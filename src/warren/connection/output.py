"""What a connection sends: gathered for one turn of the loop, and given to the system as it has room.

Small things leave together, in one piece, by the transport. What is large goes past it, from where it lies: asyncio
before Python 3.12 copies all that the system does not take at once. The transport has a small part of the rest
then, as it is the one that hears when there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from warren.amqp.frames import HEARTBEAT_FRAME
from warren.connection.blocks import keep_large_blocks

if sys.platform != "win32":
    import fcntl
    import termios

#: Bytes of output that may wait in this process before publishers should wait, and below which they may go on.
HIGH_WATER: Final = 1024 * 1024
_LOW_WATER: Final = HIGH_WATER // 4
#: Bytes from which on output is large, of one piece on average and in all; and how many pieces are sent at a time, at
#: most (every system takes 16, Linux 1,024).
_LARGE_PIECE: Final = 1024
_LARGE: Final = 64 * 1024
_PIECES: Final = 64


class Output:
    """One connection's output; the sending half of `warren.connection.stream.Stream`.

    Attributes:
        congested: so much waits that publishers should wait, too.
        on_relieved: called when they need not any more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._output: list[bytes | memoryview] = []
        self._unflushed = 0  # bytes in there
        self._flushing = False
        self._before_flush: list[Callable[[], None]] = []
        self._waiting: deque[bytes | memoryview] = deque()  # behind what the transport has, which is something then
        self._waits = 0  # bytes in there
        # Whether the transport calls, and cannot be aborted: uvloop's would crash the process, asyncio's end twice.
        self._called = False
        self._writing = threading.Lock()  # against `beat`, the only thing that comes from another thread
        self.congested = False
        self.on_relieved: Callable[[], None] | None = None

    def _open(self, transport: asyncio.Transport) -> None:
        """Send by this transport."""
        # What goes past it has to know when it is empty.
        transport.set_write_buffer_limits(high=HIGH_WATER if descriptor(transport) is None else 0)
        self._transport = transport

    def _lost(self) -> None:
        """There is nobody to send to any more."""
        with self._writing:
            self._transport = None
        self._output.clear()
        self._waiting.clear()
        self._unflushed = self._waits = 0

    # --- from the transport -------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The transport has something: it has been asked how much."""

    def resume_writing(self) -> None:
        """The transport has nothing any more; or, where all goes by it, little."""
        self._called = True
        try:
            with self._writing:
                self._send_waiting()
            self._relieve()
        except Exception as failure:
            self.fail(failure)
        self._called = False

    def _relieve(self) -> None:
        if self.congested and self._unsent() <= _LOW_WATER:
            self.congested = False
            if self.on_relieved is not None:
                self.on_relieved()

    # --- to the transport ---------------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Send these bytes, whole frames only, at the end of this turn of the loop, or once they are many."""
        self._output.append(data)
        self._unflushed += len(data)
        if self._unflushed > HIGH_WATER:
            self.flush()  # so that who writes a lot in one turn hears of congestion in that turn
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def write_pieces(self, pieces: list[bytes | memoryview]) -> None:
        """Send these bytes, whole frames only when taken together."""
        self._output += pieces[:-1]
        self._unflushed += sum(map(len, pieces)) - len(pieces[-1])
        self.write(pieces[-1])

    def before_flush(self, produce: Callable[[], None]) -> None:
        """Call `produce` before each flush: for frames that are better written late, like coalesced acks."""
        self._before_flush.append(produce)

    def forget(self, produce: Callable[[], None]) -> None:
        """Undo `before_flush`; a producer that is not there is ignored."""
        if produce in self._before_flush:
            self._before_flush.remove(produce)

    def flush_soon(self) -> None:
        """Flush at the end of this turn even if nothing is written: a `before_flush` producer has something."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hand everything written so far on."""
        try:
            self._flush()
        except Exception as failure:  # no memory, say: nobody knows what of it was sent
            self._before_flush.clear()  # one may raise each time, and dropping it flushes once more
            self.fail(failure)

    def _flush(self) -> None:
        size, self._unflushed = self._unflushed, 0  # first: what the producers write must not flush again
        for produce in self._before_flush:
            produce()
        self._flushing = False
        output = self._output
        if not output:
            return
        self._output = []
        size, self._unflushed = size + self._unflushed, 0
        with self._writing:
            self._hand_on(output, size)

    def _hand_on(self, output: list[bytes | memoryview], size: int) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._waiting or (_is_large(output, size) and descriptor(transport) is not None):
            keep_large_blocks()
            self._waiting += output
            self._waits += size
            self._send_waiting()
        else:
            transport.write(b"".join(output))
        if self._unsent() > HIGH_WATER:
            self.congested = True

    def _send_waiting(self) -> None:
        """Send what the system takes now. Of what is left the transport has the first part."""
        waiting, transport = self._waiting, self._transport
        while waiting and transport is not None and not transport.get_write_buffer_size():
            pieces = [waiting[at] for at in range(min(_PIECES, len(waiting)))]
            sent = _write_now(descriptor(transport), pieces)
            self._drop(sent)
            if sent < sum(map(len, pieces)):
                first = memoryview(waiting[0])[:_LARGE]
                transport.write(first)
                self._drop(len(first))

    def _drop(self, count: int) -> None:
        """Drop so many bytes of what waits: somebody has them."""
        waiting = self._waiting
        self._waits -= count
        while waiting and count >= len(waiting[0]):  # also those that are empty
            count -= len(waiting.popleft())
        if count:
            waiting[0] = memoryview(waiting[0])[count:]

    def fail(self, error: Exception) -> None:
        """Drop the connection for this reason."""
        raise NotImplementedError

    # --- how much waits -----------------------------------------------------------------------------------------

    def _unsent(self) -> int:
        """Bytes that were flushed and that the system has not taken."""
        buffered = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return buffered + self._waits

    def get_write_buffer_size(self) -> int:
        """Bytes that the system has not taken."""
        return self._unsent() + self._unflushed

    def undelivered(self) -> int:
        """Bytes of output that have not reached the peer's system yet, those in our kernel's buffer included."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return self.get_write_buffer_size() + (_unacknowledged(sock.fileno()) if sock is not None else 0)

    # --- from another thread ------------------------------------------------------------------------------------

    def beat(self) -> bool:
        """While the loop is blocked: send a heartbeat; False when that is not safe now.

        It is not if bytes are still buffered (a frame may be half sent), or the stream is encrypted (a TLS session
        cannot be used from two threads).
        """
        with self._writing:
            transport = self._transport
            if transport is None or transport.get_write_buffer_size() or self._waiting:
                return False
            fd = descriptor(transport)
            if fd is not None:
                _write_whole(fd, HEARTBEAT_FRAME)
            return fd is not None


def descriptor(transport: asyncio.Transport) -> int | None:
    """The descriptor to which a transport's bytes go as they are; None where they do not, or a socket is no file."""
    if sys.platform == "win32" or transport.get_extra_info("sslcontext") is not None:
        return None
    sock = transport.get_extra_info("socket")
    return None if sock is None else int(sock.fileno())


def _is_large(output: list[bytes | memoryview], size: int) -> bool:
    """Whether it is worth its own way; many small pieces are not, however much they are together."""
    return size >= _LARGE and size >= _LARGE_PIECE * len(output)


def _write_now(fd: int | None, pieces: list[bytes | memoryview]) -> int:
    """How many bytes the system takes at once; 0 where something is wrong, too, which the transport will find."""
    if sys.platform == "win32" or fd is None:
        return 0
    try:
        return os.writev(fd, pieces)
    except OSError:
        return 0


def _unacknowledged(fd: int) -> int:
    """Bytes that the kernel has taken and the peer's has not acknowledged; 0 where it does not tell."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError):  # closed already; uvloop's says -1 then, which is a ValueError
            return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


def _write_whole(fd: int, data: bytes) -> None:
    """Write to a non-blocking socket; once the first byte is out the rest of the frame must follow."""
    sent = 0
    while sent < len(data):
        try:
            sent += os.write(fd, data[sent:])
        except BlockingIOError:
            if not sent:
                return  # the peer reads nothing: there is no use in a heartbeat
            select.select([], [fd], [], 1.0)
        except OSError:
            return  # the connection is going down, the loop will see it
