"""AMQP field tables [4.2.5.5]: the headers of a message. Pure.

A table that passes through is cut and joined without decoding its values: to encode them again would lose integer
widths. What has to be read is decoded here, every value that adds up; what has to be written is Pika's to encode.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pika import data as pika_data

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


def encode_table(table: dict[str, Any]) -> bytes:
    """A table without its length.

    Raises:
        ValueError: a key or value that AMQP tables cannot carry.
    """
    pieces: list[bytes] = []
    try:
        pika_data.encode_table(pieces, table)
    except Exception as error:  # Pika fails in many ways on what it cannot write: type, range, depth, decimals
        raise ValueError(f"headers cannot be encoded as an AMQP table: {error!r}") from error
    return b"".join(pieces[1:])


def encode_value(value: object) -> bytes:
    """One value as it stands in a table, type letter included."""
    pieces: list[bytes] = []
    pika_data.encode_value(pieces, value)
    return b"".join(pieces)


def decode_table(table: bytes, depth: int = 0) -> dict[str, Any]:
    """A table without its length; keys that are not UTF-8 are left out.

    Raises:
        FrameError: it does not add up.
    """
    decoded: dict[str, Any] = {}
    for key, value in split_table(table).items():
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
