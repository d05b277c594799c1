"""Keys that collide: a body that would hold its reader for hours is refused before it is decoded.

Python salts the hashes of strings and bytes only. Numbers, UUIDs and tuples of them can be chosen so that each walks
past all others in a dict or set, which costs the square of their number, inside one call that nothing can interrupt.
So where such keys can be (`Screen.of`), the keys of a body that is large enough to matter are looked at first, and the
steps that they would take are counted, as CPython takes them [Objects/dictobject.c, setobject.c]. ADR 0017 has why.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from msgspec import inspect

#: Bodies up to this size (bytes) hold too few keys to matter: 40 ms in the worst case.
SMALL = 16 * 1024
#: A collection of so few is not looked at: it cannot take more steps than `_STEPS`.
_FEW = 32
#: Steps that the keys of one collection may take beyond their first; random keys take 0.4 each, Snowflake ids 5.
_STEPS, _STEPS_PER_KEY = 1_000, 8
#: Most that collide do so from the beginning: that many are looked at first.
_PREFIX = 2_048

#: Types whose hashes have a salt, or of whose values there are only a few.
_SAFE = (
    inspect.StrType,
    inspect.BytesType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.EnumType,
    inspect.LiteralType,
)
_READ_BY: dict[type[inspect.Type], Callable[[Any], Any]] = {
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.DecimalType: Decimal,
    inspect.UUIDType: UUID,
    inspect.DateTimeType: lambda key: msgspec.convert(key, dt.datetime),
    inspect.TimeType: lambda key: msgspec.convert(key, dt.time),
    inspect.TimeDeltaType: lambda key: msgspec.convert(key, dt.timedelta),
}
_ITSELF = (inspect.AnyType, inspect.VarTupleType, inspect.TupleType, inspect.NamedTupleType)
#: What a model may make of strings; numbers have one hash, whatever their type is.
_OF_A_MODEL = (inspect.AnyType, inspect.DecimalType, inspect.UUIDType)


class Collisions(ValueError):
    """The keys of a map, or the values of a set, collide on purpose, or are too many to tell."""


class Screen:
    """What to look for in bodies of one hint."""

    __slots__ = ("_arrays", "_kinds")

    def __init__(self, kinds: Iterable[Callable[[Any], Any] | None], *, arrays: bool) -> None:
        """Look at the keys of maps, and at `arrays`, read by each of `kinds`; None takes them as they come."""
        self._kinds = list(kinds)
        self._arrays = arrays

    @classmethod
    def of(cls, hint: Any, *, native_keys: bool) -> Screen | None:
        """The screen for a hint; None where all keys are salted. `native_keys`: the encoding has more than strings."""
        kinds: dict[Any, None] = {}
        arrays = False
        for info in _types_in(inspect.type_info(hint)):
            keys, of_array = _keys_of(info, native_keys)
            kinds |= {_reader(key): None for key in keys}
            arrays = arrays or (of_array and bool(keys))
        return cls(kinds, arrays=arrays) if kinds else None

    def check(self, body: bytes, *, json: bool) -> None:
        """Refuse a body that would take more than its share of time to decode.

        Raises:
            Collisions: it would.
            msgspec.DecodeError: it is malformed.
        """
        if len(body) <= SMALL:
            return
        for keys in _of_json(body, self._arrays) if json else _of_msgpack(body, self._arrays):
            if len(keys) > 2 * _PREFIX:
                self._check_keys(keys[:_PREFIX])
            self._check_keys(keys)

    def _check_keys(self, keys: list[Any]) -> None:
        if len(keys) <= _FEW:
            return
        for kind in self._kinds:
            hashes = {repr(key): hash(key) for key in _unsalted(keys, kind)}
            if len(hashes) > _FEW:
                # The others take part: they make the table larger.
                hashes |= {key: hash(key) for key in keys if type(key) is str and key not in hashes}
                _walk([*hashes.values()], (1, 10) if self._arrays else (1,))


def _of_json(body: bytes, arrays: bool) -> Iterator[list[Any]]:
    """The keys of each object and, with `arrays`, the values of each array; all of them salted as they stand."""
    found: list[Any] = [_read_json(body)]
    while found:
        one = found.pop()
        if isinstance(one, dict):
            yield list(one)
            found += [part for part in one.values() if type(part) in (list, dict)]
        elif isinstance(one, list):
            if arrays:
                yield one
            found += [part for part in one if type(part) in (list, dict)]


_read_json = msgspec.json.Decoder().decode
_read_keys = msgspec.msgpack.Decoder(list[Any]).decode

# MessagePack [its specification, Formats]: the size of each token that has no parts, by its first byte; where that is
# not enough, the size of the length that follows and of what stands before the data.
_ONE = re.compile(rb"[\x00-\x80\x90\x91\xa0\xc0\xc2\xc3\xe0-\xff]*")
_SIZES = [0] * 256
for _first in [*range(0x81), 0x90, 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)]:
    _SIZES[_first] = 1
_SIZES[0xA0:0xC0] = range(1, 33)
_SIZES[0xCA:0xD4] = (5, 9, 2, 3, 5, 9, 2, 3, 5, 9)
_SIZES[0xD4:0xD9] = (3, 4, 6, 10, 18)
_LENGTHS = {0xC4: (1, 2), 0xC5: (2, 3), 0xC6: (4, 5), 0xC7: (1, 3), 0xC8: (2, 4), 0xC9: (4, 6)}
_LENGTHS |= {0xD9: (1, 2), 0xDA: (2, 3), 0xDB: (4, 5)}
_PARTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # size of the count, tokens per item


def _of_msgpack(body: bytes, arrays: bool) -> Iterator[list[Any]]:
    """The keys of each map of more than a few and, with `arrays`, the values of such arrays."""
    stack: list[tuple[int, int, list[int]]] = []
    left, each, starts = 1, 0, _NOWHERE  # tokens to come in what is open, tokens per item, and where they began
    i, end = 0, len(body)
    try:
        while True:
            while not left:
                if each:
                    yield _keys(body, [*starts, i], each)
                if not stack:
                    if i != end:
                        raise LookupError
                    return
                left, each, starts = stack.pop()
            if i >= end:
                raise IndexError
            left -= 1
            if each:
                starts.append(i)
            first = body[i]
            size = _SIZES[first]
            if size:
                i += size
                if left and not each:
                    run = _ONE.match(body, i, min(end, i + left)).end()  # type: ignore[union-attr]
                    left -= run - i - body.count(b"\x91", i, run)  # an array of one is as many items as it stands for
                    i = run
            elif 0x80 < first < 0xA0 and not each:
                i += 1
                left += first & 15 if first > 0x90 else (first & 15) * 2
            elif first in _LENGTHS:
                width, before = _LENGTHS[first]
                i += before + int.from_bytes(body[i + 1 : i + 1 + width])
            else:
                items, per_item, i = _opened(body, first, i)
                looked_at = items > _FEW and (arrays or per_item == 2)
                if not (looked_at or each):  # its parts are like those of what it stands in
                    left += items * per_item
                    continue
                stack.append((left, each, starts))
                left, each, starts = items * per_item, per_item if looked_at else 0, [] if looked_at else _NOWHERE
    except LookupError:
        raise msgspec.DecodeError("MessagePack data is malformed") from None


_NOWHERE: list[int] = []


def _opened(body: bytes, first: int, i: int) -> tuple[int, int, int]:
    """A map or array: how many items it has, of how many tokens each, and where they begin."""
    if 0x80 < first < 0xA0:
        return first & 15, 2 if first < 0x90 else 1, i + 1
    width, per_item = _PARTS[first]
    return int.from_bytes(body[i + 1 : i + 1 + width]), per_item, i + 1 + width


def _keys(body: bytes, starts: list[int], each: int) -> list[Any]:
    """The items that begin at these places, or their first halves. What they contain has been looked at before."""
    parts = [body[starts[i] : starts[i + 1]] for i in range(0, len(starts) - 1, each)]
    keys: list[Any] = _read_keys(b"\xdd" + len(parts).to_bytes(4) + b"".join(parts))
    return keys


def _types_in(info: inspect.Type) -> Iterator[inspect.Type]:
    """All types that a type is made of."""
    seen: set[int] = set()
    found: list[Any] = [info]
    while found:
        one = found.pop()
        if isinstance(one, tuple):
            found += one
        elif isinstance(one, inspect.Type | inspect.Field) and id(one) not in seen:
            seen.add(id(one))
            found += msgspec.structs.astuple(one)
            if isinstance(one, inspect.Type):
                yield one


def _keys_of(info: inspect.Type, native_keys: bool) -> tuple[list[inspect.Type], bool]:
    """The types without a salt that a type takes as keys; whether it does so from an array."""
    if isinstance(info, inspect.AnyType):
        return ([info] if native_keys else []), False
    if isinstance(info, inspect.DictType):
        keys = [key for key in _unsalted_types(info.key_type) if native_keys or not isinstance(key, inspect.AnyType)]
        return keys, False
    if isinstance(info, inspect.SetType | inspect.FrozenSetType):
        return _unsalted_types(info.item_type), True
    if isinstance(info, inspect.CustomType) and _has_keys(getattr(info.cls, "__pydantic_core_schema__", None)):
        return [kind() for kind in _OF_A_MODEL], True
    return [], False


def _reader(info: inspect.Type) -> Callable[[Any], Any] | None:
    """Makes of what is on the wire what will be in the dict or set; None where that is the same."""
    if isinstance(info, _ITSELF):
        return None
    hint = getattr(info, "cls", Any)
    return _READ_BY.get(type(info)) or (lambda key: msgspec.convert(key, hint, strict=False))


def _unsalted_types(info: inspect.Type) -> list[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        return _unsalted_types(info.type)
    if isinstance(info, inspect.UnionType):
        return [found for one in info.types for found in _unsalted_types(one)]
    return [] if isinstance(info, _SAFE) else [info]


def _has_keys(schema: Any) -> bool:
    """Whether a Pydantic model makes a dict or a set of what are no strings, anywhere in it."""
    found = [schema]
    while found:
        one = found.pop()
        if isinstance(one, list | tuple):
            found += one
        elif isinstance(one, dict):
            keys = {"dict": "keys_schema", "set": "items_schema", "frozenset": "items_schema"}.get(str(one.get("type")))
            if keys is not None and one.get(keys, {}).get("type") not in ("str", None if keys == "keys_schema" else ""):
                return True
            found += one.values()
    return False


def _unsalted(keys: list[Any], kind: Callable[[Any], Any] | None) -> Iterator[Any]:
    """The keys as they would be in a dict or set, without those that are salted or do not fit."""
    for key in keys:
        if kind is None:
            if type(key) not in (str, bytes):
                yield _hashable(key)
        else:
            with contextlib.suppress(ValueError, TypeError, ArithmeticError, AttributeError):
                yield kind(key)


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(one) for one in value)
    return None if isinstance(value, dict) else value


def _walk(hashes: list[int], tables: Iterable[int]) -> None:
    """Put hashes into tables as a dict does, which looks at 1 entry before it jumps, or a set, which looks at 10.

    Raises:
        Collisions: they take too many steps.
    """
    most = _STEPS + _STEPS_PER_KEY * len(hashes)
    if any(_steps(hashes, in_a_row, most) > most for in_a_row in tables):
        raise Collisions("the keys of a map, or the values of a set, collide")


def _steps(hashes: list[int], in_a_row: int, most: int) -> int:
    """How often keys of these hashes find a place taken, up to a bit more than `most`."""
    size = _size_of_dict(len(hashes)) if in_a_row == 1 else _size_of_set(len(hashes))
    steps = 0
    taken = bytearray(size + in_a_row)
    mask = size - 1
    for hashed in hashes:
        i = hashed & mask
        if taken[i]:
            perturbed = hashed & _UNSIGNED
            while (free := taken.find(0, i, i + in_a_row)) < 0:
                steps += 1
                if steps > most:
                    return steps
                perturbed >>= 5
                i = (i * 5 + perturbed + 1) & mask
            i = free
        taken[i] = 1
    return steps


def _size_of_dict(count: int) -> int:
    size = 8
    while size * 2 < count * 3:
        size *= 2
    return size


def _size_of_set(count: int) -> int:
    size = 8
    while count * 5 >= (size - 1) * 3:
        size *= 4 if size <= 65_536 else 2
    return size


_UNSIGNED = (1 << 64) - 1
