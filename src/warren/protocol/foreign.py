"""Rules of other libraries in type hints, which nobody would check: they are refused where a method is declared."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

#: Whose marks in `Annotated` are rules that only that library's models look at.
_LIBRARIES = frozenset({"pydantic", "pydantic_core", "annotated_types"})


def check(hint: Any) -> None:
    """Make sure that a hint promises no more than is checked.

    Raises:
        TypeError: it holds rules that only Pydantic knows, outside of a model; the message says what to take.
    """
    found, seen = [hint], dict[int, Any]()  # which keeps them, so that no other gets their ids
    while found:
        one = found.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if "__is_pydantic_dataclass__" in getattr(one, "__dict__", {}):
            raise TypeError(
                f"the rules of {one.__qualname__}, a dataclass of Pydantic's, would not be checked: take a"
                " pydantic.BaseModel, or a plain dataclass with msgspec.Meta in its hints"
            )
        _check_marks(one)
        found += _within(one)


def _check_marks(hint: Any) -> None:
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if any(isinstance(mark, msgspec.Meta) for mark in marks):
        return  # the rules are said in our words, too
    for mark in marks:
        if type(mark).__module__.partition(".")[0] in _LIBRARIES:
            raise TypeError(
                f"{mark!r} would not be checked outside of a Pydantic model: say msgspec.Meta(…) instead, or beside it"
            )


def _within(hint: Any) -> Iterator[Any]:
    """What a hint is made of, and the fields of classes that msgspec reads; models look after themselves."""
    yield from get_args(hint)
    if _has_fields(hint):
        with contextlib.suppress(Exception):  # names that cannot be resolved were told before
            yield from get_type_hints(hint, include_extras=True).values()


def _has_fields(hint: Any) -> bool:
    if not isinstance(hint, type):
        return False
    if issubclass(hint, msgspec.Struct) or hasattr(hint, "__attrs_attrs__"):
        return True
    return (
        dataclasses.is_dataclass(hint) or is_typeddict(hint) or (issubclass(hint, tuple) and hasattr(hint, "_fields"))
    )
