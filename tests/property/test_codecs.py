"""Bodies: what goes in comes out, and nothing that comes in can do worse than a CodecError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from warren.protocol import codecs
from warren.protocol.codecs import CodecError
from warren.protocol.collisions import SMALL, Screen

CONTENT_TYPES = (codecs.JSON, codecs.MSGPACK, codecs.TEXT, codecs.OCTETS, codecs.PROBLEM)
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
        max_leaves=12,
    )


json_values = nested(st.one_of(st.none(), st.booleans(), integers, floats, st.text()), st.text())
msgpack_values = nested(
    st.one_of(st.none(), st.booleans(), integers, floats, st.text(), st.binary()), st.text() | integers
)


@contextlib.contextmanager
def refusals_explained() -> Iterator[None]:
    """A `CodecError` is fine if it says why; nothing else is."""
    try:
        yield
    except CodecError as error:
        if not str(error):
            raise


class Point(msgspec.Struct):
    x: int
    name: str = ""


hints: st.SearchStrategy[Any] = st.sampled_from(
    [Any, int, float, bool, str, bytes, None, datetime, list[int], dict[str, Any], int | None, Point]
)


@given(json_values)
def test_json_values_come_back_equal(value: Any) -> None:
    assert codecs.decoder(codecs.JSON)(codecs.encode(codecs.JSON, value)) == value


@given(msgpack_values)
def test_msgpack_values_come_back_equal(value: Any) -> None:
    assert codecs.decoder(codecs.MSGPACK)(codecs.encode(codecs.MSGPACK, value)) == value


@given(st.text())
def test_text_comes_back_as_it_was(value: str) -> None:
    assert codecs.decoder(codecs.TEXT, str)(codecs.encode(codecs.TEXT, value)) == value


@given(st.binary())
def test_bytes_come_back_as_they_were(value: bytes) -> None:
    assert codecs.decoder(codecs.OCTETS, bytes)(codecs.encode(codecs.OCTETS, value)) == value


@given(integers)
def test_a_number_sent_as_text_is_read_as_the_number(value: int) -> None:
    assert codecs.decoder(codecs.TEXT, int)(codecs.encode(codecs.TEXT, value)) == value


@given(st.sampled_from(CONTENT_TYPES), hints, st.booleans(), st.binary(max_size=60))
@example(codecs.MSGPACK, Any, True, b"\x81\x80\xc0")  # a map as the key of a map
@example(codecs.MSGPACK, Any, True, b"\xdd\xff\xff\xff\xff")  # four billion items, it says
@example(codecs.MSGPACK, Any, True, b"\xdf\xff\xff\xff\xff")
@example(codecs.MSGPACK, Any, True, b"\xc7\x0c\xff" + b"\xff" * 12)  # a moment that does not exist
@example(codecs.JSON, Any, True, b"[" * 100_000)
@example(codecs.JSON, Any, True, b'{"a":' * 100_000)
@example(codecs.MSGPACK, Any, True, b"\x91" * 100_000)
@example(codecs.TEXT, list[int], True, b"[" * 100_000)
@example(codecs.JSON, int, True, b"1" * 100_000)
@example(codecs.JSON, str, True, b'"\\ud800"')
@example(codecs.TEXT, int, True, b"\xff")
def test_any_bytes_are_decoded_or_refused_with_a_codec_error(
    content_type: str, hint: Any, strict: bool, body: bytes
) -> None:
    with refusals_explained():
        codecs.decoder(content_type, hint, strict=strict)(body)


class Refuser:
    """Something that no encoding carries."""


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


odd_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        json_values,
        st.builds(Refuser),
        st.builds(cycle),
        st.just("\ud800"),
        st.just(2**200),
        st.complex_numbers(),
        st.just(len),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.integers(), inner, max_size=2)),
    max_leaves=3,
)


@given(st.sampled_from(CONTENT_TYPES), odd_values)
def test_any_value_is_encoded_or_refused_with_a_codec_error(content_type: str, value: Any) -> None:
    with refusals_explained():
        assert isinstance(codecs.encode(content_type, value), bytes)


@given(odd_values, hints)
def test_any_value_is_converted_or_refused_with_a_codec_error(value: Any, hint: Any) -> None:
    with refusals_explained():
        codecs.convert(value, hint)


@given(st.text() | st.none())
def test_every_content_type_is_normalised_to_lower_case_without_parameters(content_type: str | None) -> None:
    bare = codecs.normalise(content_type)
    assert bare == bare.lower().strip()
    assert ";" not in bare


class Text(str):
    __slots__ = ()


class Count(int):
    __slots__ = ()


class Share(float):
    __slots__ = ()


class Row(list[Any]):
    __slots__ = ()


class Shelf(dict[Any, Any]):
    __slots__ = ()


def disguised(value: Any) -> Any:
    """The same value, made of subclasses."""
    if isinstance(value, list):
        return Row(map(disguised, value))
    if isinstance(value, dict):
        return Shelf({disguised(key): disguised(one) for key, one in value.items()})
    kinds: dict[type, type] = {str: Text, int: Count, float: Share}
    return kinds[type(value)](value) if type(value) in kinds else value


@given(json_values)
def test_values_made_of_subclasses_come_back_as_their_bases(value: Any) -> None:
    body = codecs.encode(codecs.JSON, disguised(value))
    assert body == codecs.encode(codecs.JSON, value)
    assert codecs.decoder(codecs.MSGPACK)(codecs.encode(codecs.MSGPACK, disguised(value))) == value


@given(msgpack_values, st.sampled_from([Any, dict[int, Any], set[int], dict[int | str, Any]]), st.booleans())
def test_looking_for_collisions_changes_nothing_of_ordinary_values(value: Any, hint: Any, cut: bool) -> None:
    body = codecs.encode(codecs.MSGPACK, [value, "x" * SMALL])[: -1 if cut else None]
    screen = Screen.of(hint, json=False)
    assert screen is not None
    with contextlib.suppress(msgspec.DecodeError, CodecError):
        screen.check(body)
        assert codecs.decoder(codecs.MSGPACK)(body)[0] == value
        assert not cut


@given(st.binary(max_size=400), st.sampled_from([Any, dict[int, Any], set[int]]))
def test_looking_for_collisions_ends_on_any_bytes(tail: bytes, hint: Any) -> None:
    for json in (False, True):
        screen = Screen.of(hint, json=json)
        assert json or screen is not None
        if screen is not None:
            with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
                screen.check(b"\xdc\xff\xff" + b"\x01" * SMALL + tail)
