"""Middleware: code around every call that a service serves, or a client makes. With none there is no chain at all.

A middleware is an async function that gets the call (a `CurrentCall`, or at a client a `ClientCall`) and `proceed`, and
returns what the caller shall get::

    async def only_for_alice(call: CurrentCall, proceed: Proceed) -> Any:
        if call.user != "alice":
            raise PermissionDenied("ask Alice", execution=Execution.NOT_EXECUTED)
        return await proceed()

Raising ends the call with that error. The first middleware of a list is the outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

C = TypeVar("C")

Proceed = Callable[[], Awaitable[Any]]
Middleware = Callable[[C, Proceed], Awaitable[Any]]


def checked_middleware(middleware: Iterable[Middleware[C]]) -> tuple[Middleware[C], ...]:
    """Middleware as it is kept.

    Raises:
        TypeError: it is not a list of functions.
    """
    functions = tuple(middleware) if isinstance(middleware, Iterable) else ()
    if not isinstance(middleware, Iterable) or not all(callable(function) for function in functions):
        raise TypeError(f"middleware={middleware!r} is not a list of async functions: say middleware=[function]")
    return functions


def chain(middleware: Sequence[Middleware[C]], call: C, innermost: Proceed) -> Proceed:
    """The function that runs `innermost` inside all of `middleware`."""
    for layer in reversed(middleware):
        innermost = partial(layer, call, innermost)
    return innermost
