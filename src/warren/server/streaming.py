"""Methods that yield: their items go to the caller as they come, and wait while it has not consumed enough of them.

A generator function becomes a function that runs its generator to the end and returns how many items there were. So
runners and workers know nothing of this, and what a handler needs, middleware and time limits are as they always are.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import secrets
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import replace
from typing import Any, NoReturn, get_args, get_origin

from warren.protocol import codecs, evidence
from warren.protocol.codecs import CodecError
from warren.protocol.evidence import Ending, conclude
from warren.protocol.signature import PLAIN, Method, hints_of, is_awaitable
from warren.protocol.spelling import returns_of
from warren.protocol.streaming import (
    SAME_ITEMS,
    Ahead,
    Items,
    Written,
    content_type_of,
    item_properties,
    item_size,
    joined,
    read_window,
    together,
    write_item,
)
from warren.server.attempt import Attempt
from warren.server.context import CurrentCall, Streams, current_call, enter, prepare, streams_of
from warren.server.ways import Way, Ways

_ASYNC, _PLAIN = (AsyncIterator, AsyncGenerator), (Iterator, Generator)
# What else a generator function may say that it returns. (Another function that returns an Iterable returns a list.)
_UNSAID = (AsyncIterable, Iterable, Any, object, None)
#: Seconds without a message after which an empty one asks the broker whether the caller's queue is still there.
SIGN_OF_LIFE = 5.0
#: So many items that the caller has are passed over before others have their turn.
_BREATH = 256
#: Seconds that the loop gets to send what a thread has left behind.
_DRAIN = 10.0

_GIVEN_UP = "nobody takes the stream's items any more"
_CUT_OFF = "the stream was cut off at its deadline: allow more time, or yield less"


# --- declaring ----------------------------------------------------------------------------------------------------


class Streamed:
    """A function that yields, as a method.

    Attributes:
        function: what a worker runs.
    """

    def __init__(self, where: str, function: Callable[..., Any], hint: Any, *, on_loop: bool) -> None:
        """`hint` is what the function says that it returns."""
        self._item = get_args(hint)[0] if get_args(hint) else Any
        self._shown = "AsyncIterator" if on_loop else "Iterator"
        try:
            codecs.check_hint(self._item, result=True)
        except TypeError as error:
            raise TypeError(f"{where}: the items: {error}") from error
        self.function = _as_handler(where, function, on_loop=on_loop)

    def describe(self, method: Method) -> Method:
        """The method that was made of `function`, as the stream that it is."""
        if method.default:
            raise TypeError(
                f"{method.full_name}: the default method gives bare peers one plain reply, so it cannot be a stream:"
                " leave default out"
            )
        if method.broadcast:
            raise TypeError(
                f"{method.full_name}: all instances give one result each, so a stream cannot be asked of all: leave"
                " broadcast out"
            )
        returns = f"{self._shown}[{returns_of({'return': self._item})}]"
        return replace(method, streams=True, item_hint=self._item, returns=returns)


def streamed(where: str, function: Callable[..., Any]) -> Streamed | None:
    """A function that yields, or says that it returns an iterator, as a method; None for any other.

    Raises:
        TypeError: its items cannot travel, or it says that it returns something else.
    """
    try:
        hint = hints_of(where, function).get("return")
    except TypeError:
        hint = None  # which whoever declares it is told anyway
    origin = get_origin(hint) or hint
    on_loop, yields = inspect.isasyncgenfunction(function), inspect.isgeneratorfunction(function)
    if (on_loop or yields) and origin not in (*_ASYNC, *_PLAIN, *_UNSAID):
        said = returns_of({"return": hint})
        raise TypeError(
            f"{where}: it yields, and says that it returns {said}: say Iterator, or AsyncIterator, of an item"
        )
    if inspect.iscoroutinefunction(function) and origin in _PLAIN:
        raise TypeError(
            f"{where}: an `async def` yields on the event loop: say that it returns an AsyncIterator, and yield"
        )
    if on_loop or origin in _ASYNC:
        return Streamed(where, function, hint, on_loop=True)
    if yields or origin in _PLAIN:
        return Streamed(where, function, hint, on_loop=False)
    return None


def _as_handler(where: str, function: Callable[..., Any], *, on_loop: bool) -> Callable[..., Any]:
    """A function with the same arguments that sends the items, and returns how many there were."""

    async def run_async(*args: Any, **kwargs: Any) -> int:
        with _opened() as outlet:
            items = function(*args, **kwargs)
            return await outlet.send_all(await items if is_awaitable(items) else items)

    def run_plain(*args: Any, **kwargs: Any) -> int:
        with _opened() as outlet:
            return outlet.send_all_from_thread(function(*args, **kwargs))

    run: Any = run_async if on_loop else run_plain
    functools.update_wrapper(run, function)
    del run.__wrapped__  # whose result is another one
    run.__signature__ = inspect.signature(function)
    run.__annotations__ = hints_of(where, function) | {"return": int}
    run.enters_itself = True  # see `Handler`
    handler: Callable[..., Any] = run
    return handler


@contextlib.contextmanager
def _opened() -> Iterator[Outlet]:
    """The way to the caller of the present call."""
    call = current_call()
    prepare(call)
    outlet = streams_of(call).open(call)
    enter(call)
    try:
        yield outlet
    finally:
        outlet.close()


# --- serving ------------------------------------------------------------------------------------------------------


class Outlet(Way):
    """One stream at its worker: what was yielded and not sent, and how far it is ahead of its caller."""

    def __init__(self, loop: asyncio.AbstractEventLoop, attempt: Attempt, source: str, max_size: int) -> None:
        """`source` is where the caller's credit goes; `max_size`: bytes of the largest item."""
        super().__init__(loop, attempt, _GIVEN_UP)
        request = attempt.request
        assert request is not None
        self._source, self._of = source, request.properties
        self._resumes = attempt.method.resumable
        self._run = SAME_ITEMS if self._resumes else secrets.token_hex(6).encode()
        self._max_size = max_size
        self._item = attempt.method.item_hint
        self._content_type = content_type_of(request.content_type)
        self._ahead = Ahead(read_window(request.properties.table), resumes=self._resumes)
        self._changed = threading.Condition()  # of all that follows: a generator may run in a thread
        self._buffer: list[Written] = []
        self._flushes = False  # whether the loop will look into it
        self._stopped = False
        self._room: asyncio.Future[None] | None = None
        self._silent = True
        loop.call_soon_threadsafe(self._watch)

    # --- the generator ------------------------------------------------------------------------------------------

    async def send_all(self, items: Any) -> int:
        """Send what it yields, on the loop; returns how many items there were. It is closed in every case."""
        try:
            async for item in items:
                if self._resumes and self._has_it():
                    await self._breathe()
                    continue
                body = self._encode(item)
                while not self._ahead.has_room:
                    self.check_stopped()
                    self._room = self._loop.create_future()
                    await self._room
                self._put(body)
        finally:
            self._flush()
            if hasattr(items, "aclose"):
                await items.aclose()
        return self._ahead.sent

    def send_all_from_thread(self, items: Any) -> int:
        """The same in a thread."""
        forget = self.attempt.call.on_cancelled(self.stop)
        try:
            for item in items:
                if not (self._resumes and self._has_it()):
                    self._offer(self._encode(item))
        finally:
            forget()
            with self._changed:
                self._changed.wait_for(lambda: not self._buffer or self._stopped, _DRAIN)
            if hasattr(items, "close"):
                items.close()
        return self._ahead.sent

    def _has_it(self) -> bool:
        """Whether the caller has the next item, of an earlier run, and so all those before."""
        with self._changed:
            has_it = not self._stopped and self._ahead.pass_over()
            if has_it:
                self._buffer.clear()
        return has_it

    async def _breathe(self) -> None:
        """Where nothing is sent, nothing waits for room: others must have their turn."""
        if self._ahead.sent % _BREATH == 0:
            await asyncio.sleep(0)

    def _offer(self, body: Written) -> None:
        with self._changed:
            if not self._ahead.has_room and not self._stopped:
                self._changed.wait_for(lambda: self._stopped or self._ahead.has_room, self.attempt.call.remaining)
            if self._stopped:
                self._cut_off(evidence.GIVEN_UP, _GIVEN_UP)
            if self.attempt.call.cancelled:
                self._cut_off(self.attempt.limit, _CUT_OFF)
            self._put(body)

    def _cut_off(self, ending: Ending, why: str) -> NoReturn:
        """End a thread's generator as a task is ended."""
        self.attempt.stopped_by = (ending, why)
        raise asyncio.CancelledError(why)

    def _encode(self, item: Any) -> Written:
        try:
            hint = self._item
            plain = hint is Any or (type(item) is hint and hint in PLAIN)
            body = write_item(self._content_type, item if plain else codecs.convert(item, hint))
        except CodecError as error:
            message = (
                f"item {self._ahead.sent} does not fit its declared type or the encoding: {error}; mend the handler"
            )
            raise conclude(evidence.ENCODE_REPLY, message, entered=True) from error
        if (size := item_size(self._content_type, body)) > self._max_size:
            message = (
                f"item {self._ahead.sent} has {size} bytes, the service's max_message_size is {self._max_size}:"
                " yield less at a time, or raise it"
            )
            raise conclude(evidence.RESULT_TOO_LARGE, message, entered=True)
        return body

    # --- to the caller ------------------------------------------------------------------------------------------

    def _put(self, body: Written) -> None:
        self._ahead.send(len(body))
        self._buffer.append(body)
        if not self._flushes:  # what is yielded before the loop comes to it travels together
            self._flushes = True
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        with self._changed:
            bodies, self._buffer = self._buffer, []
            first = self._ahead.sent - len(bodies)
            self._flushes = False
            for group in together(bodies):  # in here: a thread that finds nothing left closes all of it
                self._send(first, group)
                first += len(group)
            self._changed.notify_all()

    def _send(self, first: int, bodies: Sequence[Written]) -> None:
        attempt = self.attempt
        if not (attempt.ended or attempt.answered or self._stopped):
            self._silent = False
            items = Items(first, len(bodies), self._source)
            content_type, body = joined(self._content_type, bodies)
            properties = item_properties(content_type, self._of, self._run, items)
            attempt.channel.publish(b"", self.address, properties, body)

    # --- from the caller ----------------------------------------------------------------------------------------

    def credit(self, count: int) -> None:
        """The caller has consumed so many items in all."""
        with self._changed:
            self._ahead.consumed(count)
            self._changed.notify_all()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def stop(self) -> None:
        """Nobody wants more: whoever waits for room, or a thread at its next item, hears of it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._room is not None:
            self._room.cancel()

    # --- signs of life ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if not self._stopped:
            self._timer = self._loop.call_later(SIGN_OF_LIFE, self._look)

    def _look(self) -> None:
        """A caller that is gone says nothing, and a stream that waits for it sends nothing that could come back.

        Nor does anybody take items once the call has its reply, as when middleware leaves a generator alone.
        """
        if self.attempt.ended:
            self.stop()
        if self._silent:
            if not self._ahead.has_room:
                self.on_still()
            with self._changed:  # a thread counts an item, and then lays it here
                self._send(self._ahead.sent - len(self._buffer), [])
        self._silent = True
        self._watch()

    def close(self) -> None:
        """The generator has ended."""
        self._stopped = True
        self._leave()


class Outlets(Ways[Outlet], Streams):
    """The streams of one worker."""

    def __init__(self, attempts: Callable[[], list[Attempt]], max_size: int) -> None:
        """`attempts` are those that run."""
        super().__init__(attempts)
        self._max_size = max_size

    def open(self, call: CurrentCall[Any]) -> Outlet:
        """The way to a call's caller.

        Raises:
            CallError: there is none, or none for its credit.
        """
        attempt, source = self._attempt_of(call), self.source()
        if source is None:
            self._refuse_without("control queue", comes_back=self.comes_back())
        outlet = Outlet(self._loop, attempt, source, self._max_size)
        if not outlet.has_caller:
            outlet.close()
            raise conclude(evidence.STREAM, "a stream needs a reply queue of the caller's own: call it as a stream")
        return self._add(outlet)

    def credit(self, id: bytes, address: bytes, count: int) -> None:
        """A caller has consumed so many items of its stream in all."""
        for outlet in self._of(id, address):
            outlet.credit(count)
