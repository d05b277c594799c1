"""Field tables: what is refused, what is kept, and what comes out."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from warren.amqp.frames import FrameError
from warren.amqp.tables import decode_table, decode_value, encode_table, encode_value, join_table, pick, split_table


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        2**63,
        object(),
        (1, 2),
        Decimal("NaN"),
        datetime(1969, 12, 31, tzinfo=UTC),
        "\ud800",
        {"k" * 256: 1},
    ],
)
def test_a_value_that_tables_cannot_carry_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError):
        encode_table({"name": value})


@pytest.mark.parametrize("value", [{1: "a"}, {None: "a"}, Decimal("sNaN")])
def test_a_nested_key_that_is_no_text_and_a_signalling_nan_are_value_errors(value: Any) -> None:
    with pytest.raises(ValueError):
        encode_table({"name": value})


def test_a_table_that_contains_itself_is_a_value_error() -> None:
    table: dict[str, Any] = {}
    table["self"] = table
    with pytest.raises(ValueError, match="cannot be encoded"):
        encode_table(table)


def test_an_empty_table_is_no_bytes() -> None:
    assert encode_table({}) == b""
    assert decode_table(b"") == {}


def test_a_table_leaves_out_keys_that_are_not_text() -> None:
    assert decode_table(b"\x01\xfft\x01\x01at\x01") == {"a": True}


@pytest.mark.parametrize(
    "table",
    [
        b"\x05ab",  # a key that is cut off
        b"\x01a",  # a key without a value
        b"\x01a?",  # an unknown type
        b"\x01aI\x00",  # half an integer
        b"\x01aS\x00\x00\x00\x09abc",  # a string that runs over the end
    ],
)
def test_a_damaged_table_is_a_frame_error(table: bytes) -> None:
    with pytest.raises(FrameError, match="headers are not a valid AMQP table"):
        decode_table(table)


def test_tables_nested_without_end_are_a_frame_error() -> None:
    depth = 50_000  # far beyond any recursion limit that test tools may set
    bomb = b"".join(b"\x01aF" + (7 * left).to_bytes(4, "big") for left in reversed(range(depth)))
    with pytest.raises(FrameError):
        decode_table(bomb)


def test_floats_keep_their_fraction_wherever_they_stand() -> None:
    double = b"d" + struct.pack(">d", 1.5)
    single = b"f" + struct.pack(">f", -0.25)
    array = b"A" + len(double).to_bytes(4, "big") + double
    inner = b"\x01b" + single
    table = b"\x01a" + array + b"\x01t" + b"F" + len(inner).to_bytes(4, "big") + inner
    assert decode_table(table) == {"a": [1.5], "t": {"b": -0.25}}
    assert decode_value(b"d" + struct.pack(">d", math.inf)) == math.inf


def test_what_passes_through_stays_as_it_was() -> None:
    far_future = b"T" + (2**62).to_bytes(8, "big")
    short = b"s\x00\x05"
    table = b"\x01a" + far_future + b"\x01b" + short
    assert split_table(table) == {b"a": far_future, b"b": short}
    assert join_table(split_table(table)) == table


def test_a_value_is_encoded_with_its_type() -> None:
    assert encode_value("a") == b"S\x00\x00\x00\x01a"
    assert decode_value(encode_value(None)) is None


@pytest.mark.parametrize("letter", [b"l", b"L"])
def test_a_long_integer_is_a_plain_one(letter: bytes) -> None:
    value = decode_value(letter + (2**40).to_bytes(8, "big"))
    assert (value, type(value)) == (2**40, int)


def test_a_moment_after_the_year_9999_stays_a_number() -> None:
    assert decode_value(b"T" + b"\xff" * 8) == 2**64 - 1


def test_only_what_is_asked_for_is_decoded() -> None:
    table = join_table({b"bad": b"A\x00\x00\x00\x01?", b"n": encode_value(7)})
    assert pick(table, b"n", b"other") == {"n": 7}
    with pytest.raises(FrameError):
        decode_table(table)
