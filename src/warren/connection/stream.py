"""The byte stream under one connection: asyncio on one side, Pika on the other, the hot frames in between.

A stream

* sends everything that was written in one turn of the loop with one call of the transport: one place writes, one
  flushes;
* hands the deliveries, returns and confirms of tapped channels to their tap and every other frame, untouched, to Pika;
* keeps Pika's liveness check satisfied while only hot frames arrive, by showing it a heartbeat once a second;
* sends a heartbeat from outside (`beat`) when user code blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, cast

from pika.adapters.utils import nbio_interface as nbio

from warren.amqp.frames import HEARTBEAT_FRAME, FrameError
from warren.amqp.splitter import Splitter
from warren.connection.fork import Belonging, disown_in_children
from warren.connection.greeting import Greeting, NotAmqp
from warren.logs import get_logger

if sys.platform != "win32":
    import fcntl
    import termios

log: Final = get_logger("warren.amqp")

#: Seconds between two looks at whether Pika saw any traffic lately, and at whether the loop turns.
TICK: Final = 1.0
#: Bytes that are read at a time at the most, into a buffer of our own: for a plain Protocol asyncio allocates 256 KiB
#: for each read, however little comes, which costs 30 us a time here (the kernel maps and unmaps the pages).
READ_SIZE: Final = 256 * 1024
#: Bytes of output that may wait in the transport before publishers should wait.
HIGH_WATER: Final = 1024 * 1024
_LARGE: Final = 64 * 1024


class Stream(asyncio.BufferedProtocol, nbio.AbstractStreamTransport):  # type: ignore[misc]
    """An asyncio protocol that is at the same time the transport Pika writes to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, frame_max: int) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._pika: nbio.AbstractStreamProtocol | None = None
        self.reason: BaseException | None = None  # why the connection ended; None if the broker closed it in good order
        self._input = memoryview(bytearray(READ_SIZE))
        self._output: list[bytes | memoryview] = []
        self._unflushed = 0  # bytes in there
        self._flushing = False
        self._before_flush: list[Callable[[], None]] = []
        self._tick_timer: asyncio.TimerHandle | None = None
        self._writing = threading.Lock()  # against `beat`, the only thing that comes from another thread
        self.congested = False  # the transport holds more than HIGH_WATER bytes that the broker has not taken
        self.on_relieved: Callable[[], None] | None = None
        self.splitter = Splitter(self._other, frame_max)
        self._greeting = Greeting()
        self._take: Callable[[bytes], None] = self._meet
        self.last_turn = time.monotonic()
        self.received = 0  # bytes, without heartbeats

    # --- asyncio's side -----------------------------------------------------------------------------------------

    def attach(self, pika: nbio.AbstractStreamProtocol) -> None:
        """Say who hears of the connection's life, and gets the frames that nobody tapped."""
        self._pika = pika

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if self._pika is None:  # given up meanwhile
            transport.abort()
            return
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self._belonging = disown_in_children(Belonging(self.disown))
        self._tick()
        self._pika.connection_made(self)

    def disown(self) -> None:
        """Let go of a parent's connection after a fork, without a word to the broker and without closing the parent's.

        The descriptor stays, on another file, so that whoever closes it later closes no newer one of that number.
        """
        if self._transport is not None:
            _put_nothing_behind(self._transport.get_extra_info("socket").fileno())
        self._transport = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._input

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes
        if nbytes > _LARGE:
            _keep_large_blocks()
        try:
            self._take(bytes(self._input[:nbytes]))
            if self.splitter.delivered:
                self.splitter.delivered = False
                # Behind what the deliveries have woken, in the next turn: what that writes leaves at its end.
                self.flush_soon()
        except (FrameError, NotAmqp) as error:
            self.fail(error)
        except Exception as failure:  # Pika's parser, or a callback behind it: the connection's state is unknown now
            log.exception("closing the connection after an error while reading from it")
            self.fail(failure)

    def _meet(self, data: bytes) -> None:
        """Take what comes first: a peer that speaks something else is known by it."""
        if frames := self._greeting.take(data):
            self._take = self.splitter.feed
            self._take(frames)

    def eof_received(self) -> bool:
        return bool(self._pika is not None and self._pika.eof_received())

    def connection_lost(self, exc: BaseException | None) -> None:
        with self._writing:
            self._transport = None
        self.reason = self.reason or self._greeting.wrong or exc
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._output.clear()
        self._unflushed = 0
        if self._pika is not None:
            self._pika.connection_lost(self.reason)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if self.on_relieved is not None:
            self.on_relieved()

    # --- Pika's side --------------------------------------------------------------------------------------------

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

    def abort(self) -> None:
        """Drop the connection; `connection_lost` follows."""
        if self._transport is not None:
            self.flush()
            self._transport.abort()

    def detach(self) -> None:
        """Drop the connection without another word to Pika."""
        self._pika = None
        self.abort()

    def get_protocol(self) -> nbio.AbstractStreamProtocol:
        return self._pika

    def get_write_buffer_size(self) -> int:
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return waiting + self._unflushed

    def undelivered(self) -> int:
        """Bytes of output that have not reached the peer's system yet, those in our kernel's buffer included."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return self.get_write_buffer_size() + (_unacknowledged(sock.fileno()) if sock is not None else 0)

    # --- both ---------------------------------------------------------------------------------------------------

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
        """Hand everything written so far to the transport in one piece."""
        self._unflushed = 0  # first: what the producers write must not flush again
        for produce in self._before_flush:
            produce()
        self._flushing = False
        output = self._output
        if not output:
            return
        self._output = []
        self._unflushed = 0
        data = b"".join(output)
        with self._writing:
            if self._transport is not None:
                # A view: asyncio cuts off what the socket took at once, which would copy the rest of a large one.
                self._transport.write(data if len(data) < _LARGE else memoryview(data))

    def beat(self) -> bool:
        """From another thread, while the loop is blocked: send a heartbeat; False when that is not safe now.

        It is not if bytes are still buffered (a frame may be half sent), or the stream is encrypted (a TLS session
        cannot be used from two threads).
        """
        with self._writing:
            return self._transport is not None and _beat(self._transport)

    def _other(self, frame: bytes) -> None:
        """Pass a frame on that is not for a tap."""
        if frame == HEARTBEAT_FRAME:
            self.received -= len(frame)
        self._to_pika(frame)

    def _to_pika(self, frame: bytes) -> None:
        if self._pika is not None:
            self._pika.data_received(frame)

    def fail(self, error: BaseException) -> None:
        """Drop the connection for this reason."""
        self.reason = error
        self.abort()

    def _tick(self) -> None:
        self.last_turn = time.monotonic()
        if self.splitter.hot:
            self.splitter.hot = False
            self._to_pika(HEARTBEAT_FRAME)
        self._tick_timer = self._loop.call_later(TICK, self._tick)


def _put_nothing_behind(fd: int) -> None:
    """Let a descriptor stand for another file; one that is closed already stays as it is."""
    if fd >= 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)


def _unacknowledged(fd: int) -> int:
    """Bytes that the kernel has taken and the peer's has not acknowledged; 0 where it does not tell."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError):  # closed already; uvloop's says -1 then, which is a ValueError
            return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return 0


def _beat(transport: asyncio.Transport) -> bool:
    """Send a heartbeat past the transport, if it has nothing to send itself and does not encrypt."""
    if sys.platform == "win32":  # where a socket is no file
        return False
    if transport.get_write_buffer_size() or transport.get_extra_info("sslcontext") is not None:
        return False
    _write_whole(transport.get_extra_info("socket").fileno(), HEARTBEAT_FRAME)
    return True


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


@functools.cache
def _keep_large_blocks() -> None:
    """Have malloc keep the memory of large bodies for the next ones, instead of giving it back and asking again.

    Once a block of this size has been freed, glibc takes smaller ones from its heap, and trims that only when twice
    as much is free (mallopt(3), M_MMAP_THRESHOLD). Measured with 1 MiB echoed: 745 page faults per call at the server
    before, 2 after, which is half of its time. The block itself is never touched, so it takes no memory.
    """
    bytes(16 * 1024 * 1024)
