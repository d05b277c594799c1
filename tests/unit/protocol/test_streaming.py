"""Streams on the wire: windows, numbers, and items that travel together."""

import re
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from warren.amqp.frames import Properties, decode_properties
from warren.amqp.tables import encode_table
from warren.protocol.codecs import JSON, MSGPACK, OCTETS, ValidationError
from warren.protocol.request import PERSISTENT
from warren.protocol.streaming import (
    DEFAULT_WINDOW,
    MOST_TOGETHER,
    Ahead,
    Behind,
    Items,
    Window,
    item_properties,
    item_size,
    items_decoder,
    joined,
    read_credit,
    read_items,
    read_window,
    size_of_new,
    together,
    window_fields,
    write_item,
)


def test_a_window_that_is_asked_for_is_read_again() -> None:
    assert read_window(window_fields(Window(7, 900))) == Window(7, 900)


@pytest.mark.parametrize("value", [0, -1, True, "many"])
def test_a_window_that_makes_no_sense_is_the_usual_one(value: object) -> None:
    assert read_window(encode_table({"rpc-window-items": value})) == DEFAULT_WINDOW
    assert read_window(b"\xff\xff") == read_window(None) == DEFAULT_WINDOW


def test_the_largest_window_is_bounded() -> None:
    wide = read_window(window_fields(Window(2**31 - 1, 2**31 - 1)))
    assert wide.items == 100_000
    assert wide.bytes == 256 * 1024 * 1024


def test_an_item_larger_than_the_window_goes_alone() -> None:
    ahead = Ahead(Window(10, 100))
    assert ahead.has_room
    ahead.send(1000)
    assert not ahead.has_room
    ahead.consumed(1)
    assert ahead.has_room
    assert ahead.bytes == 0


def test_credit_for_items_that_were_never_sent_changes_nothing() -> None:
    ahead = Ahead(Window(2, 100))
    ahead.send(1)
    ahead.send(1)
    ahead.consumed(3)
    assert not ahead.has_room
    ahead.consumed(1)
    ahead.consumed(0)  # an older one, late
    assert ahead.bytes == 1


def test_credit_for_items_of_an_earlier_run_lets_another_pass_them_over() -> None:
    ahead = Ahead(Window(2, 100), resumes=True)
    assert not ahead.pass_over()
    ahead.send(1)
    ahead.send(60)
    ahead.consumed(4)
    assert (ahead.sent, ahead.bytes) == (2, 0)
    ahead.consumed(3)  # an older one, late
    assert [ahead.pass_over() for _ in range(3)] == [True, True, False]
    assert ahead.sent == 4
    ahead.send(7)
    ahead.send(7)
    assert not ahead.has_room
    ahead.consumed(5)
    assert ahead.has_room
    assert ahead.bytes == 7


def test_a_caller_knows_which_items_of_another_run_it_has() -> None:
    behind = Behind(Window(4, 100))
    assert behind.take(0, 3, 5) == ""
    assert [behind.has(seq, count) for seq, count in [(0, 2), (0, 5), (2, 4), (3, 1), (7, 2), (1, 0)]] == [
        2,
        3,
        1,
        0,
        0,
        0,
    ]


def test_items_that_come_again_with_new_ones_count_once() -> None:
    assert size_of_new(MOST_TOGETHER, 0) == MOST_TOGETHER
    assert size_of_new(MOST_TOGETHER, 1) == 0
    assert size_of_new(MOST_TOGETHER + 7, 1) == 7  # nobody may send that: it counts, so that memory stays bounded


def test_a_caller_notices_what_is_missing_twice_or_too_much() -> None:
    behind = Behind(Window(4, 100))
    assert behind.take(0, 2, 5) == ""
    assert behind.take(0, 2, 5) == "item 0 came where item 2 was due"
    assert behind.take(3, 1, 3) == "item 3 came where item 2 was due"
    assert behind.take(2, 2, 5) == ""
    assert "more than the 4" in behind.take(4, 1, 3)


def test_a_caller_bounds_the_bytes_that_it_has_not_consumed() -> None:
    behind = Behind(Window(100, 1000))
    assert behind.take(0, 1, 900) == ""
    assert behind.take(1, 1, 5000) == ""  # the one that goes over may have any size
    assert "the 1000 bytes ahead" in behind.take(2, 1, 3)
    assert behind.take(2, 0, 2) == ""  # a sign of life has no items
    behind.consume(1, 900)
    assert "the 1000 bytes ahead" in behind.take(2, 1, 3)
    behind.consume(1, 5000)
    assert behind.take(2, 1, 3) == ""


def test_what_holds_arrays_together_uses_no_window_up() -> None:
    behind = Behind(Window(10_000, 1000))
    assert [behind.take(n, 1, 3) for n in range(999)] == [""] * 999  # a worker counts one byte each


def test_a_message_with_items_is_read_again() -> None:
    of = Properties(correlation_id=b"id")
    p = decode_properties(item_properties(JSON, of, b"run", Items(3, 2, "instance:abc")))
    assert (p.type, p.correlation_id, p.message_id, p.content_type) == (b"item", b"id", b"run", JSON.encode())
    assert p.delivery_mode is None
    assert read_items(p) == Items(3, 2, "instance:abc")


def test_items_are_as_persistent_as_their_request() -> None:
    of = Properties(correlation_id=b"id", delivery_mode=PERSISTENT)
    assert decode_properties(item_properties(JSON, of, b"run", Items(0, 1, "i"))).delivery_mode == PERSISTENT


@pytest.mark.parametrize(
    "table",
    [
        b"\xff\xff",
        b"",
        encode_table({"rpc-seq": -1, "rpc-items": 1, "rpc-instance": "i"}),
        encode_table({"rpc-seq": 0, "rpc-items": True, "rpc-instance": "i"}),
        encode_table({"rpc-seq": 0, "rpc-items": 1, "rpc-instance": 7}),
        encode_table({"rpc-seq": 0, "rpc-items": 1, "rpc-instance": "i" * 256}),
    ],
)
def test_a_message_that_does_not_say_which_items_it_has_makes_no_sense(table: bytes) -> None:
    assert read_items(Properties(table=table)) is None


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_items_travel_together_as_one_array(count: int) -> None:
    items = [*range(count)]
    for content_type in (JSON, MSGPACK):
        said, body = joined(content_type, [write_item(content_type, item) for item in items])
        assert (said, items_decoder(said, Any)(body)) == (content_type, items)


def test_large_bytes_travel_alone_and_as_they_are_where_their_encoding_has_bytes() -> None:
    large, small = bytes(MOST_TOGETHER + 1), b"1"
    written = [write_item(MSGPACK, item) for item in (small, large, small)]
    assert [len(group) for group in together(written)] == [1, 1, 1]
    content_type, body = joined(MSGPACK, [written[1]])
    assert content_type == OCTETS
    assert body is large
    assert item_size(MSGPACK, written[1]) == len(large)
    assert joined(JSON, [write_item(JSON, large)])[0] == JSON


@pytest.mark.parametrize("hint", [bytes, Any, bytes | None, Annotated[bytes, Meta(max_length=3)]])
def test_bytes_as_they_are_can_be_read_as_whatever_takes_them(hint: Any) -> None:
    [item] = items_decoder(OCTETS, hint)(b"abc")
    assert item == b"abc"


def test_bytes_as_they_are_are_not_copied() -> None:
    body = b"abc"
    assert items_decoder(OCTETS, bytes)(body)[0] is body


@pytest.mark.parametrize("hint", [str, int, Annotated[bytes, Meta(max_length=2)]])
def test_bytes_as_they_are_that_do_not_fit_are_refused_as_in_an_array(hint: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        items_decoder(OCTETS, hint)(b"abc")
    with pytest.raises(ValidationError, match=re.escape(str(caught.value))):
        items_decoder(MSGPACK, hint)(msgspec.msgpack.encode([b"abc"]))


def test_small_items_travel_together_and_large_ones_alone() -> None:
    assert [*together([b"a" * 4, b"b" * 4, b"c" * 20, b"d"], 10)] == [[b"aaaa", b"bbbb"], [b"c" * 20], [b"d"]]
    assert [*together([])] == []


@pytest.mark.parametrize(
    "body", [{}, {"streams": {"a": -1}, "reply_to": "q"}, {"streams": {str(n): 1 for n in range(1001)}, "reply_to": ""}]
)
def test_credit_that_makes_no_sense_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fit|1000 are allowed"):
        read_credit(body)
