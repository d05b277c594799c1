"""Bodies of every content type, case by case."""

from __future__ import annotations

import math
from datetime import date
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta

from warren.protocol import codecs
from warren.protocol.codecs import JSON, MSGPACK, OCTETS, PROBLEM, TEXT, CodecError, UnknownEncoding, ValidationError


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("content_type", "value", "body"),
    [
        (JSON, [1, "a", None], b'[1,"a",null]'),
        (PROBLEM, {"title": "x"}, b'{"title":"x"}'),
        (MSGPACK, [1, "a", None], b"\x93\x01\xa1a\xc0"),
        (TEXT, "héllo", "héllo".encode()),
        (TEXT, b"as it is", b"as it is"),
        (TEXT, bytearray(b"as it is"), b"as it is"),
        (TEXT, 832040, b"832040"),
        (TEXT, True, b"true"),
        (TEXT, None, b"null"),
        (TEXT, [1, 2], b"[1,2]"),
        (OCTETS, b"\x00\xff", b"\x00\xff"),
        (OCTETS, bytearray(b"\x00"), b"\x00"),
        (OCTETS, memoryview(b"\x00"), b"\x00"),
    ],
)
def test_a_value_is_written_as_its_content_type_asks(content_type: str, value: Any, body: bytes) -> None:
    assert codecs.encode(content_type, value) == body


@pytest.mark.parametrize(
    ("content_type", "hint", "body", "value"),
    [
        (JSON, Any, b'[1,"a",null]', [1, "a", None]),
        (JSON, list[int], b"[1,2]", [1, 2]),
        (JSON, date, b'"2024-02-29"', date(2024, 2, 29)),
        (PROBLEM, Any, b"{}", {}),
        (MSGPACK, dict[str, int], b"\x81\xa1a\x01", {"a": 1}),
        (TEXT, str, b"30", "30"),
        (TEXT, Any, b"30", "30"),
        (TEXT, bytes, b"\xff", b"\xff"),
        (TEXT, int, b"30", 30),
        (TEXT, int, b" 30\n", 30),
        (TEXT, int, b'"30"', 30),
        (TEXT, bool, b"true", True),
        (TEXT, Colour, b"red", Colour.RED),
        (TEXT, list[int], b"[1, 2]", [1, 2]),
        (OCTETS, bytes, b"\x00", b"\x00"),
        (OCTETS, Any, b"\x00", b"\x00"),
        (OCTETS, bytearray, b"\x00", bytearray(b"\x00")),
    ],
)
def test_a_body_is_read_into_its_hint(content_type: str, hint: Any, body: bytes, value: Any) -> None:
    assert codecs.decoder(content_type, hint)(body) == value


@pytest.mark.parametrize(
    ("hint", "body", "value"),
    [
        (date, b"2024-02-29", date(2024, 2, 29)),
        (UUID, b"12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        (Annotated[str, Meta(max_length=10)], b"30", "30"),
        (Annotated[str, Meta(max_length=10)], b"3 o'clock", "3 o'clock"),
        (str | None, b"30", "30"),
    ],
)
def test_text_is_read_into_its_hint_also_where_it_begins_like_a_number(hint: Any, body: bytes, value: Any) -> None:
    assert codecs.decoder(TEXT, hint)(body) == value


@pytest.mark.parametrize("body", [b'"quoted"', b" spaced "])
def test_text_for_a_constrained_string_is_taken_as_it_is_like_for_a_plain_one(body: bytes) -> None:
    assert codecs.decoder(TEXT, Annotated[str, Meta(max_length=10)])(body) == body.decode()


def test_a_strict_decoder_takes_no_text_for_a_number() -> None:
    with pytest.raises(ValidationError, match=r"^result must be an int, not a str$"):
        codecs.decoder(JSON, int)(b'"30"')


def test_a_lenient_decoder_takes_text_for_a_number() -> None:
    assert codecs.decoder(JSON, int, strict=False)(b'"30"') == 30


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_body_that_is_not_what_it_says_cannot_be_decoded(content_type: str) -> None:
    with pytest.raises(CodecError) as refused:
        codecs.decoder(content_type)(b"\xc1")
    assert refused.value.reason == "DECODE"


@pytest.mark.parametrize(
    ("content_type", "hint", "body"),
    [
        (JSON, int, b'"a"'),
        (MSGPACK, int, b"\xa1a"),
        (TEXT, int, b"many"),
        (TEXT, list[int], b'["a"]'),
        (OCTETS, int, b"\x00"),
    ],
)
def test_a_body_that_does_not_fit_its_hint_is_invalid(content_type: str, hint: Any, body: bytes) -> None:
    with pytest.raises(ValidationError) as refused:
        codecs.decoder(content_type, hint)(body)
    assert refused.value.reason == "VALIDATION"


def test_text_that_is_not_utf8_cannot_be_decoded() -> None:
    with pytest.raises(CodecError, match="utf-8"):
        codecs.decoder(TEXT, str)(b"\xff")


@pytest.mark.parametrize(
    ("content_type", "body"), [(JSON, b"[" * 100_000), (JSON, b'{"":' * 100_000), (MSGPACK, b"\x91" * 100_000)]
)
def test_a_bomb_of_nesting_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(CodecError, match=r"nested too deeply|malformed"):
        codecs.decoder(content_type)(body)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(CodecError, match="nested too deeply"):
        codecs.encode(JSON, value)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK, TEXT, OCTETS])
def test_a_value_that_no_encoding_carries_is_refused(content_type: str) -> None:
    with pytest.raises(CodecError):
        codecs.encode(content_type, object())


def test_octets_carry_bytes_only() -> None:
    with pytest.raises(CodecError, match="carries bytes, not str"):
        codecs.encode(OCTETS, "text")


@pytest.mark.parametrize("content_type", ["application/xml", "", "application/x-python-serialize"])
def test_an_unknown_content_type_is_refused_by_name(content_type: str) -> None:
    for use in (lambda: codecs.encode(content_type, 1), lambda: codecs.decoder(content_type)):
        with pytest.raises(UnknownEncoding, match="is not known: send application/json") as refused:
            use()
        assert refused.value.reason == "ENCODING"


class Picky(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        raise KeyError(self.number)


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_what_a_types_own_code_raises_is_a_refusal_of_the_value(content_type: str) -> None:
    body = codecs.encode(content_type, {"number": 7})
    with pytest.raises(CodecError, match="7"):
        codecs.decoder(content_type, Picky)(body)


def test_every_codec_error_is_a_value_error() -> None:
    assert all(issubclass(e, ValueError) for e in (CodecError, ValidationError, UnknownEncoding))


def test_converting_checks_a_value_against_its_hint() -> None:
    with pytest.raises(CodecError, match=r"^result must be an int, not a str$"):
        codecs.convert("a", int)


def test_converting_keeps_what_fits() -> None:
    assert codecs.convert([1, 2], list[int]) == [1, 2]


@pytest.mark.parametrize(
    ("content_type", "bare"),
    [
        (None, TEXT),
        ("", TEXT),
        ("application/json", JSON),
        ("Application/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        (" text/plain ;charset=latin-1", TEXT),
    ],
)
def test_a_content_type_is_reduced_to_its_media_type(content_type: str | None, bare: str) -> None:
    assert codecs.normalise(content_type) == bare


@pytest.mark.parametrize("content_type", [codecs.JSON, codecs.TEXT])
@pytest.mark.parametrize("value", [math.nan, [None, {"share": math.inf}], {-math.inf}, (1.0, [math.nan])])
def test_a_number_that_json_does_not_have_is_refused_instead_of_sent_as_null(content_type: str, value: Any) -> None:
    with pytest.raises(CodecError, match=r"JSON has no (nan|-?inf): send None, or take msgpack"):
        codecs.encode(content_type, value)


def test_msgpack_carries_every_float() -> None:
    assert codecs.decoder(MSGPACK)(codecs.encode(MSGPACK, [math.inf, None])) == [math.inf, None]


@pytest.mark.parametrize("value", [None, [None, 1.5], "null", {"null": [1.5]}, [msgspec.Raw(b"null")]])
def test_what_is_null_or_says_so_is_sent_as_it_is(value: Any) -> None:
    assert codecs.encode(codecs.JSON, value) == msgspec.json.encode(value)
