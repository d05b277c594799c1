"""Middleware: code around every call of a service. With none installed there is no chain at all.

A middleware is an async function that gets the call and `proceed`, and returns what the caller shall get::

    async def only_for_alice(call: CurrentCall, proceed: Proceed) -> Any:
        if call.user != "alice":
            raise PermissionDenied("ask Alice", execution=Execution.NOT_EXECUTED)
        return await proceed()

Raising ends the call with that error. The first middleware of a list is the outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

C = TypeVar("C")

Proceed = Callable[[], Awaitable[Any]]
Middleware = Callable[[C, Proceed], Awaitable[Any]]


def chain(middleware: Sequence[Middleware[C]], call: C, innermost: Proceed) -> Proceed:
    """The function that runs `innermost` inside all of `middleware`."""
    for layer in reversed(middleware):
        innermost = partial(layer, call, innermost)
    return innermost
