"""Methods that take items from their callers: how they are declared.

The items are an iterator for the handler, and none of its arguments. Its function becomes one without that parameter,
which opens the way for items and puts the iterator in its place. So runners and workers know nothing of this. Where it
yields as well, that is what it is as a stream.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, get_args, get_origin

from warren.protocol import codecs
from warren.protocol.codecs import Decode
from warren.protocol.signature import Method, hints_of, is_async, is_awaitable
from warren.protocol.spelling import returns_of
from warren.protocol.streaming import items_decoder
from warren.server.context import current_call, enter, prepare, uploads_of
from warren.server.dependencies import read_needs

_ASYNC, _PLAIN = (AsyncIterator, AsyncIterable), (Iterator,)


class Taking:
    """The iterator that a function takes."""

    def __init__(self, where: str, parameter: inspect.Parameter, hint: Any, at: int) -> None:
        """`hint` is that of the parameter, which is the one with this number, from 0, of those by position."""
        self._item = get_args(hint)[0] if get_args(hint) else Any
        self._name, self._at = parameter.name, at
        self._on_loop = (get_origin(hint) or hint) in _ASYNC
        self._decoders: dict[str, Decode] = {}
        try:
            codecs.check_hint(self._item)
        except TypeError as error:
            raise TypeError(f"{where}: the items in {self._name!r}: {error}") from error

    def wrap(self, where: str, function: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
        """What a worker runs, made of a function, or of the stream that was made of it.

        Raises:
            TypeError: it runs where it cannot take them.
        """
        if is_async(function) != self._on_loop:
            own, other = ("a `def`", "Iterator") if self._on_loop else ("an `async def`", "AsyncIterator")
            raise TypeError(f"{where}: {own} takes items from an {other}: declare {self._name!r} as one")
        at = self._at

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with self._opened(streams) as items:
                return await function(*args[:at], items.on_loop(), *args[at:], **kwargs)

        def run_plain(*args: Any, **kwargs: Any) -> Any:
            with self._opened(streams) as items:
                return _finished(where, function(*args[:at], items.in_thread(), *args[at:], **kwargs))

        run: Any = run_async if self._on_loop else run_plain
        functools.update_wrapper(run, function)
        if hasattr(run, "__wrapped__"):
            del run.__wrapped__  # which has another signature
        signature = inspect.signature(function)
        rest = [parameter for name, parameter in signature.parameters.items() if name != self._name]
        run.__signature__ = signature.replace(parameters=rest)
        run.__annotations__ = {n: hint for n, hint in hints_of(where, function).items() if n != self._name}
        run.enters_itself = True  # see `Handler`
        handler: Callable[..., Any] = run
        return handler

    @contextlib.contextmanager
    def _opened(self, streams: bool) -> Iterator[Any]:
        """The way of items to the present call. A stream notes itself that it begins, when its own way is open."""
        call = current_call()
        prepare(call)
        inflow = uploads_of(call).open(call, self._decoder)
        try:
            if not streams:
                enter(call)
            yield inflow
        finally:
            inflow.close()

    def _decoder(self, content_type: str) -> Decode:
        """What reads the items in a message."""
        decode = self._decoders.get(content_type)
        if decode is None:
            decode = self._decoders[content_type] = items_decoder(content_type, self._item)
        return decode

    def describe(self, method: Method) -> Method:
        """A method that was made with `wrap`, as what it is for callers.

        Raises:
            TypeError: an option that makes no sense for it.
        """
        if method.delivery == "at-least-once":
            raise TypeError(
                f"{method.full_name}: a second run would not get the items that the first one has taken: leave"
                " at-least-once out, and let the caller send again what was lost"
            )
        for option in ("default", "broadcast"):
            if getattr(method, option):
                raise TypeError(f"{method.full_name}: one caller sends the items to one instance: leave {option} out")
        of = "AsyncIterator" if self._on_loop else "Iterator"
        first = f"{self._name}: {of}[{returns_of({'return': self._item}) or 'Any'}]"
        rest = method.signature.removeprefix(f"{method.name}(")
        signature = f"{method.name}({first}{'' if rest == ')' else ', '}{rest}"
        return replace(method, takes=True, taken_hint=self._item, signature=signature)


def taking(where: str, function: Callable[..., Any], owner: type | None) -> Taking | None:
    """A function whose first argument is an iterator of items; None for any other.

    Raises:
        TypeError: there are several of these, or it is not the first; or its items cannot travel.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
        hints = hints_of(where, function)
    except (TypeError, ValueError):
        return None  # which whoever declares it is told anyway
    found = [p for p in parameters if (get_origin(hints.get(p.name)) or hints.get(p.name)) in (*_ASYNC, *_PLAIN)]
    if not found:
        return None
    needed = {need.name for need in read_needs(where, function)}
    sent = [p for p in parameters[0 if owner is None else 1 :] if p.name not in needed]
    if found != sent[:1] or found[0].kind > inspect.Parameter.POSITIONAL_OR_KEYWORD:
        names = ", ".join(repr(parameter.name) for parameter in found)
        raise TypeError(
            f"{where}: items come from one iterator, which is the first argument, and here there is {names}: declare"
            " one, in front of the other arguments, or take a list"
        )
    return Taking(where, found[0], hints[found[0].name], parameters.index(found[0]))


def _finished(where: str, value: Any) -> Any:
    if is_awaitable(value):
        raise TypeError(
            f"{where}: a `def` that takes items returned what is still to be awaited, and its items end before that:"
            " make it `async def`"
        )
    return value
