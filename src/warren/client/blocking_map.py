"""`Client.map`: a batch as an iterator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar, Unpack, cast, overload

from warren import keywords
from warren.client.base import BaseClient
from warren.client.batches import (
    DEFAULT_IN_FLIGHT,
    Begun,
    Errors,
    MapOptions,
    Outcome,
    Progress,
    Window,
    check_items,
    make_window,
    spread,
)
from warren.client.target import find_target
from warren.protocol import evidence

T = TypeVar("T")
R = TypeVar("R")
_END: Any = object()
#: Seconds after the last deadline of a batch's calls at which it stops believing in the I/O thread.
_GRACE = 5.0
#: Items that are taken before a result that is ready is handed out. With one the number of calls under way would not
#: grow while results come; with many a slow source would hold results up.
_AT_ONCE = 2


class BlockingMap(BaseClient):
    """What makes batches of the calls of a `Client`."""

    @overload
    def map(
        self,
        target: Callable[[T], Coroutine[Any, Any, R]],
        items: Iterable[T],
        /,
        *,
        errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        target: Callable[[T], R],
        items: Iterable[T],
        /,
        *,
        errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        target: str,
        items: Iterable[T],
        /,
        *,
        returns: type[R],
        errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self, target: str, items: Iterable[T], /, *, errors: Literal["raise"] = "raise", **options: Unpack[MapOptions]
    ) -> Generator[Any, None, None]: ...
    @overload
    def map(
        self,
        target: Callable[[T], Coroutine[Any, Any, R]],
        items: Iterable[T],
        /,
        *,
        errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> Generator[Outcome[T, R], None, None]: ...
    @overload
    def map(
        self,
        target: Callable[[T], R],
        items: Iterable[T],
        /,
        *,
        errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> Generator[Outcome[T, R], None, None]: ...
    @overload
    def map(
        self,
        target: str,
        items: Iterable[T],
        /,
        *,
        returns: type[R],
        errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> Generator[Outcome[T, R], None, None]: ...
    @overload
    def map(
        self, target: str, items: Iterable[T], /, *, errors: Literal["return"], **options: Unpack[MapOptions]
    ) -> Generator[Outcome[T, Any], None, None]: ...
    @keywords.refusing("map")
    def map(
        self,
        target: Callable[..., Any] | str,
        items: Iterable[Any],
        /,
        *,
        returns: Any = None,
        errors: Errors = "raise",
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        progress: Progress | None = None,
    ) -> Generator[Any, None, None]:
        """Call a method once for each item, many at a time, and iterate over the results; see `AsyncClient.map`.

        Items are taken, and `progress` is called, in the thread that iterates. A ``break`` gives up what is under way
        as soon as nothing refers to the iterator any more; its ``close()`` does so at once.

        Raises:
            TypeError, ValueError: an option that makes no sense, or a target that is none.
            Exception: what the items raised, after all that was under way then; with ``raise``, as for `call`.
        """
        window, hand_out = make_window(items, errors, in_flight, ordered, progress)
        check_items(items, asynchronous=False)
        target, arguments = spread(target)
        find_target(self._targets, self._options, "call", target)
        given = {} if returns is None else {"returns": returns}
        view = cast("Any", self.options(wait=True))
        view._shared.io().forbid_own_thread()
        submit = view.submit

        def begin(item: Any) -> Future[Any]:
            try:
                begun: Future[Any] = submit(target, *arguments(item), **given)
            except Exception as error:  # of this item, or of all: who iterates is told when its turn comes
                begun = Future()
                begun.set_exception(error)
            return begun

        return _Batch(begin, iter(items), window, self._options.timeout + _GRACE).run(hand_out)


class _Batch:
    """One batch, in the thread that iterates over it."""

    def __init__(
        self, begin: Callable[[Any], Future[Any]], items: Iterator[Any], window: Window, patience: float
    ) -> None:
        self._begin = begin
        self._items = items
        self._window = window
        self._patience = patience
        self._more = True
        self._failure: Exception | None = None
        self._ended: SimpleQueue[int] = SimpleQueue()

    def run(self, hand_out: Callable[[Begun], Any]) -> Generator[Any, None, None]:
        window = self._window
        try:
            while self._more or not window.is_empty:
                for _ in range(_AT_ONCE):
                    self._take()
                self._note_ended()
                if (begun := window.take()) is not None:
                    yield hand_out(begun)
                elif not (self._more and window.has_room) and not window.is_empty:
                    self._wait()
            if self._failure is not None:
                raise self._failure
        finally:
            window.give_up()

    def _take(self) -> None:
        """Begin the next call, if there is room and another item."""
        if not (self._more and self._window.has_room):
            return
        try:
            item = next(self._items, _END)
        except Exception as error:  # told when what is under way has ended
            item, self._failure = _END, error
        if item is _END:
            self._more = False
            return
        future = self._begin(item)
        begun = self._window.begin(item)
        begun.future = future
        future.add_done_callback(partial(_tell, self._ended, begun.number))

    def _note_ended(self) -> None:
        while not self._ended.empty():
            self._window.end(self._ended.get())

    def _wait(self) -> None:
        """Wait until a call has ended: each does by its deadline, unless the thread that ends it is blocked."""
        try:
            number = self._ended.get(timeout=self._patience)
        except Empty:
            message = "the client's I/O thread does not answer: does a future's callback block it?"
            raise evidence.conclude(evidence.IO_THREAD, message) from None
        self._window.end(number)


def _tell(ended: SimpleQueue[int], number: int, _future: Future[Any]) -> None:
    ended.put(number)
