"""Field tables as RabbitMQ speaks of them: the names of their types, and its counters."""

from __future__ import annotations

from warren.amqp.frames import FrameError
from warren.amqp.tables import split_array, split_table

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


def encode_long(value: int) -> bytes:
    """An integer in eight bytes whatever its size, as RabbitMQ writes its counters."""
    return b"l" + value.to_bytes(8)


def has_no_number(table: bytes) -> bool:
    """Whether a float somewhere in a table is infinite or NaN, which Erlang has not; skips what is malformed."""
    if b"d" not in table and b"f" not in table:
        return False
    tables, arrays = [table], [b""]
    while tables or arrays:
        try:
            values = list(split_table(tables.pop()).values()) if tables else split_array(arrays.pop())
        except FrameError:
            continue
        if any(_is_no_number(value) for value in values):
            return True
        tables += [value[5:] for value in values if value[:1] == b"F"]
        arrays += [value[5:] for value in values if value[:1] == b"A"]
    return False


def _is_no_number(value: bytes) -> bool:
    """All bits of the exponent are set [IEEE 754]."""
    exponent = {b"d": 0x7FF0, b"f": 0x7F80}.get(value[:1])
    return exponent is not None and int.from_bytes(value[1:3]) & exponent == exponent
