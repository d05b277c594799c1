"""`AsyncClient.map`: a batch as an async iterator.

Three parts: a task that takes items and begins calls, as far as there is room; a task for each call; and the generator
that the user iterates over, which hands out what has ended and owns the other two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from functools import partial
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

T = TypeVar("T")
R = TypeVar("R")
Items = Iterable[T] | AsyncIterable[T]
#: Between the items that have come and those that will: there are no more.
_END: Any = object()


class AsyncMap(BaseClient):
    """What makes batches of the calls of an `AsyncClient`."""

    @overload
    def map(
        self,
        target: Callable[[T], Coroutine[Any, Any, R]],
        items: Items[T],
        /,
        *,
        errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        target: Callable[[T], R],
        items: Items[T],
        /,
        *,
        errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self,
        target: str,
        items: Items[T],
        /,
        *,
        returns: type[R],
        errors: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def map(
        self, target: str, items: Items[T], /, *, errors: Literal["raise"] = "raise", **options: Unpack[MapOptions]
    ) -> AsyncGenerator[Any, None]: ...
    @overload
    def map(
        self,
        target: Callable[[T], Coroutine[Any, Any, R]],
        items: Items[T],
        /,
        *,
        errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[Outcome[T, R], None]: ...
    @overload
    def map(
        self,
        target: Callable[[T], R],
        items: Items[T],
        /,
        *,
        errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[Outcome[T, R], None]: ...
    @overload
    def map(
        self,
        target: str,
        items: Items[T],
        /,
        *,
        returns: type[R],
        errors: Literal["return"],
        **options: Unpack[MapOptions],
    ) -> AsyncGenerator[Outcome[T, R], None]: ...
    @overload
    def map(
        self, target: str, items: Items[T], /, *, errors: Literal["return"], **options: Unpack[MapOptions]
    ) -> AsyncGenerator[Outcome[T, Any], None]: ...
    @keywords.refusing("map")
    def map(
        self,
        target: Callable[..., Any] | str,
        items: Items[Any],
        /,
        *,
        returns: Any = None,
        errors: Errors = "raise",
        in_flight: int = DEFAULT_IN_FLIGHT,
        ordered: bool = True,
        progress: Progress | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Call a method once for each item, many at a time, and iterate over the results.

        It begins with the first step of the iteration. Each call has the client's timeout, from when its item was
        taken, and waits for room where the client has none (``options(wait=True)``). Where the iteration ends early,
        what is under way is given up: at once with `contextlib.aclosing` or its ``aclose()``, and after a ``break`` as
        soon as nothing refers to it any more.

        Args:
            target: as for `call`; each item is its one argument. For several of them see `warren.star`.
            items: any number, even without end; they are taken as there is room. An iterable that blocks would block
                the event loop: make it an async one.
            returns: as for `call`.
            errors: ``raise``: the first failure is raised, and the rest of the batch is given up. ``return``: each
                item's `Outcome` comes instead of its result, so that no failure ends the others.
            in_flight: calls that are under way at a time, at most; it bounds what is kept in memory, too.
            ordered: whether results come in the order of the items, or as the calls end.
            progress: called whenever a call has ended, with how many have and how many items there are (None where
                they have no length).

        Raises:
            TypeError, ValueError: an option that makes no sense, or a target that is none.
            Exception: what the items raised, after all that was under way then; with ``raise``, as for `call`.
        """
        window, hand_out = make_window(items, errors, in_flight, ordered, progress)
        check_items(items, asynchronous=True)
        target, arguments = spread(target)
        find_target(self._targets, self._options, "call", target)
        given = {} if returns is None else {"returns": returns}
        view = cast("Any", self.options(wait=True))

        def call(item: Any) -> Coroutine[Any, Any, Any]:
            return _called(view, target, item, arguments, given)

        return _run(call, items, window, hand_out, in_flight)


async def _called(
    view: Any, target: Any, item: Any, arguments: Callable[[Any], tuple[Any, ...]], given: dict[str, Any]
) -> Any:
    return await view.call(target, *arguments(item), **given)


async def _run(
    call: Callable[[Any], Coroutine[Any, Any, Any]],
    items: Items[Any],
    window: Window,
    hand_out: Callable[[Begun], Any],
    in_flight: int,
) -> AsyncGenerator[Any, None]:
    ended: asyncio.Queue[int | None] = asyncio.Queue()  # numbers of calls; None: no more items
    room = asyncio.Semaphore(in_flight)
    taking = asyncio.create_task(_take(items, call, window, room, ended))
    taking.add_done_callback(lambda _: ended.put_nowait(None))
    try:
        while not (taking.done() and window.is_empty):
            begun = window.take()
            if begun is not None:
                room.release()
                yield hand_out(begun)
            elif (number := await ended.get()) is not None:
                window.end(number)
        taking.result()
    finally:
        taking.cancel()
        await asyncio.gather(taking, *cast("list[asyncio.Future[Any]]", window.give_up()), return_exceptions=True)


async def _take(
    items: Items[Any],
    call: Callable[[Any], Coroutine[Any, Any, Any]],
    window: Window,
    room: asyncio.Semaphore,
    ended: asyncio.Queue[int | None],
) -> None:
    """Begin a call for each item, as there is room."""
    waited_for = aiter(items) if isinstance(items, AsyncIterable) else None
    at_once = iter(items) if isinstance(items, Iterable) else iter(())
    while True:
        await room.acquire()
        item = next(at_once, _END) if waited_for is None else await anext(waited_for, _END)
        if item is _END:
            return
        task = asyncio.create_task(call(item))
        begun = window.begin(item)
        begun.future = task
        task.add_done_callback(partial(_tell, ended, begun.number))


def _tell(ended: asyncio.Queue[int | None], number: int, task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # it may never be handed out, and asyncio would complain
    ended.put_nowait(number)
