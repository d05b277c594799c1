"""What values are declared to be: a subclass of what can travel goes as its base.

Type checkers take a subclass wherever its base is declared; msgspec encodes exact types, and asks a hook about all
others. So this costs ordinary values nothing. An ABC's look-alikes go as what they look like: a mapping as a map, a set
or another sequence as an array.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import UserString
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Any

import msgspec

_BASES: dict[type, Callable[[Any], Any]] = {
    str: lambda value: str.__getitem__(value, slice(None)),
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: lambda value: bytearray.__getitem__(value, slice(None)),
    int: int.__int__,
    float: float.__float__,
    dt.datetime: lambda value: dt.datetime.combine(value.date(), value.time(), value.tzinfo),
    dt.date: lambda value: dt.date(value.year, value.month, value.day),
    dt.time: lambda v: dt.time(v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold),
    dt.timedelta: lambda value: dt.timedelta(value.days, value.seconds, value.microseconds),
    Decimal: Decimal,
    UserString: lambda value: value.data,
}
#: What msgspec itself writes; if it asks about one of these, it is in the wrong place: a tuple as a key in JSON.
_EXACT = frozenset({dict, list, tuple, set, frozenset})


def as_base(value: Any) -> Any:
    """For a value of a type that cannot travel: the same as its base, or as what it looks like.

    Raises:
        TypeError: nothing of the kind can travel.
    """
    kind = type(value)
    for base in kind.__mro__:
        if base in _BASES:
            return _BASES[base](value)
    if kind in _EXACT:
        raise TypeError(f"a {kind.__name__} cannot be the key of a map in this encoding: send a list of pairs")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | Set):
        return list(value)
    raise TypeError(
        f"objects of type {kind.__name__} cannot be encoded: send a dataclass, a msgspec.Struct, a Pydantic model or"
        " what JSON has"
    )


def deep_base(value: Any) -> Any:
    """A value with all subclasses in it replaced by their bases, and dataclasses and the like by their attributes.

    Read with ``msgspec.convert(…, from_attributes=True)`` it becomes what the hint says.
    """
    if isinstance(value, Enum):
        return value
    if isinstance(value, Mapping):
        return {deep_base(key): deep_base(one) for key, one in value.items()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(deep_base(one) for one in value)
    names = _field_names(type(value))
    if names is not None:
        return SimpleNamespace(**{name: deep_base(getattr(value, name)) for name in names})
    with contextlib.suppress(TypeError):
        return as_base(value)
    return value


def _field_names(kind: type) -> Iterable[str] | None:
    """The fields of a dataclass, an attrs class, or a Struct without a tag, which attributes would not show."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__ if kind.__struct_config__.tag is None else None
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__]
    return getattr(kind, "__dataclass_fields__", None)
