"""One upload at its caller: what was given and not sent, and how far it is ahead of its handler.

Items are asked for when there is room for one more, so that none is taken from its maker and kept. Those that come
before the event loop has sent them travel together.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from warren.client.outcomes import upload_idle, upload_lost, upload_refused, upload_stopped
from warren.client.uplink import Publish, Sender, Uplink
from warren.logs import get_logger
from warren.protocol.codecs import CodecError
from warren.protocol.streaming import Ahead, Written, item_size, joined, together, write_item
from warren.protocol.uploading import Sent, Taken, sent_properties

log = get_logger("warren.client")

#: Seconds after which a caller that has nothing to send says so; it hears by that, too, whether anybody takes it.
SIGN_OF_LIFE = 5.0
#: Seconds that a reply gets to come when what was sent has come back: its worker may have ended in good order.
_GRACE = 2.0
#: Seconds that what items come from gets to close.
_PATIENCE = 1.0


class Ended(Protocol):
    """Who is told that an upload cannot go on."""

    def fail(self, error: BaseException) -> None:
        """The call is given up, and ends in this."""


def _do_nothing() -> None:
    pass


class _Filled:
    """What was given and not sent: items are put in on the event loop or in a thread.

    Attributes:
        taken: how many items the handler has taken, as far as it has told; None before it asks for the first one.
        over: whether the call has ended: nobody takes any more.
    """

    def __init__(self, content_type: str, max_size: int, idle_timeout: float | None = None) -> None:
        """`max_size`: bytes of the largest item; `idle_timeout`: seconds to wait for room."""
        self.taken: int | None = None
        self.over = False
        self._content_type = content_type
        self._max_size = max_size
        self._idle_timeout = idle_timeout
        self._changed = threading.Condition()  # of all that follows
        self._ahead: Ahead | None = None
        self._buffer: list[Written] = []
        self._is_ended = False  # by its maker: there are no more
        self._owes = False  # whether the worker has to be told something, items or not
        self._flushes = False  # whether the loop will look into it
        self._full_since: float | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def sent(self) -> int:
        """How many items there were so far."""
        return 0 if self._ahead is None else self._ahead.sent

    @property
    def _has_room(self) -> bool:
        return self._ahead is not None and self._ahead.has_room

    def _patience(self) -> float | None:
        """Seconds for which to wait for room, at most.

        Raises:
            CallError: those are over.
        """
        if self._idle_timeout is None:
            return None
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        left = self._full_since + self._idle_timeout - now
        if left <= 0:
            raise upload_idle(self._idle_timeout)
        return left

    async def room(self) -> bool:
        """Wait until one more item may be sent; False if the call has ended. On the loop.

        Raises:
            CallError: that took too long.
        """
        while not (self.over or self._has_room):
            self._room = asyncio.get_running_loop().create_future()
            patience = self._patience()
            if patience is None:
                await self._room
            else:
                await asyncio.wait([self._room], timeout=patience)
        self._full_since = None
        return not self.over

    def room_in_thread(self, timeout: float) -> bool | None:
        """The same in a thread; None after `timeout` seconds."""
        with self._changed:
            if not (self.over or self._has_room):
                patience = self._patience()
                self._changed.wait(timeout if patience is None else min(timeout, patience))
            if self.over:
                return False
            if not self._has_room:
                self._patience()
                return None
            self._full_since = None
            return True

    def put(self, item: Any) -> None:
        """Send one more item, for which there is room.

        Raises:
            CallError: it cannot travel.
        """
        body = self._encode(item)
        with self._changed:
            assert self._ahead is not None
            self._ahead.send(len(body))
            self._buffer.append(body)
            self._flush_soon()

    def end(self) -> None:
        """There are no more."""
        with self._changed:
            self._is_ended = True
            self._flush_soon()

    def _encode(self, item: Any) -> Written:
        try:
            body = write_item(self._content_type, item)
        except CodecError as error:
            raise upload_refused(f"item {self.sent} cannot be sent: {error}; give what can travel") from error
        if (size := item_size(self._content_type, body)) > self._max_size:
            why = (
                f"item {self.sent} has {size} bytes: raise max_message_size ({self._max_size}), or send less at a time"
            )
            raise upload_refused(why, too_large=True)
        return body

    def _flush_soon(self) -> None:
        self._owes = True
        if not self._flushes:  # what comes before the loop gets to it travels together
            self._flushes = True
            self._on_loop(self._flush)

    def _on_loop(self, function: Callable[[], None]) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        raise NotImplementedError

    def abandon(self) -> None:
        """Nobody takes any more; from any thread."""
        with self._changed:
            self.over = True
            self._buffer.clear()
            self._changed.notify_all()

    def _wake(self) -> None:
        """There may be room, or it is over; on the loop."""
        with self._changed:
            self._changed.notify_all()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Sending(_Filled, Sender):
    """Sends it, on the loop, as the handler takes it.

    Attributes:
        on_over: called when the call has ended.
    """

    def __init__(self, content_type: str, max_size: int, idle_timeout: float | None = None) -> None:
        super().__init__(content_type, max_size, idle_timeout)
        self.on_over: Callable[[], None] = _do_nothing
        self._first = 0  # the number of the first item that is not sent
        self._silent = True
        self._timer: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._to = b""
        self._id = b""
        self._uplink: Uplink | None = None
        self._owner: Ended | None = None

    def begin(self, call_id: bytes, uplink: Uplink, owner: Ended) -> None:
        """It belongs to this call, which has begun."""
        self._id = call_id
        self._loop = asyncio.get_running_loop()
        self._uplink = uplink
        self._owner = owner

    @property
    def id(self) -> bytes:
        return self._id

    def _on_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the call with it
            self._loop.call_soon_threadsafe(function)

    def _flush(self) -> None:
        self._flushes = False
        if self._owes and not self.over and self._uplink is not None:
            self._uplink.send(self)

    def write(self, reply_to: bytes, publish: Publish) -> None:
        with self._changed:
            bodies, self._buffer = self._buffer, []
            first, self._first = self._first, self._first + len(bodies)
            owes, self._owes, is_ended = self._owes, False, self._is_ended
        if self.over or not owes:
            return
        self._silent = False

        def send(sent: Sent, content_type: str, body: bytes) -> None:
            publish(self._to, sent_properties(content_type, self._id, reply_to, sent), body)

        for group in together(bodies):
            send(Sent(first, len(group), False), *joined(self._content_type, group))
            first += len(group)
        if is_ended or not bodies:
            send(Sent(first, 0, is_ended), self._content_type, b"")

    def _look(self) -> None:
        """Say that the caller is there, and, after the end, say that again: it may have got lost."""
        if self.over:
            return
        if self._silent:
            self._owes = True
            self._flush()
        self._silent = True
        self._timer = self._loop.call_later(SIGN_OF_LIFE, self._look)

    def heard(self, taken: Taken) -> None:
        """The handler has taken so many items."""
        with self._changed:
            self._to = taken.to.encode()
            if self._ahead is None:
                self._ahead = Ahead(taken.window)
                self._timer = self._loop.call_later(SIGN_OF_LIFE, self._look)
            if taken.number <= self._ahead.sent:
                self.taken = max(taken.number, self.taken or 0)
            self._ahead.consumed(taken.number)
        self._wake()

    def returned(self) -> None:
        if self._grace is None and not self.over:
            self._grace = self._loop.call_later(_GRACE, lambda: self.fail(upload_lost()))

    def fail(self, error: BaseException) -> None:
        if not self.over and self._owner is not None:
            self._owner.fail(error)

    def close(self) -> None:
        """The call has ended."""
        self.abandon()
        self._wake()
        on_over, self.on_over = self.on_over, _do_nothing  # once: it would disturb what closes
        on_over()
        self._owner = None  # which knows this one: no cycle
        if self._uplink is not None:
            self._uplink.forget(self)
        for timer in (self._timer, self._grace):
            if timer is not None:
                timer.cancel()


# --- who has the items --------------------------------------------------------------------------------------------


def checked_items(items: Any, *, on_loop: bool) -> Any:
    """Itself.

    Raises:
        TypeError: nothing that items can be taken from, or, in all likelihood, one item.
    """
    if isinstance(items, (str, bytes, bytearray, memoryview, dict)):
        raise TypeError(f"{type(items).__name__} is one item rather than several: give a list of it, or a generator")
    if isinstance(items, Iterable) or (on_loop and isinstance(items, AsyncIterable)):
        return items
    if isinstance(items, AsyncIterable):
        raise TypeError("a Client takes items from an iterator that is not async: give it one, or use AsyncClient")
    raise TypeError(f"{items!r} has no items to send: give a list, or what a generator function returns")


class AsyncFeed:
    """The items of an upload, taken in a task of their own; where there is no call to take them, they are closed."""

    def __init__(self, sending: Sending, items: AsyncIterable[Any] | Iterable[Any]) -> None:
        """Begin to take them when the loop comes to it."""
        self._sending = sending
        self._begun = False
        self._task = asyncio.get_running_loop().create_task(self._run(items))
        self._task.add_done_callback(self._fed)
        sending.on_over = self._stop

    def _stop(self) -> None:
        if self._begun:  # else it would close nothing; and it sees by itself that it is over
            self._task.cancel()

    async def closed(self) -> None:
        """Wait, once the call has ended, until what they come from is closed: not for ever, as that is others' code."""
        if not self._task.done() and self._task is not asyncio.current_task():
            await asyncio.wait([self._task], timeout=_PATIENCE)

    async def _run(self, items: AsyncIterable[Any] | Iterable[Any]) -> None:
        self._begun = True
        iterator = aiter(items) if isinstance(items, AsyncIterable) else _Plain(iter(items))
        try:
            while await self._sending.room():
                try:
                    item = await anext(iterator)
                except StopAsyncIteration:
                    self._sending.end()
                    return
                self._sending.put(item)
        finally:
            if hasattr(iterator, "aclose"):
                with _logged():
                    await iterator.aclose()

    def _fed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._sending.over:
            if error is not None:
                log.error("what gave an upload its items failed when its call had ended: mend it", exc_info=error)
        elif task.cancelled():
            self._sending.fail(upload_stopped())
        elif error is not None:
            self._sending.fail(error)


class _Plain(AsyncIterator[Any]):
    """An iterator that is not async, as one that is."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    async def __anext__(self) -> Any:
        try:
            item = next(self._iterator, _NOTHING)
        except StopAsyncIteration as error:
            raise RuntimeError(
                "an iterator that is not async raised StopAsyncIteration: raise StopIteration at the end"
            ) from error
        if item is _NOTHING:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        close_generator(self._iterator)


_NOTHING: Any = object()


def close_generator(items: Any) -> None:
    """Close what items come from; a file, say, stays open, as it is somebody else's."""
    if isinstance(items, Generator):
        with _logged():
            items.close()


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What closing raises is logged: how the call has ended is not hidden by that."""
    try:
        yield
    except Exception:
        log.exception("what gave an upload its items failed to close: mend it")


class Feed:
    """The items of an upload, taken in a thread."""

    def __init__(self, sending: Sending, items: Iterable[Any]) -> None:
        self._sending = sending
        self._iterator: Iterator[Any] = iter(items)
        self._is_done = False

    def run(self, seconds: float) -> bool:
        """Take items for about so long; returns whether there are none left, or nobody takes them.

        Raises:
            Exception: what they come from has raised, or one cannot be sent.
        """
        until = time.monotonic() + seconds
        while not self._is_done:
            left = until - time.monotonic()
            room = self._sending.room_in_thread(max(0.0, left))
            if room is None:
                return False
            self._is_done = not room or not self._take_one()
            if left <= 0:
                break
        return self._is_done

    def _take_one(self) -> bool:
        try:
            item = next(self._iterator)
        except StopIteration:
            self._sending.end()
            return False
        self._sending.put(item)
        return True

    def close(self) -> None:
        """Close what they come from."""
        self._is_done = True
        close_generator(self._iterator)


def feed_in_thread(feed: Feed, fail: Callable[[BaseException], None]) -> None:
    """Take all items, in a thread of their own; `fail` is told what that ended in, if not in their end."""
    try:
        try:
            while not feed.run(3600.0):
                pass
        finally:
            feed.close()
    except BaseException as error:
        fail(error)
