"""Field tables as RabbitMQ speaks of them: the names of their types, and its counters."""

from __future__ import annotations

import struct

from pika.compat import long

Value = str | bytes | int | float | bool | None | list["Value"] | dict[str, "Value"] | object

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


def type_name(value: bytes) -> str:
    """RabbitMQ's name for the type of an encoded value."""
    return _NAMES.get(chr(value[0]), "unknown")


def as_long(value: int) -> int:
    """An integer that is written in eight bytes, as RabbitMQ writes its counters."""
    counter: int = long(value)
    return counter


def table_at(payload: bytes, offset: int) -> bytes:
    """The table whose length stands at `offset`, without that length."""
    (size,) = struct.unpack_from(">I", payload, offset)
    return payload[offset + 4 : offset + 4 + size]
