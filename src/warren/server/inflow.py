"""What a caller sends to a handler: it is taken in turn, and the caller hears how far.

The caller is told where its items go when the handler asks for the first one: so it cannot send any before, and who is
told has proof that the handler runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

from warren.amqp.frames import Properties
from warren.errors import CallError
from warren.protocol import codecs, evidence
from warren.protocol.codecs import CodecError, Decode
from warren.protocol.content import as_text
from warren.protocol.evidence import conclude
from warren.protocol.streaming import DEFAULT_WINDOW, Behind
from warren.protocol.uploading import Taken, read_sent, taken_properties
from warren.server.attempt import Attempt
from warren.server.ways import Way

#: Seconds after which a caller is told again how far its items were taken: what it was told may have got lost, and what
#: comes back says that it is gone.
TELL_AGAIN = 5.0
#: How often it is told so without a word from it, which says something every 5 s, before it counts as lost.
MOST_SILENT = 12
#: Bytes of an array around one item.
AROUND = 16

_GIVEN_UP = "nobody sends the items any more"
_CUT_OFF = "the handler was cut off at its deadline while it waited for an item: allow more time"
# Where in a message something does not fit; the caller knows its items by their numbers from the first.
_PLACE = re.compile(r"items\[(\d+)\]")


class _Message(NamedTuple):
    """Items that have come together, the first of which has this number."""

    seq: int
    number: int
    body: bytes
    content_type: bytes


class _Arrived:
    """What has come of an upload, and was not taken. It ends at its end, or in an error; not short.

    Filled on the event loop; the handler takes from it there or in a thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # of all that follows
        self._behind = Behind(DEFAULT_WINDOW)
        self._messages: deque[_Message] = deque()
        self._count: int | None = None  # how many there are, once their end has come
        self._failure: CallError | None = None
        self._stopped = False
        self._unheard = 0  # how often the caller was told something without a word from it
        self._waiting: asyncio.Future[None] | None = None

    def came(self, p: Properties, body: bytes | None, limit: int) -> None:
        """A message came; one item may have `limit` bytes."""
        self._unheard = 0
        with self._changed:
            if self._count is None and self._failure is None:  # else it is its end once more
                self._failure = self._take_in(p, body, limit)
                self._wake()

    def _take_in(self, p: Properties, body: bytes | None, limit: int) -> CallError | None:
        sent = read_sent(p)
        if sent is None:
            return broken("a message came that cannot be read")
        if body is None or (sent.number == 1 and len(body) > limit + AROUND):
            why = f"item {sent.seq} is larger than the service's max_message_size of {limit}: send less, or raise it"
            return conclude(evidence.ITEM_TOO_LARGE, why)
        if sent.is_end and sent.seq != self._behind.came:
            return broken(f"{self._behind.came} items came of {sent.seq}")
        trouble = self._behind.take(sent.seq, sent.number, len(body))
        if trouble:
            return broken(trouble)
        if sent.is_end:
            self._count = sent.seq
        elif sent.number:
            self._messages.append(_Message(sent.seq, sent.number, body, p.content_type or b""))
        return None

    def fail(self, error: CallError) -> None:
        """Nothing more can come: who takes hears of it behind what has come."""
        with self._changed:
            if self._count is None and self._failure is None:
                self._failure = error
                self._wake()

    def stop(self) -> None:
        """Nobody wants a result any more: who waits for an item, or a thread at its next one, hears of it."""
        with self._changed:
            self._stopped = True
            self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Inflow(_Arrived, Way):
    """One upload at its worker: its handler takes it in turn, and its caller hears how far."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, attempt: Attempt, way: tuple[str, str], decoder: Callable[[str], Decode]
    ) -> None:
        """`way`: the routing keys for items, and of this process."""
        _Arrived.__init__(self)
        Way.__init__(self, loop, attempt, _GIVEN_UP)
        self._way = way
        self._decoder = decoder
        self._taken: _Message | None = None  # it is consumed when the next one is asked for
        self._begun = self._closed = False
        self._turn = threading.Lock()  # of the one that takes

    # --- from the handler ---------------------------------------------------------------------------------------

    def on_loop(self) -> AsyncItems:
        """Its items, for a handler on the event loop."""
        return AsyncItems(self)

    def in_thread(self) -> Items:
        """Its items, for a handler in a thread."""
        return Items(self)

    async def take(self, ready: deque[Any]) -> bool:
        """Lay the items ready that come next; False at the end."""
        with self._alone():
            self._consume()
            while (found := self._next()) is _NOTHING:
                self.check_stopped()
                self._waiting = self._loop.create_future()
                await self._waiting
            return self._lay_ready(found, ready)

    def take_in_thread(self, ready: deque[Any]) -> bool:
        """The same in a thread."""
        call = self.attempt.call
        with self._alone():
            if ready:  # another thread has taken some since this one looked
                return True
            self._consume()
            forget = call.on_cancelled(self.stop)
            try:
                with self._changed:
                    while (found := self._next()) is _NOTHING:
                        if not self._changed.wait(call.remaining) and call.cancelled:
                            self._cut_off(self.attempt.limit, _CUT_OFF)
            finally:
                forget()
            return self._lay_ready(found, ready)

    def _lay_ready(self, found: _Message | None, ready: deque[Any]) -> bool:
        if found is not None:
            ready.extend(self._read(found))
        return found is not None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two at a time would change the order of items."""
        self._refuse_late()
        if not self._turn.acquire(blocking=False):
            raise RuntimeError("two take from one iterator at a time: let one of them take, and hand on what it gets")
        try:
            yield
        finally:
            self._turn.release()

    def _next(self) -> Any:
        """What there is to take: a message, None at the end, or nothing yet."""
        self._refuse_late()
        if self._stopped:
            self._cut_off(evidence.GIVEN_UP, _GIVEN_UP)
        if self._messages:
            self._taken = self._messages.popleft()
            return self._taken
        if self._failure is not None:
            raise self._failure
        return _NOTHING if self._count is None else None

    def _refuse_late(self) -> None:
        if self._closed:
            raise RuntimeError("the call that these items were sent to has ended: take them in its handler")

    def _cut_off(self, ending: evidence.Ending, why: str) -> None:
        """End a thread's handler as a task is ended."""
        self.attempt.stopped_by = self.attempt.stopped_by or (ending, why)
        raise asyncio.CancelledError(why)

    def _read(self, message: _Message) -> list[Any]:
        """The items of a message; where they cannot be read, nothing that follows is handed out either."""
        try:
            content_type = codecs.normalise(as_text(message.content_type))
            items: list[Any] = self._decoder(content_type)(message.body)
        except CodecError as error:
            told = _PLACE.sub(lambda found: f"item {message.seq + int(found[1])}", str(error), count=1)
            raise self._kept(conclude(evidence.ITEM_REFUSED, f"{told}; send what the method takes")) from error
        if len(items) != message.number:
            raise self._kept(broken(f"{len(items)} items came in a message that says {message.number}"))
        return items

    def _kept(self, failure: CallError) -> CallError:
        with self._changed:
            self._messages.clear()
            self._failure = failure
        return failure

    # --- to the caller ------------------------------------------------------------------------------------------

    def _consume(self) -> None:
        with self._changed:
            taken, self._taken = self._taken, None
            due = taken is not None and self._behind.consume(taken.number, len(taken.body))
            begins, self._begun = not self._begun, True
        if begins:
            self._loop.call_soon_threadsafe(self._begin)
        elif due:
            self._loop.call_soon_threadsafe(self._tell)

    def _begin(self) -> None:
        self._tell()
        self._watch()

    def _tell(self) -> None:
        attempt = self.attempt
        if not (attempt.ended or attempt.answered or self._stopped or self._closed) and self._count is None:
            with self._changed:
                taken = Taken(self._behind.tell(), *self._way, DEFAULT_WINDOW)
            attempt.channel.publish(b"", self.address, taken_properties(self.id, taken), b"")

    def _watch(self) -> None:
        if not self._closed and self._count is None:
            self._timer = self._loop.call_later(TELL_AGAIN, self._look)

    def _look(self) -> None:
        if self.attempt.ended:
            self.stop()
        self._unheard += 1
        if self._unheard > 1:  # a caller that is there says so as often as we look
            self.on_still()
        if self._unheard > MOST_SILENT:
            self.fail(broken(f"its caller has been silent for {MOST_SILENT * TELL_AGAIN:g} s"))
        self._tell()
        self._watch()

    def close(self) -> None:
        """The handler has ended: whatever else waits for an item hears of it."""
        with self._changed:
            self._closed = True
            self._wake()
        self._leave()


_NOTHING: Any = object()


def broken(why: str) -> CallError:
    """What a handler is told in place of items that are missing."""
    message = f"the upload is broken: {why}; what has come is not all of it: undo what must not stand by itself"
    return conclude(evidence.UPLOAD_BROKEN, message)


class AsyncItems(AsyncIterator[Any]):
    """What a caller sends, as a handler on the event loop takes it."""

    def __init__(self, inflow: Inflow) -> None:
        self._inflow = inflow
        self._ready: deque[Any] = deque()

    def __aiter__(self) -> AsyncItems:
        return self

    async def __anext__(self) -> Any:
        if not self._ready and not await self._inflow.take(self._ready):
            raise StopAsyncIteration
        return self._ready.popleft()


class Items(Iterator[Any]):
    """What a caller sends, as a handler in a thread takes it."""

    def __init__(self, inflow: Inflow) -> None:
        self._inflow = inflow
        self._ready: deque[Any] = deque()

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> Any:
        while self._ready or self._inflow.take_in_thread(self._ready):
            try:
                return self._ready.popleft()
            except IndexError:  # another thread was faster
                continue
        raise StopIteration
