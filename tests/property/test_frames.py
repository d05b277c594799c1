"""Every byte that Warren writes is what Pika would write, and what it reads is what Pika would read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import spec

from tests.property import strategies as some
from tests.support import pika_frames
from warren.amqp import frames
from warren.amqp.frames import FrameError, Properties
from warren.amqp.tables import decode_table, encode_table

PROPERTY_NAMES = [name for name in dir(Properties) if name[0] != "_"]  # a compiled class has no `__slots__`


def as_warren_has_it(given_set: dict[str, Any]) -> Properties:
    """The same property set as Warren holds it: bytes, and the headers encoded."""
    values: dict[str, Any] = {}
    for name, value in given_set.items():
        if name == "headers":
            values["table"] = encode_table(value)
        else:
            values[name] = value.encode() if isinstance(value, str) else value
    return Properties(**values)


def as_pika_has_it(p: Properties) -> dict[str, Any]:
    """What Warren read, in Pika's terms; absent ones left out."""
    values: dict[str, Any] = {name: getattr(p, name) for name in PROPERTY_NAMES if name != "table"}
    values = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
    values["headers"] = None if p.table is None else decode_table(p.table)
    return {name: value for name, value in values.items() if value is not None}


@given(some.channels, some.short, some.short, st.booleans())
def test_a_publish_frame_is_what_pika_writes(channel: int, exchange: str, routing_key: str, mandatory: bool) -> None:
    written = frames.publish_frame(channel, exchange.encode(), routing_key.encode(), mandatory=mandatory)
    assert written == pika_frames.publish(channel, exchange, routing_key, mandatory=mandatory)


@given(some.channels, some.tags, st.booleans())
def test_an_ack_frame_is_what_pika_writes(channel: int, tag: int, multiple: bool) -> None:
    assert frames.ack_frame(channel, tag, multiple=multiple) == pika_frames.ack(channel, tag, multiple=multiple)


@given(some.channels, some.tags)
def test_a_reject_frame_is_what_pika_writes(channel: int, tag: int) -> None:
    assert frames.reject_frame(channel, tag) == pika_frames.method(channel, spec.Basic.Reject(tag, requeue=False))


@given(some.channels, some.short)
def test_a_get_frame_is_what_pika_writes(channel: int, queue: str) -> None:
    assert frames.get_frame(channel, queue.encode()) == pika_frames.method(channel, spec.Basic.Get(queue=queue))


def test_the_heartbeat_frame_is_what_pika_writes() -> None:
    assert pika_frames.heartbeat() == frames.HEARTBEAT_FRAME


@given(
    channel=some.channels,
    given_set=some.property_sets,
    frame_max=st.sampled_from([4096, 4097, 16_384, 131_072]),
    frame_count=st.integers(0, 3),
    off=st.sampled_from([-1, 0, 1]),
)
@example(channel=1, given_set={}, frame_max=4096, frame_count=0, off=0)
@example(channel=1, given_set={}, frame_max=4096, frame_count=1, off=0)
@example(channel=1, given_set={}, frame_max=4096, frame_count=1, off=1)
@example(channel=1, given_set={}, frame_max=4096, frame_count=3, off=0)
def test_header_and_body_frames_are_cut_as_pika_cuts_them(
    channel: int, given_set: dict[str, Any], frame_max: int, frame_count: int, off: int
) -> None:
    payload = bytes(max(0, frame_count * (frame_max - 8) + off))
    props = spec.BasicProperties(**given_set)
    written = b"".join(frames.content_frames(channel, pika_frames.properties(props), payload, frame_max))
    assert written == pika_frames.content(channel, props, payload, frame_max)


@given(some.property_sets)
def test_encoded_properties_are_what_pika_writes(given_set: dict[str, Any]) -> None:
    written = frames.encode_properties(as_warren_has_it(given_set))
    assert written == pika_frames.properties(spec.BasicProperties(**given_set))


@given(some.property_sets)
def test_properties_read_as_pika_reads_them(given_set: dict[str, Any]) -> None:
    encoded = pika_frames.properties(spec.BasicProperties(**given_set))
    by_pika = {k: v for k, v in vars(pika_frames.decode_properties(encoded)).items() if v is not None}
    assert as_pika_has_it(frames.decode_properties(encoded)) == by_pika


@given(some.property_sets)
def test_properties_survive_encoding_and_decoding(given_set: dict[str, Any]) -> None:
    before = as_warren_has_it(given_set)
    after = frames.decode_properties(frames.encode_properties(before))
    assert [getattr(after, name) for name in PROPERTY_NAMES] == [getattr(before, name) for name in PROPERTY_NAMES]


@given(some.tables)
def test_a_table_is_encoded_as_pika_encodes_it_and_reads_back_the_same(headers: dict[str, Any]) -> None:
    encoded = encode_table(headers)
    assert encoded == pika_frames.table(headers)
    assert decode_table(encoded) == headers


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff")
@example(b"\xff\xfc")
@example(b"\x20\x00\xff\xff\xff\xff")
def test_random_bytes_read_as_properties_or_raise_frame_error(data: bytes) -> None:
    try:
        frames.decode_properties(data)
    except FrameError:
        return


@given(some.property_sets, st.data())
def test_properties_cut_short_or_prolonged_raise_frame_error(given_set: dict[str, Any], data: st.DataObject) -> None:
    encoded = frames.encode_properties(as_warren_has_it(given_set))
    cut = data.draw(st.integers(0, len(encoded) - 1), label="cut")
    for damaged in (encoded[:cut], encoded + b"\x00"):
        with pytest.raises(FrameError):
            frames.decode_properties(damaged)


#: Bytes that look like tables: a short key, a type that exists, then anything.
table_like = st.builds(
    lambda entries: b"".join(entries),
    st.lists(
        st.builds(
            lambda key, kind, rest: bytes((len(key),)) + key + kind + rest,
            st.binary(max_size=3),
            st.sampled_from([bytes((c,)) for c in b"tbBUuIiLlfdDsSxATFV?"]),
            st.binary(max_size=12),
        ),
        max_size=3,
    ),
)


@given(st.one_of(st.binary(max_size=200), table_like))
@example(b"\x01ad\x7f\xf0\x00\x00\x00\x00\x00\x00")  # a double: infinity
@example(b"\x01aT\xff\xff\xff\xff\xff\xff\xff\xff")  # a timestamp after the year 9999
@example(b"\x01aA\x00\x00\x00\xff")  # an array that runs over the table's end
@example(b"\x01a")
@example(b"\x01aF\x00\x00\x00\x0a" * 3000)  # tables in tables
def test_random_bytes_read_as_a_table_of_text_keys_or_raise_frame_error(data: bytes) -> None:
    try:
        table = decode_table(data)
    except FrameError:
        return
    assert all(isinstance(key, str) for key in table)
