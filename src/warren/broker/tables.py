"""Field tables taken apart without decoding their values, so that what passes through stays as it was sent.

Re-encoding would lose integer widths, and Python cannot hold every timestamp that clients send. What has to be
read is read by Pika's codec.
"""

from __future__ import annotations

import struct

from pika import data as pika_data
from pika.compat import long

from warren.amqp.frames import FrameError, shortstr

Value = str | bytes | int | float | bool | None | list["Value"] | dict[str, "Value"] | object

#: The size of a value by its type letter [4.2.5.5]; what is not here begins with its length in four bytes.
_SIZES = {
    ord(letter): size
    for letters, size in (("V", 0), ("tbB", 1), ("suU", 2), ("Iif", 4), ("D", 5), ("lLdT", 8))
    for letter in letters
}
_LONG = frozenset(b"SxAF")
_NAMES = {
    "S": "longstr",
    "x": "binary",
    "A": "array",
    "F": "table",
    "t": "bool",
    "b": "byte",
    "B": "unsignedbyte",
    "s": "short",
    "U": "short",
    "u": "unsignedshort",
    "I": "signedint",
    "i": "unsignedint",
    "l": "long",
    "L": "long",
    "f": "float",
    "d": "double",
    "D": "decimal",
    "T": "timestamp",
    "V": "void",
}


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
        if value_end > end:
            raise FrameError("a table runs over its end")
        found[table[i + 1 : key_end]] = table[key_end:value_end]
        i = value_end
    return found


def _end_of_value(table: bytes, i: int) -> int:
    try:
        kind = table[i]
        if kind in _LONG:
            return i + 5 + int.from_bytes(table[i + 1 : i + 5])
        return i + 1 + _SIZES[kind]
    except (IndexError, KeyError) as error:
        raise FrameError("a table holds a value of no known type") from error


def join_table(entries: dict[bytes, bytes]) -> bytes:
    """The opposite of `split_table`."""
    return b"".join(shortstr(key) + value for key, value in entries.items())


def type_name(value: bytes) -> str:
    """RabbitMQ's name for the type of an encoded value."""
    return _NAMES.get(chr(value[0]), "unknown")


def decode_value(value: bytes) -> Value:
    """One encoded value.

    Raises:
        FrameError: Python or Pika cannot represent it.
    """
    try:
        decoded: Value = pika_data.decode_value(value, 0)[0]
    except Exception as error:  # struct, index, type, range of dates, depth: a foreign table fails in many ways
        raise FrameError(f"a table holds a value that cannot be read: {error!r}") from error
    return decoded


def encode_value(value: Value) -> bytes:
    """One value as it stands in a table, type letter included."""
    pieces: list[bytes] = []
    pika_data.encode_value(pieces, value)
    return b"".join(pieces)


def as_long(value: int) -> int:
    """An integer that is written in eight bytes, as RabbitMQ writes its counters."""
    counter: int = long(value)
    return counter


def table_at(payload: bytes, offset: int) -> bytes:
    """The table whose length stands at `offset`, without that length."""
    (size,) = struct.unpack_from(">I", payload, offset)
    return payload[offset + 4 : offset + 4 + size]
