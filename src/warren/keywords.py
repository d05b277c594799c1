"""Options that several functions take alike: written once, as a `TypedDict`, and taken as ``**options``.

Type checkers and editors read the `TypedDict`. What a function lacks at run time is here: a signature that names the
options, for `help` and `inspect`, and an error for a name that is unknown [docs/adr/0024].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

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


def refuse_unknown(
    taker: str, function: Callable[..., Any], given: Iterable[str], *, later: Callable[..., Any] | None = None
) -> None:
    """Refuse names that are not in the signature of a function.

    Args:
        taker: what the function is called by those who call it.
        function: decorated with `naming`.
        given: the names of what came as ``**options``.
        later: a method of what is made, which takes others.

    Raises:
        TypeError: one is unknown; with the nearest name, or all where none is near.
    """
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self"]
    for name in given:
        if name in _IN_THE_URL and "url" in known:
            raise TypeError(f"{taker}() has no option {name!r}: say url='amqp://user:password@host:5672/vhost'")
        if later is not None and name not in known and name in inspect.signature(later).parameters:
            raise TypeError(f"{taker}() has no option {name!r}: say .{later.__name__}({name}=…) of what it makes")
        if name not in known:
            raise TypeError(f"{taker}() has no option {name!r}: {checks.known_names(name, known)}")


def _parameters(options: type[Any]) -> list[inspect.Parameter]:
    return [
        # Under `from __future__ import annotations` a `TypedDict` wraps each annotation, which functions keep as text.
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=getattr(hint, "__forward_arg__", hint)
        )
        for name, hint in options.__annotations__.items()
    ]
