"""Keys that collide: a body that would hold its reader for hours is refused before it is decoded.

Python salts the hashes of strings and bytes only. Numbers, UUIDs and tuples of them can be chosen so that each walks
past all others in a dict or set, which costs the square of their number, inside one call that nothing can interrupt.
So where such keys can be (`Screen.of`), a body that is large enough to matter is first read without making any dict or
set of them, and the steps that its keys would take are counted, as CPython takes them [Objects/dictobject.c,
setobject.c]. What runs for every value of a body runs in C: what guards must not hold the reader itself. ADR 0017.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, Union, cast
from uuid import UUID

import msgspec
from msgspec import inspect

#: Bodies up to this size (bytes) hold too few keys to matter: 40 ms in the worst case.
SMALL = 16 * 1024
#: A collection of so few is not looked at: it cannot take more steps than `_STEPS`.
_FEW = 64
#: Steps that the keys of one collection may take beyond their first; random keys take 0.4 each, Snowflake ids 5.
_STEPS, _STEPS_PER_KEY = 1_000, 8

#: Types whose hashes have a salt, or of whose values there are only a few.
_SAFE = (
    inspect.StrType,
    inspect.BytesType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.EnumType,
    inspect.LiteralType,
)
#: Integers below are too few to matter.
_SMALL_INT = 256
_SALTED = frozenset({str, bytes, bool, type(None)})
_HINTS: dict[type[inspect.Type], Any] = {
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.BoolType: bool,
    inspect.NoneType: None,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.DecimalType: Decimal,
    inspect.UUIDType: UUID,
    inspect.DateTimeType: dt.datetime,
    inspect.DateType: dt.date,
    inspect.TimeType: dt.time,
    inspect.TimeDeltaType: dt.timedelta,
}

#: Takes keys as they come, and gives what will be put into a dict or set: each once, and how many times.
Read = Callable[[list[Any]], tuple[list[Any], list[int]]]


class Collisions(ValueError):
    """The keys of a map, or the values of a set, collide on purpose, or are too many to tell."""


class Screen:
    """What to look for in bodies of one hint."""

    __slots__ = ("_json", "_of_arrays", "_of_maps")

    def __init__(self, of_maps: Iterable[Read], of_arrays: Iterable[Read], *, json: bool) -> None:
        """Look at the keys of maps, and at the values of arrays, read in each of these ways."""
        self._of_maps = list(of_maps)
        self._of_arrays = list(of_arrays)
        self._json = json

    @classmethod
    def of(cls, hint: Any, *, json: bool) -> Screen | None:
        """The screen for a hint; None where all keys are salted. `json`: else it is msgpack, which has other keys."""
        maps: dict[Any, Read] = {}
        arrays: dict[Any, Read] = {}
        for info in _types_in(inspect.type_info(hint)):
            if isinstance(info, inspect.SetType | inspect.FrozenSetType) and not _is_safe(info.item_type):
                kind = _hint_of(info.item_type)
                arrays[kind] = _Reader(kind, json=json, keys=False)
            elif isinstance(info, inspect.CustomType) and _has_keys(info.cls):
                models: dict[Any, Read] = {_numbers: _numbers, _uuids: _uuids}
                maps |= models
                arrays |= models
            elif (kind := _key_hint(info, json)) is not None:
                maps[kind] = _Reader(kind, json=json, keys=True)
        return cls(maps.values(), arrays.values(), json=json) if maps or arrays else None

    def check(self, body: bytes) -> None:
        """Refuse a body that would take more than its share of time to decode.

        Raises:
            Collisions: it would.
            msgspec.DecodeError: it is malformed.
        """
        if len(body) <= SMALL:
            return
        for one in reversed(self._large(body)):  # the inner ones first: reading a key makes a set of what is in it
            if type(one) is dict:
                self._check_keys(self._of_maps, list(one), _sizes_of_dict, _steps_in_dict)
            elif _is_map(one):
                self._check_keys(self._of_maps, one[1::2], _sizes_of_dict, _steps_in_dict)
            else:
                self._check_keys(self._of_arrays, list(one), _sizes_of_set, _steps_in_set)

    def _large(self, body: bytes) -> list[Any]:
        if self._json:
            return _large(_read_json(body))
        if self._of_arrays or _LARGE_MAP.search(body):
            return _large(_read_msgpack(_maps_as_arrays(body)))
        return []

    def _check_keys(
        self,
        reads: Iterable[Read],
        keys: list[Any],
        sizes: Callable[[int], Iterator[tuple[int, int]]],
        steps: Callable[[list[int], list[int], int, int], int],
    ) -> None:
        if set(map(type, keys)) == {int} and min(keys) > -_SMALL_INT and max(keys) < _SMALL_INT:
            return
        for read in reads:
            found, times = read(keys)
            if set(map(type, found)) <= _SALTED:
                continue
            hashes = _hashes(found)
            for size, taken in sizes(len(hashes)):
                most = _STEPS + _STEPS_PER_KEY * sum(times[:taken])
                if steps(hashes[:taken], times, size, most) > most:
                    raise Collisions("the keys of a map, or the values of a set, collide: send others, or fewer")


def _hashes(keys: list[Any]) -> list[int]:
    """The hashes of keys; of what has none, which the decoder will refuse, any."""
    try:
        return list(map(hash, keys))
    except TypeError:
        return [id(key) if type(key) in (list, dict) else hash(key) for key in keys]


# --- reading a body without making a dict or set of keys that may collide -------------------------------------------

_COLLECTIONS = (list, dict, tuple)
_read_json = msgspec.json.Decoder().decode
_read_msgpack = msgspec.msgpack.Decoder().decode

# MessagePack [its specification, Formats]: tokens whose size is in their first bytes, and texts of up to 31 bytes
# however their length is written, so that each of the others is worth a step in Python.
_SHORT = b"|".join(b"\\x%02x.{%d}" % (length, length) for length in range(32))
_TEXTS = b"|".join(b"\\x%02x.{%d}" % (0xA0 + length, length) for length in range(1, 32))
_RUN = re.compile(
    rb"(?s:[\x00-\xa0\xc0\xc2\xc3\xe0-\xff]++|[\xcc\xd0].|[\xcd\xd1\xd4\xdc]..|\xd5.{3}|[\xca\xce\xd2\xdd].{4}"
    rb"|\xd6.{5}|[\xcb\xcf\xd3].{8}|\xd7.{9}|\xd8.{17}|\xde\x00[\x00-\x40]|\xdf\x00{3}[\x00-\x40]|"
    + _TEXTS
    + rb"|(?:[\xc4\xd9]|[\xc5\xda]\x00|[\xc6\xdb]\x00{3})(?:"
    + _SHORT
    + rb"))*+"
)
_LENGTHS = {0xC4: (1, 2), 0xC5: (2, 3), 0xC6: (4, 5), 0xC7: (1, 3), 0xC8: (2, 4), 0xC9: (4, 6)}  # and all before data
_LENGTHS |= {0xD9: (1, 2), 0xDA: (2, 3), 0xDB: (4, 5)}
_COUNTS = {0xDE: 2, 0xDF: 4}
#: A map of more than a few may begin here; it may also be a part of something else.
_LARGE_MAP = re.compile(rb"\xde(?:[^\x00]|\x00[\x41-\xff])|\xdf")
#: Stands before the keys and values of what was a map. An array that begins so is looked at as if it had been one.
_MARK = b"warren.map"
_MARK_TOKEN = msgspec.msgpack.encode(_MARK)


def _maps_as_arrays(body: bytes) -> bytes:
    """The same, with each map of more than a few as an array: its mark, then its keys and values in turn."""
    parts: list[bytes] = []
    written = i = promised = 0
    while i < len(body):
        i = cast("re.Match[bytes]", _RUN.match(body, i)).end()
        first = body[i] if i < len(body) else 0
        if first in _LENGTHS:
            width, before = _LENGTHS[first]
            i += before + int.from_bytes(body[i + 1 : i + 1 + width])
        elif first in _COUNTS:
            behind = i + 1 + _COUNTS[first]
            values = 2 * int.from_bytes(body[i + 1 : behind]) + 1
            promised += values
            if promised > len(body) * 2:
                raise msgspec.DecodeError("MessagePack data is malformed: more is announced than there is")
            parts += [body[written:i], b"\xdd", values.to_bytes(4), _MARK_TOKEN]
            written = i = behind
        else:  # the end, or malformed, which the decoder will say
            break
    return b"".join([*parts, body[written:]])


def _is_map(one: Any) -> bool:
    return type(one[0]) is bytes and one[0] == _MARK


def _large(root: Any) -> list[Any]:
    """All collections of more than a few, the outer before the inner: level by level, as that is fast."""
    found: list[Any] = []
    level: list[Any] = [[root]]
    while level:
        found += [one for one in level if len(one) > _FEW]
        maps = [one for one in level if type(one) is dict]
        arrays = [one for one in level if type(one) is not dict] if maps else level
        values = chain.from_iterable(map(dict.values, maps))
        parts = chain(chain.from_iterable(arrays), chain.from_iterable(maps), values)
        level = [part for part in filter(None, parts) if type(part) in _COLLECTIONS]
    return found


class _Reader:
    """Reads keys, or values of a set, of one type exactly as the decoder will, but each into a map of its own."""

    __slots__ = ("_around", "_as_they_come", "_counted", "_decode", "_encode", "_maps")

    def __init__(self, hint: Any, *, json: bool, keys: bool) -> None:
        encoding: Any = msgspec.json if json else msgspec.msgpack
        parts: Any = dict[hint, Any] if keys else hint
        self._encode = encoding.Encoder().encode
        self._decode = encoding.Decoder(list[parts], strict=False).decode
        self._as_they_come = hint is Any
        self._maps = keys
        self._counted = not json
        self._around = _AROUND[json, keys]

    def __call__(self, keys: list[Any]) -> tuple[list[Any], list[int]]:
        if not self._read([self._encode(keys[0])]):  # of another type, in most cases, from another part of the hint
            return [], []
        if self._as_they_come and set(map(type, keys)).isdisjoint(_COLLECTIONS):
            return _distinct(keys, self._encode)
        parts = list(map(self._encode, keys))
        found = self._read(list(dict.fromkeys(parts)))
        return list(chain.from_iterable(found)) if self._maps else found, _times(parts)

    def _read(self, parts: list[bytes]) -> list[Any]:
        """Those before the first that does not fit: no more will be decoded."""
        before, between, behind = self._around
        count = b"\xdd" + len(parts).to_bytes(4) if self._counted else b""
        try:
            found: list[Any] = self._decode(count + before + between.join(parts) + behind)
        except (msgspec.MsgspecError, TypeError, ValueError):
            half = len(parts) // 2
            found = self._read(parts[:half]) if half else []
            return found if len(found) < half or len(parts) < 2 else found + self._read(parts[half:])
        return found


def _distinct(keys: list[Any], name: Callable[[Any], str | bytes]) -> tuple[list[Any], list[int]]:
    """Each of the keys once, and how many times it comes. Names have a salt."""
    names = list(map(name, keys))
    return list(dict(zip(names, keys, strict=True)).values()), _times(names)


def _times(names: list[Any]) -> list[int]:
    """How many times each comes, in the order in which they first come."""
    return [1] * len(names) if len(set(names)) == len(names) else list(Counter(names).values())


#: What makes an array of parts, or an array of maps of one key each: by whether it is JSON, and whether they are keys.
_AROUND = {
    (True, True): (b"[{", b":0},{", b":0}]"),
    (True, False): (b"[", b",", b"]"),
    (False, True): (b"\x81", b"\x00\x81", b"\x00"),
    (False, False): (b"", b"", b""),
}


# --- which keys a hint has -----------------------------------------------------------------------------------------


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


def _key_hint(info: inspect.Type, json: bool) -> Any:
    """What the keys are of a type that may be a map, where they may be without a salt; None where they may not."""
    if isinstance(info, inspect.AnyType):
        return None if json else Any
    if not isinstance(info, inspect.DictType) or _is_safe(info.key_type):
        return None
    return None if json and isinstance(info.key_type, inspect.AnyType) else _hint_of(info.key_type)


def _is_safe(info: inspect.Type) -> bool:
    if isinstance(info, inspect.Metadata):
        return _is_safe(info.type)
    if isinstance(info, inspect.UnionType):
        return all(map(_is_safe, info.types))
    return isinstance(info, _SAFE)


def _hint_of(info: inspect.Type) -> Any:
    """The hint that a description is of, but for constraints: what does not keep them is only refused later."""
    if isinstance(info, inspect.Metadata):
        return _hint_of(info.type)
    if isinstance(info, inspect.UnionType):
        return Union[tuple(map(_hint_of, info.types))]  # noqa: UP007 - of as many as there are
    if isinstance(info, inspect.TupleType):
        return tuple[tuple(map(_hint_of, info.item_types))]  # type: ignore[misc]
    if isinstance(info, inspect.VarTupleType):
        return tuple[_hint_of(info.item_type), ...]  # type: ignore[misc]
    if isinstance(info, inspect.FrozenSetType):
        return frozenset[_hint_of(info.item_type)]  # type: ignore[misc]
    return _HINTS.get(type(info)) if type(info) in _HINTS else getattr(info, "cls", Any)


# --- what a Pydantic model may make of keys ------------------------------------------------------------------------

_NUMBER = re.compile(r"\s*+[-+]?(?:\d[\d_]*+(?:\.[\d_]*+)?|\.\d[\d_]*+)(?:[eE][-+]?\d++)?\s*+\Z", re.ASCII)
_HEX = re.compile(r"(?:urn:uuid:|\{)?[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\}?\Z")


def _has_keys(model: Any) -> bool:
    """Whether a Pydantic model makes a dict or a set of what are no strings, anywhere in it."""
    found: list[Any] = [getattr(model, "__pydantic_core_schema__", None)]
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


def _numbers(keys: list[Any]) -> tuple[list[Any], list[int]]:
    """With numbers for the texts that are some: they have one hash, whatever their type is."""
    found, times = _distinct(keys, repr)
    if str in set(map(type, found)):
        found = [_number(key) if type(key) is str and _NUMBER.match(key) else key for key in found]
    return _hashable(found), times


def _uuids(keys: list[Any]) -> tuple[list[Any], list[int]]:
    """With integers for the texts that are UUIDs: these have their hashes."""
    if str not in set(map(type, keys)):
        return [], []
    found, times = _distinct(keys, repr)
    return _hashable([UUID(key).int if type(key) is str and _HEX.match(key) else key for key in found]), times


def _number(text: str) -> Any:
    try:
        return Decimal(text)
    except ArithmeticError:  # an exponent beyond all
        return text


def _hashable(keys: list[Any]) -> list[Any]:
    return keys if set(map(type, keys)).isdisjoint(_COLLECTIONS) else list(map(_as_key, keys))


def _as_key(value: Any) -> Any:
    if type(value) in (list, tuple):
        return tuple(map(_as_key, value))
    return None if type(value) is dict else value


# --- what they would cost ------------------------------------------------------------------------------------------


def _sizes_of_dict(count: int) -> Iterator[tuple[int, int]]:
    """The tables that a dict has while it grows, and how many keys each takes, from where it matters."""
    size = 2 * _FEW
    while size * 2 < count * 3:
        yield size, size * 2 // 3
        size *= 2
    yield size, count


def _sizes_of_set(count: int) -> Iterator[tuple[int, int]]:
    size = 4 * _FEW
    while count * 5 >= (size - 1) * 3:
        yield size, (size - 1) * 3 // 5 + 1
        size *= 4 if size <= 65_536 else 2
    yield size, count


def _steps_in_dict(hashes: list[int], times: list[int], size: int, most: int) -> int:
    """How often keys of these hashes, each so many times, find another in their place, up to more than `most`."""
    steps = 0
    taken = bytearray(size)
    mask = size - 1
    for hashed, often in zip(hashes, times, strict=False):
        i = hashed & mask
        if taken[i]:
            if steps > most:
                return steps
            perturbed = hashed & _UNSIGNED
            while taken[i]:
                steps += often
                perturbed >>= 5
                i = (i * 5 + perturbed + 1) & mask
        taken[i] = 1
    return steps


def _steps_in_set(hashes: list[int], times: list[int], size: int, most: int) -> int:
    """The same for a set, which looks at ten places in a row before it jumps."""
    steps = 0
    taken = bytearray(size + 10)
    mask = size - 1
    for hashed, often in zip(hashes, times, strict=False):
        i = hashed & mask
        if taken[i]:
            if steps > most:
                return steps
            perturbed = hashed & _UNSIGNED
            while (free := taken.find(0, i, i + 10)) < 0:
                steps += often
                perturbed >>= 5
                i = (i * 5 + perturbed + 1) & mask
            i = free
        taken[i] = 1
    return steps


_UNSIGNED = (1 << 64) - 1
