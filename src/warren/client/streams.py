"""Streams as their callers see them: iterators, for asyncio and for threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from warren.client.chained_items import begin_items
from warren.client.core import ClientCore
from warren.client.inlet import End, Inlet, Message
from warren.client.io_thread import IOThread
from warren.client.outcomes import after_items, after_sending
from warren.client.prepared import Prepared
from warren.client.sending import AsyncFeed, Feed, Sending, close_generator, feed_in_thread
from warren.client.waiters import Waiting, Withdrawal
from warren.errors import CallError
from warren.protocol.problems import in_words
from warren.protocol.running import Running

T_co = TypeVar("T_co", covariant=True)

_OF_THE_PARENT = "this stream was begun before a fork, and is the parent's: begin another one here"


class TakerFuture(asyncio.Future[Any]):
    """What a task waits for (Taker)."""

    def finish(self, outcome: Message | End) -> None:
        if not self.done():
            self.set_result(outcome)


class _Items(Generic[T_co]):
    """What has come of a stream, and was not handed out, for either kind of iterator."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._sending = None if prepared.items is None else Sending(prepared.target.content_type, prepared.max_item)
        self._ready: deque[T_co] = deque()
        self._read = 0  # how many there were, with those that were handed out
        self._over = False
        self._turn = threading.Lock()  # of the one that waits for what comes next

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """What comes next is waited for and laid ready in here: two at a time would change the order of items.

        Raises:
            RuntimeError: another does that; it goes on.
        """
        if not self._turn.acquire(blocking=False):
            raise RuntimeError("two take from one stream at a time: let one of them take, and hand on what it gets")
        try:
            yield
        finally:
            self._turn.release()

    def _accept(self, outcome: Message | End) -> None:
        """Have what has come ready, or know that it is over."""
        ready = self._prepared.read(outcome)
        if ready is None:
            self._over = True
        else:
            self._ready = ready
            self._read += len(ready)

    @contextlib.contextmanager
    def _last_error(self) -> Iterator[None]:
        """Whatever is raised in this block ends the stream, of which so many items had come."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, CallError):
                self._prepared.locate(error)
            if isinstance(error, Exception):
                after_items(error, self._read)
                if self._sending is not None:
                    after_sending(error, self._sending.sent, self._sending.taken)
            self._close()
            if isinstance(error, StopIteration | StopAsyncIteration):  # a loop would take it for the end of all items
                raise RuntimeError(
                    f"the stream has ended in {in_words(error)}, of the handler or of middleware: let those raise"
                    " another exception"
                ) from error
            raise

    def _close(self) -> None:
        raise NotImplementedError


class AsyncStream(_Items[T_co], AsyncIterator[T_co]):
    """The items of a stream, as they come: for ``async for``.

    The call begins with the first item that is asked for. Leaving the loop, dropping or closing the stream, and
    cancelling the task that waits for an item give the call up: the generator at the worker is closed. An exception
    that leaves the loop keeps the stream for as long as it is kept itself, by a cancelled task for example: ``async
    with`` closes it in any case.
    """

    def __init__(self, prepared: Prepared, core: Callable[[], ClientCore]) -> None:
        super().__init__(prepared)
        self._core = core
        self._inlet: Inlet | None = None
        self._feed: AsyncFeed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        if self._ready:
            self._check_loop()  # in a forked child, say, these are the parent's
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            inlet = self._begun()
            with self._alone(), self._last_error():
                future = TakerFuture()
                inlet.take(future)
                self._accept(await future)
            if self._over and self._feed is not None:
                await self._feed.closed()
        return self._ready.popleft()

    def _begun(self) -> Inlet:
        if self._inlet is None:
            core, prepared = self._core(), self._prepared
            options, self._loop = prepared.options, core.loop
            with self._last_error():
                self._feed_beside()
                self._inlet = begin_items(core, prepared, options.deadline(), options.idle_timeout, self._sending)
        self._check_loop()
        return self._inlet

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("this stream was begun on another event loop, and goes on there only: begin another one")

    def _feed_beside(self) -> None:
        if self._sending is not None:
            self._feed = AsyncFeed(self._sending, self._prepared.items)

    async def aclose(self) -> None:
        """Give the call up, if it has not ended; any number of times."""
        self._close()
        if self._inlet is None and self._feed is None and self._sending is not None:
            self._sending.close()
            self._feed_beside()  # which only closes what they come from
        if self._feed is not None:
            await self._feed.closed()

    def _close(self) -> None:
        over, self._over = self._over, True
        self._ready.clear()
        if self._inlet is not None and self._loop is not None and not over:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the call with it
                self._loop.call_soon_threadsafe(self._inlet.give_up)

    def __del__(self) -> None:
        if getattr(self, "_inlet", None) is not None:
            self._close()


class Taking(Waiting):
    """A thread that waits for what comes next (Request, Taker)."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self._held = held

    def begin(self, core: ClientCore) -> None:
        self._held.begun(core).take(self)

    def locate(self, error: CallError) -> None:
        self._held.locate(error)

    def give_up(self, core: ClientCore) -> None:
        self._held.give_up(core)

    def withdraw(self, core: ClientCore) -> None:
        """See `Withdrawal`."""
        self._held.begun(core).withdraw()


class Held:
    """A thread's stream, in the I/O thread; as a request it gives the stream up (Request)."""

    given_up = False

    def __init__(
        self, prepared: Prepared, deadline: float, idle_timeout: float | None, sending: Sending | None
    ) -> None:
        self._prepared = prepared
        self._deadline = deadline
        self._idle_timeout = idle_timeout
        self._sending = sending
        self._inlet: Inlet | None = None

    def begun(self, core: ClientCore) -> Inlet:
        if self._inlet is None:
            self._inlet = begin_items(core, self._prepared, self._deadline, self._idle_timeout, self._sending)
        return self._inlet

    def begin(self, core: ClientCore) -> None:
        """Give it up; see `Request`."""
        self.give_up(core)

    def locate(self, error: CallError) -> None:
        """Make an error say which call it is about."""
        self._prepared.locate(error)

    def give_up(self, core: ClientCore) -> None:
        """Whoever waits for an item is told that there is none."""
        if self._inlet is not None:
            self._inlet.give_up()

    def finish(self, outcome: Any) -> None:
        """Nobody waits for that."""


class _Failing:
    """Ends a thread's call as its items have ended (Request)."""

    given_up = False

    def __init__(self, held: Held, error: BaseException) -> None:
        self._held = held
        self._error = error

    def begin(self, core: ClientCore) -> None:
        self._held.begun(core).fail(self._error)

    def give_up(self, core: ClientCore) -> None:
        """Nobody waits for that."""

    def finish(self, outcome: Any) -> None:
        """See `give_up`."""


class BlockingStream(_Items[T_co], Iterator[T_co]):
    """The items of a stream, as they come: for ``for``, in one thread at a time; see `AsyncStream`."""

    def __init__(self, prepared: Prepared, io: Callable[[], IOThread], owner: object) -> None:
        """`owner` is kept until the stream has ended: what it owns must not end meanwhile."""
        super().__init__(prepared)
        self._io = io
        self._owner: object = owner
        self._held: Held | None = None
        self._process = 0
        self._deadline = 0.0
        self._running: Running | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        while self._ready or not self._over:
            if not self._ready:
                self._fill()
            elif self._process != os.getpid():
                raise RuntimeError(_OF_THE_PARENT)
            try:
                return self._ready.popleft()
            except IndexError:  # this was the end, or another thread was faster
                continue
        raise StopIteration

    def _fill(self) -> None:
        """Wait for what comes next, unless another thread has while this one looked."""
        with self._alone():
            if self._ready or self._over:
                return
            held = self._begun()
            with self._last_error():
                self._accept(self._next(held))

    def _next(self, held: Held) -> Message | End:
        taking = Taking(held)
        outcome: Message | End | BaseException = self._io().take(
            taking, Withdrawal(taking), self._deadline, self._running
        )
        if isinstance(outcome, BaseException):  # it could not begin
            raise outcome
        return outcome

    def _begun(self) -> Held:
        if self._held is None:
            options = self._prepared.options
            self._process = os.getpid()
            self._deadline, self._running = options.deadline(), options.bound_to()
            held = Held(self._prepared, self._deadline, options.idle_timeout, self._sending)
            if self._sending is not None:  # first: without its items nothing would go on
                self._feed_beside(self._sending, held)
            self._held = held
        elif self._process != os.getpid():
            raise RuntimeError(_OF_THE_PARENT)
        return self._held

    def _feed_beside(self, sending: Sending, held: Held) -> None:
        """Take the items to send in a thread of their own, in the context of this one."""
        feed, io = Feed(sending, self._prepared.items), self._io()

        def fail(error: BaseException) -> None:
            with contextlib.suppress(CallError):  # the client is closed, and the call with it
                io.start(_Failing(held, error))

        work = partial(copy_context().run, feed_in_thread, feed, fail)
        threading.Thread(target=work, name="warren-items", daemon=True).start()

    def close(self) -> None:
        """Give the call up, if it has not ended; any number of times, from any thread.

        In a forked child it leaves the parent's call alone.
        """
        self._close()
        if self._held is None:
            close_generator(self._prepared.items)

    def _close(self) -> None:
        held, over, self._over = self._held, self._over, True
        self._ready.clear()
        if self._sending is not None and self._process == os.getpid():
            self._sending.abandon()
        if held is not None and not over and self._process == os.getpid():
            io = self._io()
            if io.is_open:  # else the client is closed, and the call with it
                with contextlib.suppress(CallError):  # it was closed in between
                    io.start(held)

    def __del__(self) -> None:
        if getattr(self, "_held", None) is not None:
            self._close()
