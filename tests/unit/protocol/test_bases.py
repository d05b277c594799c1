"""Subclasses of what can travel go as their bases."""

from __future__ import annotations

import datetime as dt
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, UserString, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest

from warren.protocol import codecs
from warren.protocol.codecs import JSON, MSGPACK, CodecError


class Text(str): ...


class Raw(bytes): ...


class Count(int): ...


class Share(float): ...


class Moment(dt.datetime): ...


class Day(dt.date): ...


class Hour(dt.time): ...


class Span(dt.timedelta): ...


class Price(Decimal): ...


class Shelf(dict[str, int]): ...


class Row(list[int]): ...


class Pair(NamedTuple):
    x: float
    y: float


@dataclass
class Point:
    x: float


@dataclass
class Labelled(Point):
    label: str = ""


class Base(msgspec.Struct, rename="camel"):
    the_x: int


class Derived(Base):
    more: int = 0


class Colour(Enum):
    RED = "red"


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
CASES: list[tuple[Any, Any, Any]] = [
    (str, Text("a"), "a"),
    (bytes, Raw(b"a"), b"a"),
    (int, Count(3), 3),
    (float, Share(0.5), 0.5),
    (dt.datetime, Moment(2026, 1, 2, 12, tzinfo=dt.UTC), NOON),
    (dt.date, Day(2026, 1, 2), dt.date(2026, 1, 2)),
    (dt.time, Hour(1, 2, 3), dt.time(1, 2, 3)),
    (dt.timedelta, Span(1, 2, 3), dt.timedelta(1, 2, 3)),
    (Decimal, Price("1.50"), Decimal("1.50")),
    (dict[str, int], Shelf(a=1), {"a": 1}),
    (dict[str, int], OrderedDict(a=1), {"a": 1}),
    (dict[str, int], Counter("a"), {"a": 1}),
    (Mapping[str, int], MappingProxyType({"a": 1}), {"a": 1}),
    (Mapping[str, int], ChainMap({"a": 1}), {"a": 1}),
    (Mapping[str, int], UserDict(a=1), {"a": 1}),
    (list[int], Row([1]), [1]),
    (Sequence[int], deque([1]), [1]),
    (Sequence[int], range(2), [0, 1]),
    (Sequence[int], UserList([1]), [1]),
    (str, UserString("a"), "a"),
    (Pair, Pair(Share(1.5), 2.0), Pair(1.5, 2.0)),
    (Point, Labelled(Share(1.5), "l"), Point(1.5)),
    (Base, Derived(1), Base(1)),
    (list[Point], [Labelled(1.5)], [Point(1.5)]),
    (dict[str, list[float]], {Text("k"): [Share(1.5)]}, {"k": [1.5]}),
    (dict[str, float], {Text("k"): Share(1.5)}, {"k": 1.5}),
    (dict[int, str], {Count(1): Text("v")}, {1: "v"}),
    (dict[float, int], {Share(1.5): Count(1)}, {1.5: 1}),
    (Point | None, Labelled(Share(1.5)), Point(1.5)),
    (list[Colour], [Colour.RED], [Colour.RED]),
]


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize(("hint", "value", "base"), CASES, ids=lambda part: type(part).__name__)
def test_a_subclass_travels_as_its_base(content_type: str, hint: Any, value: Any, base: Any) -> None:
    decode = codecs.decoder(content_type, hint)
    as_argument = decode(codecs.encode(content_type, value))
    as_result = decode(codecs.encode(content_type, codecs.convert(value, hint)))
    assert (as_argument, type(as_argument)) == (base, type(base))
    assert as_result == base


@pytest.mark.parametrize("value", [object(), {1, object()}, lambda: None, 1j, [[{"a": object()}]]])
def test_what_is_no_subclass_of_anything_is_refused(value: Any) -> None:
    with pytest.raises(CodecError, match="cannot be encoded"):
        codecs.encode(JSON, value)


def test_a_tuple_cannot_be_a_key_in_json() -> None:
    with pytest.raises(CodecError, match="a tuple cannot be the key of a map"):
        codecs.encode(JSON, {(1, 2): 3})


@pytest.mark.parametrize(
    ("hint", "value"), [(int, Text("1")), (str, Count(1)), (Point, {"y": 1}), (str, Colour.RED), (float, Text("1.5"))]
)
def test_a_result_of_another_type_is_still_refused(hint: Any, value: Any) -> None:
    with pytest.raises(CodecError):
        codecs.convert(value, hint)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for act in (lambda: codecs.encode(JSON, endless), lambda: codecs.convert(endless, list[Point])):
        with pytest.raises(CodecError):
            act()


def test_a_model_whose_dump_fails_in_its_own_way_is_refused() -> None:
    class Model:
        def model_dump(self, **_options: Any) -> Any:
            raise LookupError("no session")

    with pytest.raises(CodecError, match="no session"):
        codecs.encode(JSON, Model())
