"""Asking for the password, where it is a function's to give."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from warren.connection.errors import ConnectFailed
from warren.connection.outside import Outside
from warren.connection.settings import Password, Secret
from warren.protocol import evidence
from warren.protocol.problems import in_words

_outside = Outside("password calls")


async def ask(password: Password) -> Secret:
    """The password to log in with now.

    A plain function is called in a thread, as it may read a file or ask a service, and the loop must go on meanwhile;
    an async function is awaited on the loop.

    Raises:
        ConnectFailed: the function raised, which may pass; or it returned no password, which will not.
    """
    if isinstance(password, str):
        return Secret(password)
    try:
        given = await _call(password)
    except Exception as error:  # the user's function: whatever it raises, it may work the next time
        raise _unavailable(error) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise _unavailable(error) from error  # raised by the function itself
    if isinstance(given, Secret):
        return given
    if not isinstance(given, str):
        message = f"the password function returned {_kind(given)}: it must return a str or a Secret, plain or async"
        raise ConnectFailed(evidence.conclude(evidence.PASSWORD, message), permanent=True)
    return Secret(given)


def _unavailable(error: BaseException) -> ConnectFailed:
    return ConnectFailed(
        evidence.conclude(evidence.NOT_CONNECTED, f"the password function failed: {in_words(error)}; mend it")
    )


def _kind(given: object) -> str:
    return "None" if given is None else f"an object of type {type(given).__name__}"


async def _call(function: Callable[[], Any]) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return await function()
    given = await _outside.ask(function)
    return await given if inspect.isawaitable(given) else given
