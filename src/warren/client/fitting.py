"""Whether one stage of a pipeline takes what the one before it returns, as far as their hints say. Pure.

What is refused, a type checker would refuse. What one would see, and this does not, is let through: it is checked at
the worker in any case.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from warren.protocol.signature import Method


def check_fits(before: Method, after: Method) -> None:
    """Compare what one returns with what the other takes.

    Raises:
        TypeError: they do not fit; it says why.
    """
    where = f"{before.full_name} > {after.full_name}"
    if after.needs_names or after.required > 1 or not after.positional:
        raise TypeError(
            f"{where}: a stage takes one argument, what the one before it returns: give others of {after.signature}"
            " defaults, or put a stage between"
        )
    name = after.positional[0]
    wanted = after.hints[name]
    if not fits(before.result_hint, wanted):
        returned = before.returns or "Any"
        raise TypeError(
            f"{where}: {before.name} returns {returned}, which does not fit the argument {name!r} of {after.signature}:"
            " put a stage between that converts it"
        )


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value of one type may be one of the other; also where that cannot be told."""
    given, wanted = _plain(given), _plain(wanted)
    if given is Any or wanted is Any or given == wanted or isinstance(wanted, TypeVar):
        return True
    if _is_union(given):
        return all(fits(one, wanted) for one in get_args(given))
    if _is_union(wanted):
        return any(fits(given, one) for one in get_args(wanted))
    return _fits_class(given, wanted)


def _fits_class(given: Any, wanted: Any) -> bool:
    kind, taken = get_origin(given) or given, get_origin(wanted) or wanted
    if kind is Literal:
        return all(fits(type(value), wanted) for value in get_args(given))
    if taken is Literal:
        return False
    if (kind, taken) in _PROMOTED:
        return True
    try:
        if not issubclass(kind, taken):
            return False
    except TypeError:  # no classes: a TypedDict, a protocol
        return True
    ours, theirs = get_args(given), get_args(wanted)
    if kind is not taken or len(ours) != len(theirs):
        return True
    return all(
        one is Ellipsis or other is Ellipsis or fits(one, other) for one, other in zip(ours, theirs, strict=True)
    )


#: What one may be given as the other.
_PROMOTED = {(int, float), (bytes, bytearray), (bytearray, bytes)}


def _plain(hint: Any) -> Any:
    """The hint without what only narrows it."""
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        else:
            return type(None) if hint is None else hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)
