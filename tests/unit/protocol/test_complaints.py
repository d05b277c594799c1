"""What does not fit is told in Warren's words, with one spelling of paths, whatever decodes and whoever complains."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import re
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from msgspec import Meta
from pydantic import BaseModel, field_validator

from warren.protocol import codecs, complaints
from warren.protocol.codecs import JSON, MSGPACK, ValidationError


@dataclass
class Item:
    price: float
    name: str = ""


class Order(msgspec.Struct, forbid_unknown_fields=True):
    items: list[Item]
    stock: dict[str, int] = {}


class Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    a: int
    b: int = 0


class Cat(msgspec.Struct, tag=True):
    lives: int = 9


class Dog(msgspec.Struct, tag=True):
    loud: bool = True


class Pair(NamedTuple):
    a: int
    b: int


class Words(TypedDict):
    yes: str


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    S = 1


class Model(BaseModel, extra="forbid"):
    items: list[dict[str, int]]
    name: str

    @field_validator("name")
    @classmethod
    def _no_spaces(cls, name: str) -> str:
        if " " in name:
            raise ValueError("no spaces, please")
        return name


@dataclass
class Range:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("Expected `low` <= `high` - at `$.all`")


CASES: list[tuple[Any, Any, str]] = [
    (int, "3", "result must be an int, not a str"),
    (list[Item], [{"price": 1.0}, {"price": "2"}], "result[1].price must be a float, not a str"),
    (int | float | None, "3", "result must be an int, a float or null, not a str"),
    (dict[str, int], {"a": "1"}, "result[…] must be an int, not a str"),
    (dict[int, int], {"a": 1}, "a key of result must be an int, not a str"),
    (Order, {"items": [], "stock": {"a": None}}, "result.stock[…] must be an int, not null"),
    (Order, [], "result must be an object, not an array"),
    (Order, {}, "result.items is missing"),
    (Order, {"items": [{}]}, "result.items[0].price is missing"),
    (Order, {"items": [], "a`b": 1}, "result has no field 'a`b'"),
    (Order, {"items": [], "x - at `$.y": 1}, "result has no field 'x - at `$.y'"),
    (Words, {}, "result.yes is missing"),
    (Annotated[int, Meta(ge=1)], 0, "result must be at least 1"),
    (Annotated[int, Meta(le=1)], 2, "result must be at most 1"),
    (Annotated[float, Meta(gt=1.5)], 1.5, "result must be more than 1.5"),
    (Annotated[float, Meta(lt=1.5)], 1.5, "result must be less than 1.5"),
    (Annotated[int, Meta(multiple_of=5)], 2, "result must be a multiple of 5"),
    (Annotated[str, Meta(min_length=2)], "a", "result must have a length of at least 2"),
    (Annotated[list[int], Meta(max_length=1)], [1, 2], "result must have a length of at most 1"),
    (Annotated[dict[str, int], Meta(min_length=1)], {}, "result must have a length of at least 1"),
    (Annotated[str, Meta(pattern="^a+$")], "b", "result must match the pattern '^a+$'"),
    (Annotated[dt.datetime, Meta(tz=True)], "2026-01-01T00:00:00", "result must have a time zone"),
    (Annotated[dt.datetime, Meta(tz=False)], "2026-01-01T00:00:00Z", "result must not have a time zone"),
    (tuple[int, int], [1], "result must have 2 items"),
    (tuple[int, int], [1, 2, 3], "result must have 2 items"),
    (Pair, [1], "result must have 2 items"),
    (Row, [], "result must have at least 1 item"),
    (Row, [1, 2, 3], "result must have at most 2 items"),
    (Cat | Dog, {"type": "Cow"}, "result.type must be one of its choices, not 'Cow'"),
    (Cat | Dog, {}, "result.type is missing"),
    (Colour, "blue", "result must be one of its choices, not 'blue'"),
    (Size, 7, "result must be one of its choices, not 7"),
    (Literal["a", "b"], "c", "result must be one of its choices, not 'c'"),
    (dt.datetime, "now", "result is not a datetime as RFC 3339 writes it"),
    (dt.date, "now", "result is not a date as RFC 3339 writes it"),
    (dt.time, "now", "result is not a time as RFC 3339 writes it"),
    (dt.timedelta, "now", "result is not a duration as ISO 8601 writes it"),
    (dt.timedelta, "P99999999999D", "result is out of range"),
    (uuid.UUID, "one", "result is not a UUID"),
    (decimal.Decimal, "one", "result is not a decimal number"),
    (Range, {"low": 2, "high": 1}, "result: Expected `low` <= `high` - at `$.all`"),
    (list[Model], [{"items": [{"a": "x"}], "name": "n"}], "result[0].items[0].a: Input should be a valid integer"),
    (Model, {"items": []}, "result.name is missing"),
    (Model, {"items": [], "name": "n", "size": 1}, "result has no field 'size'"),
    (list[Model], [{"items": [], "name": "a b"}], "result[0].name: Value error, no spaces, please"),
]


@pytest.mark.parametrize(
    ("hint", "value", "complaint"), CASES, ids=[re.sub(r"\W+", "-", case[2]) + str(n) for n, case in enumerate(CASES)]
)
@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_what_does_not_fit_is_told_with_its_path_and_in_one_language(
    content_type: str, hint: Any, value: Any, complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        codecs.decoder(content_type, hint)(codecs.encode(content_type, value))

    told = str(caught.value)
    assert told == complaint or told.startswith((f"{complaint}, ", f"{complaint}; "))


@pytest.mark.parametrize(("hint", "value", "complaint"), [case for case in CASES if case[0] not in (Row, Words, Order)])
def test_a_result_that_a_handler_returns_is_refused_in_the_same_words(hint: Any, value: Any, complaint: str) -> None:
    with pytest.raises(codecs.CodecError, match=f"^{re.escape(complaint)}"):
        codecs.convert(value, hint)


def test_bytes_in_json_that_are_not_base64_are_told_so() -> None:
    with pytest.raises(ValidationError, match=r"^result is not base64: JSON carries bytes so$"):
        codecs.decoder(JSON, bytes)(b'"?"')


def test_a_complaint_that_is_not_known_yet_keeps_its_words_and_its_place() -> None:
    found = complaints.explain(msgspec.ValidationError("Unheard of `thing` - at `$.a[3]`"), "result")

    assert found == "result.a[3] does not fit: Unheard of thing"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("$", "the arguments"),
        ("$[1]", "price"),
        ("$[7]", "argument 8"),
        ("$[0].a[2]", "item.a[2]"),
        ("$.price", "price"),
        ("$.price[...]", "price[…]"),
        ("key` in `$.price", "a key of price"),
        ("key[0]` in `$[1]", "[0] in a key of price"),
        ("key[0]` in `key` in `$[1]", "[0] in a key of a key of price"),
    ],
)
def test_paths_into_arguments_begin_with_the_name_of_one(path: str, place: str) -> None:
    error = msgspec.ValidationError(f"Expected `int` - at `{path}`")

    assert complaints.explain(error, ("item", "price")) == f"{place} must be an int"


def test_what_a_stranger_has_sent_is_cut() -> None:
    body = codecs.encode(JSON, {"items": [], "x" * 5000: 1})
    with pytest.raises(ValidationError) as caught:
        codecs.decoder(JSON, Order)(body)

    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("content_type", "body", "complaint"),
    [
        (JSON, b"", "the body ends too early"),
        (JSON, b"[1,]", "the body is not JSON: trailing comma in array (byte 3)"),
        (MSGPACK, b"\xc1", "the body is not msgpack: invalid opcode '\\xc1' (byte 0)"),
        (JSON, b'"\xff"', "a text is not UTF-8"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_with_its_format(content_type: str, body: bytes, complaint: str) -> None:
    with pytest.raises(codecs.CodecError) as caught:
        codecs.decoder(content_type)(body)

    assert str(caught.value).startswith(complaint)


def test_a_text_that_is_not_utf8_is_told_alike_by_each_msgspec() -> None:
    assert complaints.explain(msgspec.DecodeError("Invalid UTF-8 encoded string"), "result") == "a text is not UTF-8"
