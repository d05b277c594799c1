"""AMQP field tables [4.2.5.5]: the headers of a message. Pure.

A table that passes through is cut and joined without decoding its values: to encode them again would lose integer
widths. What has to be read is decoded, every value that adds up; what has to be written is encoded as Pika does it.
"""

from __future__ import annotations

import calendar
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from warren.amqp.frames import FrameError, shortstr

#: The size of a value by its type letter; what is not here begins with its length in four bytes.
_SIZES = {
    ord(letter): size
    for letters, size in (("V", 0), ("tbB", 1), ("suU", 2), ("Iif", 4), ("D", 5), ("lLdT", 8))
    for letter in letters
}
_LONG = frozenset(b"SxAF")
_NUMBERS = {
    ord(letter): struct.Struct(f">{code}")
    for letter, code in zip("bBsUuIilLfd", "bBhhHiIqqfd", strict=True)  # RabbitMQ's reading, for its letters clash
}
_DECIMAL, _MOMENT = struct.Struct(">Bi"), struct.Struct(">Q")
_INT, _INT64 = struct.Struct(">ci"), struct.Struct(">cq")
_MOST_DIGITS = 10  # of an integer of four bytes
_ARRAY, _TABLE = ord("A"), ord("F")
#: Tables and arrays in one another; RabbitMQ's own have three levels.
_DEEPEST = 100


def split_table(table: bytes) -> dict[bytes, bytes]:
    """Cut a table (without its length) into its keys and their encoded values, type letter included.

    Raises:
        FrameError: it does not add up.
    """
    found: dict[bytes, bytes] = {}
    i, end = 0, len(table)
    while i < end:
        key_end = i + 1 + table[i]
        value_end = _end_of_value(table, key_end)
        found[table[i + 1 : key_end]] = table[key_end:value_end]
        i = value_end
    return found


def join_table(entries: dict[bytes, bytes]) -> bytes:
    """The opposite of `split_table`."""
    return b"".join(shortstr(key) + value for key, value in entries.items())


def _end_of_value(table: bytes, i: int) -> int:
    try:
        kind = table[i]
        size = 4 + int.from_bytes(table[i + 1 : i + 5]) if kind in _LONG else _SIZES[kind]
    except (IndexError, KeyError) as error:
        raise FrameError("headers are not a valid AMQP table: a value is of no known type") from error
    end = i + 1 + size
    if end > len(table):
        raise FrameError("headers are not a valid AMQP table: it runs over its end")
    return end


def encode_table(table: Mapping[str, Any]) -> bytes:
    """A table without its length. See `encode_value` for what it can carry.

    Raises:
        ValueError: a key or value that AMQP tables cannot carry.
    """
    try:
        return _encode_table(table, 0)
    except (ValueError, struct.error) as error:
        raise ValueError(f"headers cannot be encoded as an AMQP table: {error}") from error


def _encode_table(table: Mapping[str, Any], depth: int) -> bytes:
    return b"".join([_encode_key(key) + encode_value(value, depth) for key, value in table.items()])


@lru_cache(maxsize=1024)  # there are few of them
def _encode_key(key: object) -> bytes:
    if not isinstance(key, str):
        raise ValueError(f"a key must be text, not {key!r}")
    return shortstr(key.encode())


def encode_value(value: object, depth: int = 0) -> bytes:
    """One value as it stands in a table, type letter included.

    Text, bytes, booleans, integers of eight bytes, None, times (of whole seconds, from 1970 on), decimals whose digits
    make an integer of four bytes, and lists and dicts of all these. Floats are refused, as Pika refuses them.

    Raises:
        ValueError: another type, or out of range.
        struct.error: out of range.
    """
    if isinstance(value, str):
        return _long(b"S", value.encode())
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        small = -(2**31) <= value < 2**31
        return _INT.pack(b"I", value) if small else _INT64.pack(b"l", value)
    if value is None:
        return b"V"
    return _encode_other(value, depth)


def _encode_other(value: object, depth: int) -> bytes:
    if depth >= _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, bytes):
        return _long(b"x", value)
    if isinstance(value, dict):
        return _long(b"F", _encode_table(value, depth + 1))
    if isinstance(value, list):
        return _long(b"A", b"".join([encode_value(one, depth + 1) for one in value]))
    if isinstance(value, datetime):
        return b"T" + _MOMENT.pack(calendar.timegm(value.utctimetuple()))
    if isinstance(value, Decimal):
        return _encode_decimal(value)
    raise ValueError(f"{value!r} has a type that no AMQP table can carry")


def _long(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(4) + data


def _encode_decimal(value: Decimal) -> bytes:
    """Its digits as an integer, and how many of them stand behind the point, where zeros at the end are left out."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{value!r} is not a number")
    if not value:
        return b"D" + _DECIMAL.pack(0, 0)
    if len(digits) + exponent > _MOST_DIGITS:
        raise ValueError(f"{value!r} is too large")  # a short text may stand for a number of any size
    text = "".join(map(str, digits))
    surplus = min(len(text) - len(text.rstrip("0")), max(-exponent, 0))
    unscaled = int(text[: len(text) - surplus]) * 10 ** max(exponent, 0)
    return b"D" + _DECIMAL.pack(max(-exponent - surplus, 0), -unscaled if sign else unscaled)


def decode_table(table: bytes, depth: int = 0, without: tuple[bytes, ...] = ()) -> dict[str, Any]:
    """A table without its length; keys that are not UTF-8 are left out, as are those that begin like one of `without`.

    Raises:
        FrameError: it does not add up.
    """
    decoded: dict[str, Any] = {}
    for key, value in split_table(table).items():
        if key.startswith(without):
            continue
        found = decode_value(value, depth)
        try:
            decoded[key.decode()] = found
        except UnicodeDecodeError:
            continue
    return decoded


def pick(table: bytes, *names: bytes) -> dict[str, Any]:
    """Those of a table's entries that somebody asks for; the others are not decoded.

    Raises:
        FrameError: as for `decode_table`.
    """
    entries = split_table(table)
    return {name.decode(): decode_value(entries[name]) for name in names if name in entries}


def decode_value(value: bytes, depth: int = 0) -> Any:
    """One encoded value. A timestamp that Python has no date for stays a number: seconds since 1970.

    Raises:
        FrameError: as for `decode_table`.
    """
    kind = value[0]
    if depth > _DEEPEST:
        raise FrameError("headers are not a valid AMQP table: nested too deeply")
    if kind in _NUMBERS:
        return _NUMBERS[kind].unpack_from(value, 1)[0]
    if kind == _TABLE:
        return decode_table(value[5:], depth + 1)
    if kind == _ARRAY:
        return [decode_value(one, depth + 1) for one in split_array(value[5:])]
    return _OTHERS[kind](value)


def _read_string(value: bytes) -> str | bytes:
    try:
        return value[5:].decode()
    except UnicodeDecodeError:
        return value[5:]


def _read_decimal(value: bytes) -> Decimal:
    places, unscaled = _DECIMAL.unpack_from(value, 1)
    return Decimal(unscaled).scaleb(-places)


def _read_moment(value: bytes) -> datetime | int:
    seconds: int = _MOMENT.unpack_from(value, 1)[0]
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return seconds


_OTHERS: dict[int, Callable[[bytes], Any]] = {
    ord("S"): _read_string,
    ord("x"): lambda value: value[5:],
    ord("t"): lambda value: value[1] != 0,
    ord("D"): _read_decimal,
    ord("T"): _read_moment,
    ord("V"): lambda _value: None,
}


def split_array(array: bytes) -> list[bytes]:
    """Cut an array (without its length) into its encoded values.

    Raises:
        FrameError: it does not add up.
    """
    values = []
    i = 0
    while i < len(array):
        end = _end_of_value(array, i)
        values.append(array[i:end])
        i = end
    return values
