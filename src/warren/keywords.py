"""Options that several functions take alike: written once, as a `TypedDict`, and taken as ``**options``.

Type checkers and editors read the `TypedDict`. What a function lacks at run time is here: a signature that names the
options, for `help` and `inspect`, and an error for a name that is unknown [docs/adr/0024].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, TypeVar, cast

from warren import checks

F = TypeVar("F", bound=Callable[..., Any])
#: What other libraries take as options, and Warren as parts of its URL.
_IN_THE_URL = ("broker", "brokers", "host", "hostname", "hosts", "port", "server", "uri")


def naming(options: type[Any]) -> Callable[[F], F]:
    """Give a function a signature that has these options, each None by default, in the place of its ``**options``."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        *own, rest = signature.parameters.values()
        assert rest.kind is rest.VAR_KEYWORD
        function.__signature__ = signature.replace(parameters=[*own, *_parameters(options)])  # type: ignore[attr-defined]
        return function

    return decorate


def refusing(taker: str) -> Callable[[F], F]:
    """Make a function refuse names that it does not know as `refuse_unknown` does, and not in Python's bare words."""

    def decorate(function: F) -> F:
        @wraps(function)
        def take(*args: Any, **given: Any) -> Any:
            try:
                return function(*args, **given)
            except TypeError:
                refuse_unknown(taker, function, given)
                raise

        @wraps(function)
        async def take_later(*args: Any, **given: Any) -> Any:
            refuse_unknown(taker, function, given)
            return await function(*args, **given)

        return cast("F", take_later if inspect.iscoroutinefunction(function) else take)

    return decorate


def refuse_unknown(taker: str, function: Callable[..., Any], given: Collection[str]) -> None:
    """Refuse names that are not in the signature of a function.

    Args:
        taker: what the function is called by those who call it.
        function: decorated with `naming` or `refusing`.
        given: the names of what came as ``**options``.

    Raises:
        TypeError: one is unknown; with where it belongs, else with the nearest name, or all where none is near.
    """
    if not given:
        return
    parameters = inspect.signature(function).parameters.values()
    known = [
        p.name
        for p in parameters
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in ("self", "function")
    ]
    for name in given:
        if name in _IN_THE_URL and "url" in known:
            raise TypeError(f"{taker}() has no option {name!r}: say url='amqp://user:password@host:5672/vhost'")
        if name not in known:
            raise TypeError(f"{taker}() has no option {name!r}: {_meant(name, known)}") from None


def _meant(name: str, known: list[str]) -> str:
    if not (place := checks.place_of(name)):
        return checks.known_names(name, known) if known else "it takes none"
    near = checks.nearest(name, known)
    return f"say {place}" if near is None else f"say {place}; or did you mean {near!r}?"


def _parameters(options: type[Any]) -> list[inspect.Parameter]:
    return [
        # Under `from __future__ import annotations` a `TypedDict` wraps each annotation, which functions keep as text.
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=getattr(hint, "__forward_arg__", hint)
        )
        for name, hint in options.__annotations__.items()
    ]
