"""What a body costs before it is decoded: lines of Python, counted, never timed. C is cheap."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count, repeat
from types import FrameType
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from warren.protocol import codecs, extremes
from warren.protocol.codecs import JSON, MSGPACK, CodecError
from warren.protocol.collisions import SMALL

SIZE = 4 * SMALL
#: Lines of Python that a byte may cost: most shapes take 2 or less, and took up to 20 before.
LINES_PER_BYTE = 5


class Model(pydantic.BaseModel):
    counts: dict[int, int] = {}
    seen: set[int] = set()
    numbers: list[int] = []


def packed(parts: Iterator[bytes], first: bytes = b"\xdd") -> bytes:
    """As many of the parts as there is space for: in an array, or (0xdf) as keys and values of a map."""
    found: list[bytes] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > SIZE:
            break
        found.append(part)
    return first + len(found).to_bytes(4) + b"".join(found)


def text(unit: bytes, around: bytes = b"[]") -> bytes:
    return around[:-1] + b",".join([unit] * (SIZE // (len(unit) + 1))) + around[-1:]


def counted(write: Callable[[int], bytes], around: bytes = b"[]") -> bytes:
    return around[:-1] + b",".join(map(write, range(SIZE // 9))) + around[-1:]


enc = msgspec.msgpack.encode
SHAPES: dict[str, tuple[str, Any, bytes]] = {
    "empty maps": (MSGPACK, Any, packed(repeat(b"\x80"))),
    "maps of one": (MSGPACK, Any, packed(repeat(b"\x81\x00\x00"))),
    "short texts": (MSGPACK, Any, packed(repeat(b"\xa1a"))),
    "short texts with long lengths": (MSGPACK, Any, packed(repeat(b"\xdb\0\0\0\1a"))),
    "maps of many": (MSGPACK, Any, packed(repeat(b"\xde\0\x42" + bytes(range(66)) * 2))),
    "a map of numbers": (MSGPACK, Any, packed((enc(i) + b"\0" for i in count()), b"\xdf")),
    "a map of floats": (MSGPACK, Any, packed((enc(i + 0.5) + b"\0" for i in count()), b"\xdf")),
    "a map of tuples": (MSGPACK, Any, packed((enc([i]) + b"\0" for i in count()), b"\xdf")),
    "a map of nested tuples": (MSGPACK, Any, packed((enc([[[i]]]) + b"\0" for i in count()), b"\xdf")),
    "one key again and again": (MSGPACK, Any, packed(repeat(b"\0\0"), b"\xdf")),
    "arrays, nested": (MSGPACK, Any, b"\x91" * SIZE + b"\0"),
    "maps, nested": (MSGPACK, Any, b"\x81\0" * (SIZE // 2) + b"\0"),
    "large maps, nested": (MSGPACK, Any, b"\xde\0\x60\0" * (SIZE // 4) + b"\0"),
    "large maps, nested as keys": (MSGPACK, Any, b"\xde\0\x60" * (SIZE // 3) + b"\0"),
    "a large map of nested arrays": (MSGPACK, Any, packed(repeat(b"\0" + b"\x91" * 300 + b"\0"), b"\xdf")),
    "empty sets": (MSGPACK, list[set[int]], packed(repeat(b"\x90"))),
    "sets of one": (MSGPACK, list[set[int]], packed(repeat(b"\x91\0"))),
    "a set of numbers": (MSGPACK, set[int], packed(map(enc, count()))),
    "a set of decimals": (MSGPACK, set[Decimal], packed(enc(str(i)) for i in count())),
    "a set of empty tuples": (MSGPACK, set[tuple[int, ...]], packed(repeat(b"\x90"))),
    "a model's set": (MSGPACK, Model, b"\x81" + enc("seen") + packed(map(enc, count(1000)))),
    "a map of numbers, JSON": (JSON, dict[int, int], counted(lambda i: b'"%d":0' % i, b"{}")),
    "a map of several kinds, JSON": (JSON, dict[int | float, int], counted(lambda i: b'"%d":0' % i, b"{}")),
    "a set of numbers, JSON": (JSON, set[int], counted(lambda i: b"%d" % i)),
    "a set of UUIDs, JSON": (JSON, set[UUID], b"[" + b",".join(b'"%032x"' % i for i in range(1500)) + b"]"),
    "empty sets, JSON": (JSON, list[set[int]], text(b"[]")),
    "small maps, JSON": (JSON, list[dict[int, int]], text(b'{"1":0}')),
    "small maps in small maps, JSON": (JSON, dict[int, Any], b'{"1":' + text(b'{"a":{"":0}}') + b"}"),
    "arrays, nested, JSON": (JSON, set[int], b"[" * SIZE),
    "large exponents": (JSON, Any, text(b"1e200")),
    "many dots": (JSON, Any, b"[" + b"1." * (SIZE // 2) + b"]"),
    "digits": (JSON, float, b"1" * SIZE),
    "spaces": (JSON, Model, b'{"seen":["' + b" " * SIZE + b'"]}'),
}


def lines_of(action: Callable[[], object]) -> int:
    """How many lines of Python an action runs."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("shape", SHAPES)
def test_the_work_for_a_large_body_is_bounded_by_its_size(shape: str) -> None:
    content_type, hint, body = SHAPES[shape]
    decode = codecs.decoder(content_type, hint)

    def tried() -> None:
        with contextlib.suppress(CodecError):
            decode(body)

    assert len(body) > SMALL
    assert lines_of(tried) < LINES_PER_BYTE * len(body)


@pytest.mark.parametrize("number", [b"1e308", b"-1.7976931348623157E+308", b"5e-324", b"2.5e-0310"])
def test_too_many_numbers_that_take_long_to_read_are_refused(number: bytes) -> None:
    decode = codecs.decoder(JSON, list[float])
    few = b"[" + b", ".join([number] * extremes.MOST) + b"]"
    assert len(decode(few)) == extremes.MOST
    with pytest.raises(CodecError, match="send them as msgpack"):
        decode(few[:-1] + b"," + number + b"]")


@pytest.mark.parametrize(
    "layout", [b"%s,", b"[%s],", b'{"a":%s},', b"%s,\n" + b" " * 5000], ids=["flat", "nested", "keyed", "sparse"]
)
@pytest.mark.parametrize("number", [b"1e308", b"1E308"])
def test_they_are_found_however_they_lie(layout: bytes, number: bytes) -> None:
    decode = codecs.decoder(JSON)
    few = b"[" + (layout % number) * (extremes.MOST - 1) + number
    assert len(decode(few + b"]")) == extremes.MOST
    with pytest.raises(CodecError, match="send them as msgpack"):
        decode(few + b"," + number + b"]")


@pytest.mark.parametrize("content", [b"[" + b"1.5e-200," * 20_000 + b"1]", b'["' + b"1e300, " * 20_000 + b'"]'])
def test_other_numbers_and_texts_are_taken_however_many(content: bytes) -> None:
    assert codecs.decoder(JSON)(content)


def test_the_complaints_of_a_model_are_counted_where_they_are_many() -> None:
    decode = codecs.decoder(JSON, Model)
    with pytest.raises(CodecError, match="101 values do not fit Model"):
        decode(b'{"numbers":["x"' + b',"x"' * 100 + b"]}")
    with pytest.raises(CodecError, match=r"numbers\[4\]: Input should be .*; and 95 more$"):
        decode(b'{"numbers":["x"' + b',"x"' * 99 + b"]}")
