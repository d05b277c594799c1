"""The byte stream under one connection: asyncio on one side, Pika on the other, the hot frames in between.

A stream

* sends what was written as `warren.connection.output` does it, also heartbeats from outside (`beat`) when user code
  blocks the loop;
* reads what belongs to large bodies to its own place;
* hands the deliveries, returns and confirms of tapped channels to their tap and every other frame, untouched, to Pika;
* keeps Pika's liveness check satisfied while only hot frames arrive, by showing it a heartbeat once a second.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar, cast

from pika.adapters.utils import nbio_interface as nbio

from warren.amqp.frames import HEARTBEAT_FRAME, FrameError
from warren.amqp.splitter import Splitter
from warren.connection.blocks import keep_large_blocks
from warren.connection.fork import Belonging, disown_in_children
from warren.connection.greeting import Greeting, NotAmqp
from warren.connection.output import Output, descriptor
from warren.logs import get_logger

log: Final = get_logger("warren.amqp")

#: Seconds between two looks at whether Pika saw any traffic lately, and at whether the loop turns.
TICK: Final = 1.0
#: Bytes that are read at a time at the most, into a buffer of our own: for a plain Protocol asyncio allocates 256 KiB
#: for each read, however little comes, which costs 30 us a time here (the kernel maps and unmaps the pages).
READ_SIZE: Final = 64 * 1024
T = TypeVar("T")


class Stream(Output, asyncio.BufferedProtocol, nbio.AbstractStreamTransport):  # type: ignore[misc]
    """An asyncio protocol that is at the same time the transport Pika writes to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, frame_max: int) -> None:
        super().__init__(loop)
        self._pika: nbio.AbstractStreamProtocol | None = None
        self._socket: Any = None
        self.reason: BaseException | None = None  # why the connection ended; None if the broker closed it in good order
        self._input = memoryview(bytearray(READ_SIZE))
        self._tick_timer: asyncio.TimerHandle | None = None
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
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._open(transport)
        self._socket = transport.get_extra_info("socket")
        if self._pika is None:  # given up meanwhile
            transport.abort()
            return
        self._belonging = disown_in_children(Belonging(self.disown))
        self._tick()
        self._pika.connection_made(self)

    def disown(self) -> None:
        """Let go of a parent's connection after a fork, without a word to the broker and without closing the parent's.

        The descriptor stays, on another file, so that whoever closes it later closes no newer one of that number.
        """
        if self._socket is not None:  # one that was dropped may be open yet
            _put_nothing_behind(self._socket.fileno())
        self._transport = None
        self._writing = threading.Lock()  # the old one may be held by a thread that the child does not have

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to; what belongs to a large body is read to its own place before that."""
        self._called = True
        try:
            while (places := self.splitter.places()) and (count := self._read_to(places)):
                keep_large_blocks()
                self._take_in(count, partial(self.splitter.placed, places), count)
        except MemoryError as failure:  # a body that there is no room for
            self.fail(failure)
        self._called = False
        return self._input

    def _read_to(self, places: list[memoryview]) -> int:
        """Read past the transport, which keeps nothing itself; how many bytes, 0 for whatever it is to find."""
        fd = None if self._transport is None else descriptor(self._transport)
        if sys.platform == "win32" or fd is None:
            return 0
        try:
            return os.readv(fd, places)
        except OSError:
            return 0

    def buffer_updated(self, nbytes: int) -> None:
        self._take_in(nbytes, self._take, bytes(self._input[:nbytes]))

    def _take_in(self, count: int, take: Callable[[T], None], what: T) -> None:
        """Let `take` have what came, which are so many bytes."""
        self.received += count
        try:
            if self._transport is not None:  # else it was dropped, and nothing behind that makes sense
                take(what)
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
        self._lost()
        self.reason = self.reason or self._greeting.wrong or exc
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        if self._pika is not None:
            self._pika.connection_lost(self.reason)

    # --- Pika's side --------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Drop the connection; `connection_lost` follows."""
        self.flush()
        if (transport := self._transport) is not None:
            self._lost()  # the transport may drop a part of a frame, and nothing may follow that
            if self._called:
                self._loop.call_soon(transport.abort)
            else:
                transport.abort()

    def detach(self) -> None:
        """Drop the connection without another word to Pika."""
        self._pika = None
        self.abort()

    def get_protocol(self) -> nbio.AbstractStreamProtocol:
        return self._pika

    # --- both ---------------------------------------------------------------------------------------------------

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
