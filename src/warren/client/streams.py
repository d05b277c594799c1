"""Streams as their callers see them: iterators, for asyncio and for threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from warren.client.core import ClientCore
from warren.client.inlet import End, Inlet, Message
from warren.client.io_thread import IOThread
from warren.client.options import CONTENT_TYPES, Options
from warren.client.outcomes import after_items, stream_broken
from warren.client.requests import Own, Target
from warren.client.target import encode_call, read_result, split_name, typed_decoder
from warren.client.waiters import Waiting, Withdrawal
from warren.errors import CallError
from warren.protocol import codecs, topology
from warren.protocol.codecs import CodecError
from warren.protocol.content import as_text
from warren.protocol.reply import undecodable_reply
from warren.protocol.request import root_field
from warren.protocol.running import Running, get_running
from warren.protocol.signature import method_of
from warren.protocol.streaming import DEFAULT_WINDOW, MARK, window_fields

T_co = TypeVar("T_co", covariant=True)

_WINDOW = window_fields(DEFAULT_WINDOW)


def stream_target(options: Options, function: Callable[..., Any] | str) -> Target:
    """The target of a stream.

    Raises:
        TypeError: a function that is not a method, or no stream.
        ValueError: a name that cannot be one, or an option that no stream has.
    """
    _check(options)
    method = None if isinstance(function, str) else method_of(function)
    if method is not None and not method.streams:
        raise TypeError(f"{method.full_name} has one result and yields nothing: call it with client.call")
    full_name = str(function) if method is None else method.full_name
    service, name = split_name(full_name)
    running = get_running()
    root = b"" if running is None or running.root_id is None else root_field(running.root_id)
    own = options.own or Own()
    return Target(
        "call",
        name + MARK,
        topology.service_queue(service),
        full_name,
        CONTENT_TYPES[options.encoding],
        fail_fast=options.fail_fast,
        wait=options.wait,
        headers=options.headers,
        declared=method,
        returns=int,
        own=Own(own.headers + root + _WINDOW, None, own.root + root + _WINDOW, own.on_progress),
        caller=None if running is None or options.named else running.service,
    )


def _check(options: Options) -> None:
    """Refuse (`ValueError`) what would be ignored."""
    if options.resend:
        raise ValueError(
            "resend=True: a stream that is sent again does not go on where it was: stream with options(resend=False),"
            " and begin another stream where one is lost"
        )
    if options.expect is not None:
        raise ValueError(
            f"expect={options.expect}: a stream comes from one instance: leave expect to gather and broadcast"
        )


class Prepared:
    """A stream that is not begun, and how what comes of it is read."""

    def __init__(
        self,
        options: Options,
        errors: dict[str, type[Exception]],
        function: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Write its request.

        Raises:
            CallError, TypeError, ValueError: it cannot be made; nothing was sent.
        """
        self.target = target = stream_target(options, function)
        method = target.declared
        hint = kwargs.pop("returns", Any) if method is None else method.item_hint
        self._items = types.GenericAlias(list, (hint,))
        typed_decoder(target.content_type, self._items)
        self.options = options
        self.body = encode_call(target, args, kwargs, "stream")
        self._errors = errors

    def read(self, outcome: Message | End) -> deque[Any] | None:
        """The items that have come; None at the end.

        Raises:
            Exception: what it has ended in instead.
        """
        if isinstance(outcome, Message):
            return self._read_items(outcome)
        if outcome.outcome is None:
            return None
        count = read_result(outcome.outcome, self.target, self._errors)
        if count != outcome.came:
            raise self._broken(f"{outcome.came} items came of a stream that has {count}")
        return None

    def _read_items(self, message: Message) -> deque[Any]:
        try:
            content_type = codecs.normalise(as_text(message.content_type))
            items = deque(typed_decoder(content_type, self._items)(message.body))
        except CodecError as error:
            raise self._located(undecodable_reply(str(error))) from error
        if len(items) != message.number:
            raise self._broken(f"{len(items)} items came in a message that says {message.number}")
        return items

    def _broken(self, why: str) -> CallError:
        return self._located(stream_broken(why))

    def _located(self, error: CallError) -> CallError:
        return error.locate(method=self.target.name, queue=self.target.queue, call_id=None)


class _Future(asyncio.Future[Any]):
    """What a task waits for (Taker)."""

    def finish(self, outcome: Message | End) -> None:
        if not self.done():
            self.set_result(outcome)


class _Items(Generic[T_co]):
    """What has come of a stream, and was not handed out, for either kind of iterator."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
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
            if isinstance(error, Exception):
                after_items(error, self._read)
            self._close()
            raise

    def _close(self) -> None:
        raise NotImplementedError


class AsyncStream(_Items[T_co], AsyncIterator[T_co]):
    """The items of a stream, as they come: for ``async for``.

    The call begins with the first item that is asked for. Leaving the loop, dropping or closing the stream, and
    cancelling the task that waits for an item give the call up: the generator at the worker is closed.
    """

    def __init__(self, prepared: Prepared, core: Callable[[], ClientCore]) -> None:
        super().__init__(prepared)
        self._core = core
        self._inlet: Inlet | None = None
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
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            inlet = self._begun()
            with self._alone(), self._last_error():
                future = _Future()
                inlet.take(future)
                self._accept(await future)
        return self._ready.popleft()

    def _begun(self) -> Inlet:
        if self._inlet is None:
            core, prepared = self._core(), self._prepared
            options, self._loop = prepared.options, core.loop
            with self._last_error():
                self._inlet = Inlet(core, prepared.target, prepared.body, options.deadline(), options.idle_timeout)
        elif self._loop is not asyncio.get_running_loop():
            raise RuntimeError("this stream was begun on another event loop, and goes on there only: begin another one")
        return self._inlet

    async def aclose(self) -> None:
        """Give the call up, if it has not ended; any number of times."""
        self._close()

    def _close(self) -> None:
        over, self._over = self._over, True
        self._ready.clear()
        if self._inlet is not None and self._loop is not None and not over:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the call with it
                self._loop.call_soon_threadsafe(self._inlet.give_up)

    def __del__(self) -> None:
        if getattr(self, "_inlet", None) is not None:
            self._close()


class _Taking(Waiting):
    """A thread that waits for what comes next (Request, Taker)."""

    def __init__(self, held: _Held) -> None:
        super().__init__()
        self._held = held

    def begin(self, core: ClientCore) -> None:
        self._held.begun(core).take(self)

    def give_up(self, core: ClientCore) -> None:
        self._held.give_up(core)

    def withdraw(self, core: ClientCore) -> None:
        """See `Withdrawal`."""
        self._held.begun(core).withdraw()


class _Held:
    """A thread's stream, in the I/O thread; as a request it gives the stream up (Request)."""

    given_up = False

    def __init__(self, prepared: Prepared, deadline: float) -> None:
        self._prepared = prepared
        self._deadline = deadline
        self._inlet: Inlet | None = None

    def begun(self, core: ClientCore) -> Inlet:
        if self._inlet is None:
            p = self._prepared
            self._inlet = Inlet(core, p.target, p.body, self._deadline, p.options.idle_timeout)
        return self._inlet

    def begin(self, core: ClientCore) -> None:
        """Give it up; see `Request`."""
        self.give_up(core)

    def give_up(self, core: ClientCore) -> None:
        """Whoever waits for an item is told that there is none."""
        if self._inlet is not None:
            self._inlet.give_up()

    def finish(self, outcome: Any) -> None:
        """Nobody waits for that."""


class BlockingStream(_Items[T_co], Iterator[T_co]):
    """The items of a stream, as they come: for ``for``, in one thread at a time; see `AsyncStream`."""

    def __init__(self, prepared: Prepared, io: Callable[[], IOThread], owner: object) -> None:
        """`owner` is kept until the stream has ended: what it owns must not end meanwhile."""
        super().__init__(prepared)
        self._io = io
        self._owner: object = owner
        self._held: _Held | None = None
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
        while not self._ready:
            if self._over:
                raise StopIteration
            held = self._begun()
            with self._alone(), self._last_error():
                self._accept(self._next(held))
        return self._ready.popleft()

    def _next(self, held: _Held) -> Message | End:
        taking = _Taking(held)
        outcome: Message | End | BaseException = self._io().take(
            taking, Withdrawal(taking), self._deadline, self._running
        )
        if isinstance(outcome, BaseException):  # it could not begin
            raise outcome
        return outcome

    def _begun(self) -> _Held:
        if self._held is None:
            options = self._prepared.options
            self._process = os.getpid()
            self._deadline, self._running = options.deadline(), options.bound_to()
            self._held = _Held(self._prepared, self._deadline)
        elif self._process != os.getpid():
            raise RuntimeError("this stream was begun before a fork, and is the parent's: begin another one here")
        return self._held

    def close(self) -> None:
        """Give the call up, if it has not ended; any number of times, from any thread.

        In a forked child it leaves the parent's call alone.
        """
        self._close()

    def _close(self) -> None:
        held, over, self._over = self._held, self._over, True
        self._ready.clear()
        if held is not None and not over and self._process == os.getpid():
            io = self._io()
            if io.is_open:  # else the client is closed, and the call with it
                with contextlib.suppress(CallError):  # it was closed in between
                    io.start(held)

    def __del__(self) -> None:
        if getattr(self, "_held", None) is not None:
            self._close()
