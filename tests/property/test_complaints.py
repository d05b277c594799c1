"""Whatever does not fit into whatever type: no complaint has msgspec's markup or words, and each names a place."""

from __future__ import annotations

import datetime as dt
import enum
import re
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Meta

from tests.property.test_codecs import json_values, msgpack_values
from warren.protocol import codecs
from warren.protocol.codecs import JSON, MSGPACK, TEXT, CodecError
from warren.protocol.signature import make_method


class Colour(enum.Enum):
    RED = "red"


class Cat(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: Annotated[str, Meta(max_length=3)]


class Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    a: int
    b: float = 0.0


class Pair(NamedTuple):
    a: int
    b: str = ""


@dataclass
class Item:
    price: float
    tags: list[str]


_SCALARS = [
    *(int, str, float, bool, bytes, None, Decimal, uuid.UUID, dt.datetime, dt.date, dt.time, dt.timedelta),
    *(Colour, Item, Cat | Dog, Row, Pair, Literal[1, 2], Literal["a"], tuple[int, int], int | list[int] | None),
    Annotated[int, Meta(ge=2, le=5)],
    Annotated[float, Meta(gt=0.5, multiple_of=0.5)],
    Annotated[str, Meta(min_length=1, pattern="^`a")],
    Annotated[dt.datetime, Meta(tz=True)],
]
hints: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(_SCALARS),
    lambda inner: inner.map(lambda hint: list[hint]) | inner.map(lambda hint: dict[str, hint]),  # type: ignore[valid-type]
    max_leaves=3,
)
#: What comes near to fitting, so that it is refused deep inside.
near = st.fixed_dictionaries({"type": st.sampled_from(["Cat", "Dog", "`"]), "price": st.just(1), "lives": st.just(1)})
values = json_values | near | st.lists(near, max_size=2) | st.dictionaries(st.text(), near, max_size=2)

FOREIGN = re.compile(r"Expected |\$[.\[`]|(?:Object|Invalid|Integer|Number|Timestamp|Duration) \w+|, got |- at ")


def complaint(act: Any) -> str | None:
    try:
        act()
    except CodecError as error:
        return str(error)
    return None


def of_our_own(told: str, sent: object) -> None:
    """No markup and none of msgspec's words, besides those that were sent."""
    quoted = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "…", told)
    assert "`" not in quoted, told
    assert not FOREIGN.search(quoted), told
    assert "does not fit:" not in quoted, f"a kind of complaint that is not translated: {told}"


@given(hints, values)
def test_no_complaint_about_json_has_words_of_msgspec(hint: Any, value: Any) -> None:
    told = complaint(lambda: codecs.decoder(JSON, hint)(codecs.encode(JSON, value)))
    assume(told is not None)
    of_our_own(told or "", value)
    assert (told or "").startswith(("result", "a key of result", "["))


@given(hints, msgpack_values)
def test_no_complaint_about_msgpack_has_words_of_msgspec(hint: Any, value: Any) -> None:
    told = complaint(lambda: codecs.decoder(MSGPACK, hint)(codecs.encode(MSGPACK, value)))
    assume(told is not None)
    of_our_own(told or "", value)


@given(hints, st.text())
def test_no_complaint_about_text_has_words_of_msgspec(hint: Any, text: str) -> None:
    told = complaint(lambda: codecs.decoder(TEXT, hint)(text.encode()))
    assume(told is not None)
    of_our_own(told or "", text)


@given(hints, values)
def test_no_complaint_about_a_result_has_words_of_msgspec(hint: Any, value: Any) -> None:
    told = complaint(lambda: codecs.convert(value, hint))
    assume(told is not None)
    of_our_own(told or "", value)


@given(hints, values, st.sampled_from([JSON, MSGPACK]))
def test_arguments_that_do_not_fit_are_told_by_their_name_and_the_signature(
    hint: Any, value: Any, content_type: str
) -> None:
    def take(first: Any = 1, *, other: Any = 2) -> None: ...

    take.__annotations__ = {"first": hint, "other": hint, "return": None}
    method = make_method("shop", take, name=None, delivery="report", max_attempts=3, default=False, errors={})
    told = complaint(lambda: method.decode_arguments(content_type, codecs.encode(content_type, value)))
    assume(told is not None)
    what, _, signature = (told or "").partition("; the signature is ")
    of_our_own(what, value)
    assert signature.startswith("take(first: ")
    assert re.match(r"first|other|a key of|\[|too many arguments|there is no argument|the body", what), told
