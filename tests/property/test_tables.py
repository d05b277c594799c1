"""Tables are encoded as Pika encodes them, byte by byte, and refused where Pika refuses them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import data as pika_data

from warren.amqp.tables import decode_table, encode_table, encode_value


class Text(str):
    __slots__ = ()


class Number(int):
    pass


KEYS = st.text(max_size=20)
MOMENTS = st.datetimes(
    min_value=datetime(1900, 1, 1), timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=-3))])
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.sampled_from([-(2**63) - 1, -(2**63), -(2**31) - 1, -(2**31), 2**31 - 1, 2**31, 2**63 - 1, 2**63])
    | st.text()
    | st.binary(max_size=40)
    | st.decimals(allow_nan=True, allow_infinity=True, places=4)
    | st.decimals(min_value=-(10**11), max_value=10**11)
    | MOMENTS
    | st.floats()
    | st.builds(Text, st.text())
    | st.builds(Number, st.integers(-(2**40), 2**40))
    | st.builds(tuple)
    | st.builds(bytearray)
    | st.builds(object)
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


def pikas(table: dict[Any, Any]) -> bytes | None:
    """What Pika makes of a table, without the length; None where it refuses."""
    pieces: list[bytes] = []
    try:
        pika_data.encode_table(pieces, table)
    except Exception:  # it fails in many ways
        return None
    return b"".join(pieces[1:])


def ours(table: dict[Any, Any]) -> bytes | None:
    try:
        return encode_table(table)
    except ValueError:
        return None


@given(st.dictionaries(KEYS | st.text(min_size=200, max_size=300), VALUES, max_size=5))
def test_tables_are_the_bytes_that_pika_writes_or_refused_with_it(table: dict[str, Any]) -> None:
    assert ours(table) == pikas(table)


@given(LEAVES)
def test_each_kind_of_value_is_written_or_refused_as_by_pika(value: object) -> None:
    assert ours({"k": value}) == pikas({"k": value})


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-0.00",
        "0E+999999",
        "1E+9",
        "-2147483648",
        "2147483647",
        "2147483648",
        "100",
        "1E+9999",
        "0.10",
        "1E-255",
        "1E-256",
        "123.4500",
        "-0.001",
        "214748364.70",
        "Infinity",
        "NaN",
    ],
)
def test_decimals_at_the_edges_are_written_or_refused_as_by_pika(text: str) -> None:
    assert ours({"k": Decimal(text)}) == pikas({"k": Decimal(text)})


def test_a_decimal_of_a_million_digits_is_refused_without_being_written_out() -> None:
    """Pika refuses it too, but writes it out first, and that takes a minute."""
    begun = time.process_time()
    assert ours({"k": Decimal("1E+999999")}) is None
    assert time.process_time() - begun < 10


def test_a_decimal_is_refused_before_it_is_rounded() -> None:
    """Pika rounds to 28 digits first, and writes 1."""
    with pytest.raises(ValueError, match="cannot be encoded"):
        encode_table({"k": Decimal("1.00000000000000000000000000000001")})


@pytest.mark.parametrize("key", [b"bytes", 1, None])
def test_a_key_that_is_no_text_is_refused(key: object) -> None:
    with pytest.raises(ValueError, match="a key must be text"):
        encode_table({key: 1})  # type: ignore[dict-item]


def test_what_is_too_deep_to_be_read_is_not_written() -> None:
    table: dict[str, Any] = {}
    for _ in range(99):
        table = {"in": table}
    assert decode_table(encode_table(table)) == table
    with pytest.raises(ValueError, match="nested too deeply"):
        encode_table({"in": {"in": table}})


def test_a_refused_value_is_named() -> None:
    with pytest.raises(ValueError, match=r"1\.5 has a type that no AMQP table can carry"):
        encode_value(1.5)
