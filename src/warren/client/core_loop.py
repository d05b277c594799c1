"""What runs in the thread of a blocking client: an event loop with a `ClientCore`, and the inbox that leads into it.

A request is handed over in the inbox and finished in any case: with its outcome, or with why there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import Context
from typing import Any, Protocol

from warren.client.core import ClientCore
from warren.client.options import Limits
from warren.client.statistics import ClientStatistics
from warren.connection.settings import Settings
from warren.connection.supervisor import closed_error
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import evidence
from warren.protocol.problems import in_words

log = get_logger("warren.client")


class Request(Protocol):
    """What is handed to the I/O thread."""

    given_up: bool

    def begin(self, core: ClientCore) -> None:
        """In the I/O thread: start it."""

    def give_up(self, core: ClientCore) -> None:
        """In the I/O thread: nobody waits for it any more."""

    def finish(self, outcome: Any) -> None:
        """Take the outcome; an exception stands for itself."""


class CoreLoop:
    """Has one life: `prepare` and `run`, in its thread, and `close`. Requests are put in from any thread.

    Attributes:
        is_open: whether it takes requests, and there is anything that `close` would end.
        closed: whether it was told to close.
        dead: whether it ended untold.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self.is_open = self.closed = self.dead = False
        self._settings = settings
        self._limits = limits
        self._context = Context()  # of all that outlives a call: it must carry nothing of the caller's
        self._loop: asyncio.AbstractEventLoop | None = None
        self._core: ClientCore | None = None
        self._inbox: deque[Request] = deque()
        self._woken = False
        self._stopping = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def statistics(self) -> ClientStatistics:
        return self._core.statistics if self._core is not None else ClientStatistics()

    # --- from any thread ----------------------------------------------------------------------------------------

    def put(self, request: Request) -> None:
        """Hand a request over, to a loop that has been open; it is finished in any case."""
        self._inbox.append(request)
        if self._woken:
            return
        self._woken = True
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._take_inbox, context=self._context)
        except RuntimeError:  # the loop was closed in between
            self._refuse_inbox()

    def close(self) -> None:
        """Begin to close, without waiting and without a lock: the garbage collector may ask for it anywhere."""
        self.closed, self.is_open = True, False
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._begin_closing, context=self._context)

    # --- in its thread ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the loop and begin to connect; whatever keeps it from that is raised."""
        loop: asyncio.AbstractEventLoop | None = None
        try:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            self._core = loop.run_until_complete(self._make_core())
        except BaseException:  # no descriptor left, for example
            if loop is not None:
                loop.close()
            raise
        self._loop, self.is_open = loop, True

    def run(self) -> None:
        """Until it is closed, or the loop breaks; then all that is left is finished, as nobody must wait for ever."""
        assert self._loop is not None
        try:
            self._serve(self._loop)
        finally:
            self._end(self._loop)

    async def _make_core(self) -> ClientCore:
        core = ClientCore(self._settings, self._limits)
        core.open()
        return core

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping:
            try:
                loop.run_forever()
            except Exception:  # the loop itself is broken
                log.exception("the client's I/O thread dies")
                return
            except BaseException as error:  # a callback's SystemExit, for example: not ours to die of
                log.error("the client's I/O thread goes on after %s in a callback", in_words(error))

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._stopping:
            self._die(loop)
        with contextlib.suppress(Exception):
            loop.run_until_complete(loop.shutdown_asyncgens())
        with contextlib.suppress(Exception):
            loop.close()
        self._woken = False  # whoever finds it so from now on finds the loop closed, too
        self._refuse_inbox()

    def _die(self, loop: asyncio.AbstractEventLoop) -> None:
        """End every call without a loop to rely on."""
        assert self._core is not None
        self.dead, self.is_open = True, False
        try:
            loop.run_until_complete(self._core.close())
        except Exception:
            closing = self._core.close()  # its first step ends all calls, and needs no loop
            with contextlib.suppress(Exception, StopIteration):
                closing.send(None)
            closing.close()

    def _begin_closing(self) -> None:
        if self._closing is None:
            assert self._core is not None
            self._closing = self._core.loop.create_task(self._core.close())
            self._closing.add_done_callback(self._stop)

    def _stop(self, closing: asyncio.Task[None]) -> None:
        if not closing.cancelled() and closing.exception() is not None:
            log.error("the client's connection could not be closed", exc_info=closing.exception())
        self._stopping = True
        closing.get_loop().stop()

    def _take_inbox(self) -> None:
        # Cleared before looking: what is put in later either is seen now or wakes the loop again.
        self._woken = False
        inbox = self._inbox
        while inbox:
            self._take(inbox.popleft())

    def _take(self, request: Request) -> None:
        assert self._core is not None
        if request.given_up:
            request.give_up(self._core)
            return
        try:
            request.begin(self._core)
        except BaseException as error:  # the caller's to hear, not the loop's
            request.finish(error)

    def _refuse_inbox(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may do the same
            while self._inbox:
                request = self._inbox.popleft()
                if not request.given_up:
                    request.finish(self._why_refused())

    def _why_refused(self) -> CallError:
        return closed_error() if self.closed else dead_error()


def dead_error() -> CallError:
    """What calls end in when the loop has died, or its thread."""
    return evidence.conclude(evidence.NO_IO_THREAD, "the client's I/O thread has died: make a new client")
