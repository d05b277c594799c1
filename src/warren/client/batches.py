"""Batches: one call for each of many items, a bounded number of them at a time. What both clients have in common.

A `Window` holds what has begun and was not handed out: calls under way, and outcomes that nobody has taken yet. Its
size bounds the memory of a batch, however many items there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, TypeVarTuple, cast, overload

from warren import checks

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

#: Told how many calls have ended, and of how many; None where that is not known.
Progress = Callable[[int, int | None], object]

DEFAULT_IN_FLIGHT = 200


class MapOptions(TypedDict, total=False):
    """What `AsyncClient.map` and `Client.map` take beside target and items.

    Attributes:
        in_flight: calls that are under way at a time, at most; also bounds the outcomes that wait to be taken.
        ordered: whether results come in the order of the items, or as calls end.
        progress: called whenever a call has ended, with the number of those that have and that of all items, which is
            None where the items have no length.
    """

    in_flight: int
    ordered: bool
    progress: Progress | None


class Ended(Protocol):
    """A future that is done."""

    def result(self) -> Any: ...
    def exception(self) -> BaseException | None: ...
    def cancel(self) -> bool: ...


class Outcome(Generic[T, R]):
    """What became of one item of a batch.

    Attributes:
        item: the item itself.
        error: what its call ended in; None where there is a result.
    """

    __slots__ = ("_result", "error", "item")

    def __init__(self, item: T, result: R | None, error: Exception | None) -> None:
        self.item = item
        self.error = error
        self._result = result

    def __repr__(self) -> str:
        shown = f"error={self.error!r}" if self.error is not None else f"result={self._result!r}"
        return f"Outcome(item={self.item!r}, {shown})"

    def result(self) -> R:
        """The result; raises what the call ended in where there is none."""
        if self.error is not None:
            raise self.error
        return cast("R", self._result)


class Star(Generic[R]):
    """See `star`."""

    def __init__(self, target: Callable[..., R] | str) -> None:
        self.target = target

    def __call__(self, arguments: tuple[Any, ...]) -> R:
        if isinstance(self.target, str):
            raise TypeError(f"{self.target!r} is a name: give map() the function that star() made; do not call it")
        return self.target(*arguments)


@overload
def star(target: str, /) -> Callable[[tuple[Any, ...]], Any]: ...
@overload
def star(target: Callable[[*Ts], R], /) -> Callable[[tuple[*Ts]], R]: ...
def star(target: Callable[..., Any] | str, /) -> Any:
    """For `map`: a method of several arguments, of which each item is a tuple.

    Example::

        for number in client.map(star(place), [("tea", 1), ("coffee", 2)]): ...
    """
    return Star(target)


class Begun:
    """A call of a batch that has begun: the item's position, counted from 1, the item, and its future."""

    __slots__ = ("ended", "future", "item", "number")

    def __init__(self, number: int, item: Any) -> None:
        self.number = number
        self.item = item
        self.ended = False
        self.future: Ended


class Window:
    """What has begun and was not handed out, at most `size`; in order, or as it ends. Pure."""

    def __init__(self, size: int, *, ordered: bool, progress: Progress | None = None, total: int | None = None) -> None:
        self._size = size
        self._ordered = ordered
        self._progress = progress
        self._total = total
        self._line: deque[Begun] = deque()  # in the order in which they are handed out
        self._under_way: dict[int, Begun] = {}
        self._begun = self._ended = self._handed_out = 0

    @property
    def has_room(self) -> bool:
        return self._begun - self._handed_out < self._size

    @property
    def is_empty(self) -> bool:
        return self._begun == self._handed_out

    def begin(self, item: Any) -> Begun:
        """Enter an item, whose future is to be set."""
        self._begun += 1
        begun = self._under_way[self._begun] = Begun(self._begun, item)
        if self._ordered:
            self._line.append(begun)
        return begun

    def end(self, number: int) -> None:
        """The call of this number has ended."""
        begun = self._under_way.pop(number)
        begun.ended = True
        if not self._ordered:
            self._line.append(begun)
        self._ended += 1
        if self._progress is not None:
            self._progress(self._ended, self._total)

    def take(self) -> Begun | None:
        """What is to be handed out next, if it has ended."""
        if not self._line or not self._line[0].ended:
            return None
        self._handed_out += 1
        return self._line.popleft()

    def give_up(self) -> list[Ended]:
        """Cancel what is under way; returns its futures."""
        futures = [begun.future for begun in self._under_way.values()]
        for future in futures:
            future.cancel()
        return futures

    def result(self, begun: Begun) -> Any:
        """The result of what has ended, or raise what it ended in: then the rest of the batch is given up."""
        error = begun.future.exception()
        if error is None:
            return begun.future.result()
        rest = f"; {len(self._under_way)} more calls were given up" if self._under_way else ""
        error.add_note(f"item {begun.number} of the batch{rest}; with errors='return' the others go on")
        try:
            raise error
        finally:
            del error  # else it keeps this frame, and the frame keeps it

    @staticmethod
    def outcome(begun: Begun) -> Outcome[Any, Any]:
        """What became of what has ended."""
        error = begun.future.exception()
        if error is None:
            return Outcome(begun.item, begun.future.result(), None)
        if not isinstance(error, Exception):
            raise error
        return Outcome(begun.item, None, error)


Errors = Literal["raise", "return"]


def make_window(
    items: object, errors: str, in_flight: int, ordered: bool, progress: Progress | None
) -> tuple[Window, Callable[[Begun], Any]]:
    """The window of a batch, and what is handed out of each call that has ended.

    Raises:
        TypeError, ValueError: an option that makes no sense.
    """
    checks.whole("in_flight", in_flight)
    checks.flag("ordered", ordered)
    if errors not in ("raise", "return"):
        raise ValueError(f"errors={errors!r} is not one of raise, return")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress={progress!r} cannot be called: say for example progress=lambda done, total: ...")
    total = len(items) if hasattr(items, "__len__") else None
    window = Window(in_flight, ordered=ordered, progress=progress, total=total)
    return window, window.result if errors == "raise" else window.outcome


def check_items(items: object, *, asynchronous: bool) -> None:
    """Refuse what has no items.

    Raises:
        TypeError: it cannot be iterated over, or only with ``async for``.
    """
    if isinstance(items, Iterable) or (asynchronous and isinstance(items, AsyncIterable)):
        return
    hint = ": it takes `async for`, so use an AsyncClient" if isinstance(items, AsyncIterable) else ""
    raise TypeError(f"{items!r} is nothing to take items from{hint}")


def spread(target: Callable[..., Any] | str) -> tuple[Callable[..., Any] | str, Callable[[Any], tuple[Any, ...]]]:
    """What is called, and what makes arguments of an item."""
    if isinstance(target, Star):
        return target.target, tuple
    return target, lambda item: (item,)
