"""Frames, case by case; tests/property holds every byte against Pika."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from pika import spec

from tests.support import pika_frames
from warren.amqp import frames
from warren.amqp.frames import Delivery, FrameError, Properties, encode_properties
from warren.amqp.splitter import Splitter

FRAME_MAX = 4096


class Log:
    """A tap that writes down what it gets."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.returns: list[Delivery] = []
        self.confirms: list[tuple[str, int, bool]] = []

    def delivered(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def returned(self, delivery: Delivery) -> None:
        self.returns.append(delivery)

    def confirmed(self, tag: int, multiple: bool) -> None:
        self.confirms.append(("confirmed", tag, multiple))

    def refused(self, tag: int, multiple: bool) -> None:
        self.confirms.append(("refused", tag, multiple))


class Receiving:
    """A splitter with channel 1 tapped."""

    def __init__(self, *, body_limit: int = 1000) -> None:
        self.passed_on: list[bytes] = []
        self.log = Log()
        self.splitter = Splitter(self.passed_on.append, FRAME_MAX)
        self.splitter.tap(1, self.log, body_limit=body_limit)

    def feed(self, *chunks: bytes) -> Receiving:
        for chunk in chunks:
            self.splitter.feed(chunk)
        return self


def deliver(tag: int = 1, *, channel: int = 1, redelivered: bool = False) -> bytes:
    return pika_frames.method(channel, spec.Basic.Deliver("ctag", tag, redelivered, "warren", "calc"))


def header(size: int, *, channel: int = 1, **properties: Any) -> bytes:
    return pika_frames.header(channel, size, spec.BasicProperties(**properties))


def body(chunk: bytes, *, channel: int = 1) -> bytes:
    return pika_frames.body(channel, chunk)


def raw_frame(kind: int, channel: int, payload: bytes) -> bytes:
    """A frame that Pika would not write."""
    return bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


# --- values -------------------------------------------------------------------------------------------------------


def test_a_short_string_has_at_most_255_bytes() -> None:
    assert frames.shortstr(b"a" * 255) == b"\xff" + b"a" * 255
    with pytest.raises(ValueError, match="256 bytes; AMQP allows 255"):
        frames.shortstr(b"a" * 256)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\x10\x00", b"\x20\x00\x00", b"\x00\x40\x00"])
def test_properties_that_end_too_early_are_a_frame_error(data: bytes) -> None:
    with pytest.raises(FrameError, match="end too early"):
        frames.decode_properties(data)


@pytest.mark.parametrize("data", [b"\x00\x00!", b"\x80\x00\x05ab", b"\x20\x00\x00\x00\x00\x05a"])
def test_properties_that_do_not_add_up_are_a_frame_error(data: bytes) -> None:
    with pytest.raises(FrameError, match="do not match their flags"):
        frames.decode_properties(data)


def test_every_property_has_its_place() -> None:
    p = Properties(
        content_type=b"a",
        content_encoding=b"b",
        table=b"\x01at\x01",
        delivery_mode=2,
        priority=3,
        correlation_id=b"c",
        reply_to=b"d",
        expiration=b"4",
        message_id=b"e",
        timestamp=5,
        type=b"f",
        user_id=b"g",
        app_id=b"h",
        cluster_id=b"i",
    )
    expected = spec.BasicProperties("a", "b", {"a": True}, 2, 3, "c", "d", "4", "e", 5, "f", "g", "h", "i")
    assert frames.encode_properties(p) == pika_frames.properties(expected)


def test_an_empty_body_has_no_body_frame() -> None:
    properties = pika_frames.properties(spec.BasicProperties())
    assert b"".join(frames.content_frames(1, properties, b"", FRAME_MAX)) == header(0)


def test_a_body_of_exactly_one_frame_is_not_cut() -> None:
    properties = pika_frames.properties(spec.BasicProperties())
    payload = bytes(FRAME_MAX - frames.OVERHEAD)
    written = b"".join(frames.content_frames(1, properties, payload, FRAME_MAX))
    assert written == header(len(payload)) + body(payload)


# --- deliveries ---------------------------------------------------------------------------------------------------


def test_a_delivery_is_put_together_from_its_frames() -> None:
    receiving = Receiving().feed(deliver(7, redelivered=True) + header(5, type="fib") + body(b"he") + body(b"llo"))
    [delivery] = receiving.log.deliveries
    assert (delivery.tag, delivery.redelivered, delivery.body, delivery.body_size) == (7, True, b"hello", 5)
    assert delivery.properties == pika_frames.properties(spec.BasicProperties(type="fib"))


def test_properties_that_do_not_fit_into_a_frame_are_refused() -> None:
    assert frames.content_frames(1, b"x" * (4096 - 20), b"", 4096)
    with pytest.raises(ValueError, match="take 4077 bytes, and have to fit into one frame of 4096"):
        frames.content_frames(1, b"x" * (4096 - 19), b"", 4096)


def test_a_delivery_knows_where_it_was_published() -> None:
    [delivery] = Receiving().feed(deliver() + header(0)).log.deliveries
    assert delivery.route() == (b"warren", b"calc")


def test_a_message_that_was_asked_for_is_a_delivery_too() -> None:
    answer = pika_frames.method(1, spec.Basic.GetOk(7, True, "warren", "calc", 3))
    [delivery] = Receiving().feed(answer + header(2) + body(b"he")).log.deliveries
    assert (delivery.tag, delivery.redelivered, delivery.body) == (7, True, b"he")
    assert delivery.route() == (b"warren", b"calc")


def test_asking_for_a_message_is_what_pika_writes() -> None:
    assert frames.get_frame(3, b"calc.dead") == pika_frames.method(3, spec.Basic.Get(queue="calc.dead"))


def test_a_delivery_without_body_ends_with_its_header() -> None:
    [delivery] = Receiving().feed(deliver() + header(0)).log.deliveries
    assert (delivery.body, delivery.body_size) == (b"", 0)


def test_nothing_is_delivered_before_it_is_complete() -> None:
    assert Receiving().feed(deliver() + header(5) + body(b"hell")).log.deliveries == []


def test_one_delivery_follows_another() -> None:
    receiving = Receiving().feed((deliver(1) + header(2) + body(b"a") + body(b"b")) + (deliver(2) + header(0)))
    assert [(d.tag, d.body) for d in receiving.log.deliveries] == [(1, b"ab"), (2, b"")]


def test_deliveries_of_two_channels_may_interleave() -> None:
    receiving, other = Receiving(), Log()
    receiving.splitter.tap(2, other, body_limit=1000)
    receiving.feed(deliver(1), deliver(2, channel=2), header(1), header(1, channel=2))
    receiving.feed(body(b"b", channel=2), body(b"a"))
    assert [d.body for d in receiving.log.deliveries + other.deliveries] == [b"a", b"b"]


def test_a_body_larger_than_the_limit_is_thrown_away() -> None:
    receiving = Receiving(body_limit=3).feed(deliver(1) + header(4) + body(b"ab") + body(b"cd"))
    assert [(d.body, d.body_size) for d in receiving.log.deliveries] == [(None, 4)]


def test_a_body_as_large_as_the_limit_is_kept() -> None:
    receiving = Receiving(body_limit=4).feed(deliver(1) + header(4) + body(b"abcd"))
    assert [d.body for d in receiving.log.deliveries] == [b"abcd"]


def test_after_a_body_that_was_thrown_away_the_next_is_kept() -> None:
    large, small = deliver(1) + header(4) + body(b"abcd"), deliver(2) + header(1) + body(b"e")
    assert [d.body for d in Receiving(body_limit=3).feed(large + small).log.deliveries] == [None, b"e"]


def test_a_body_that_is_thrown_away_is_not_collected_first() -> None:
    megabytes = 8
    chunk = body(bytes(FRAME_MAX - frames.OVERHEAD))
    count = megabytes * 1024 * 1024 // len(chunk)
    receiving = Receiving(body_limit=1000).feed(deliver() + header(count * (FRAME_MAX - frames.OVERHEAD)))
    tracemalloc.start()
    try:
        for _ in range(count):
            receiving.splitter.feed(chunk)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [d.body for d in receiving.log.deliveries] == [None]
    assert peak < 256 * 1024


@pytest.mark.parametrize(
    ("frame", "entry"),
    [
        (pika_frames.ack(1, 7), ("confirmed", 7, False)),
        (pika_frames.ack(1, 7, multiple=True), ("confirmed", 7, True)),
        (pika_frames.nack(1, 7), ("refused", 7, False)),
        (pika_frames.nack(1, 7, multiple=True, requeue=True), ("refused", 7, True)),
        (pika_frames.nack(1, 7, requeue=True), ("refused", 7, False)),
    ],
)
def test_confirms_go_to_the_tap(frame: bytes, entry: tuple[str, int, bool]) -> None:
    assert Receiving().feed(frame).log.confirms == [entry]


# --- what is Pika's -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        pika_frames.heartbeat(),
        pika_frames.method(0, spec.Connection.Unblocked()),
        pika_frames.method(1, spec.Basic.ConsumeOk("ctag")),
        pika_frames.method(1, spec.Channel.Close(404, "NOT_FOUND", 60, 20)),
        deliver(channel=2),
        pika_frames.ack(2, 1),
    ],
)
def test_all_other_frames_are_passed_on_untouched(frame: bytes) -> None:
    assert Receiving().feed(frame).passed_on == [frame]


def come_back(head: bytes, *chunks: bytes) -> list[Delivery]:
    """What is told of a return with these property bytes."""
    size = sum(map(len, chunks))
    payload = (60).to_bytes(4, "big")[2:] + bytes(2) + size.to_bytes(8, "big") + head
    made = (
        pika_frames.method(1, spec.Basic.Return(312, "NO_ROUTE", "warren", "calc")),
        b"\x02\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce",
        *(body(chunk) for chunk in chunks),
    )
    receiving = Receiving(body_limit=1).feed(b"".join(made))
    assert receiving.passed_on == []
    assert receiving.log.deliveries == []
    return receiving.log.returns


def test_a_message_that_comes_back_is_whole_whatever_is_received_otherwise() -> None:
    (returned,) = come_back(b"\x00\x00", b"ab", b"c")
    assert frames.read_return(returned.envelope) == (b"NO_ROUTE", b"warren", b"calc")
    assert returned.body == b"abc"


@pytest.mark.parametrize("value", [b"T" + b"\xff" * 8, b"d\x3f\xe0" + bytes(6), b"b\x07", b"S\x00\x00\x00\x01\xff"])
def test_headers_that_pika_cannot_read_or_write_come_back_as_they_were(value: bytes) -> None:
    table = b"\x01a" + value
    head = encode_properties(Properties(table=table))
    assert [returned.properties for returned in come_back(head)] == [head]


@pytest.mark.parametrize(
    "envelope", [b"", b"\x01\x38", b"\x01\x38\x00\x00", b"\x01\x38\x00\x00\x05a", b"\x01\x38\x00\x00\x00\x00"]
)
def test_a_return_that_does_not_add_up_is_no_amqp(envelope: bytes) -> None:
    with pytest.raises(FrameError, match="return"):
        frames.read_return(envelope)


def test_frames_are_passed_on_one_at_a_time_however_they_came() -> None:
    beat = pika_frames.heartbeat()
    assert Receiving().feed(beat + beat[:3], beat[3:]).passed_on == [beat, beat]


def test_a_channel_that_is_no_longer_tapped_is_pikas() -> None:
    receiving = Receiving()
    receiving.splitter.untap(1)
    assert receiving.feed(deliver()).passed_on == [deliver()]


def test_leaving_a_channel_that_is_not_tapped_is_no_error() -> None:
    Receiving().splitter.untap(9)


def test_a_tap_may_leave_its_channel_while_it_is_served() -> None:
    receiving = Receiving()

    class Leaving(Log):
        def delivered(self, delivery: Delivery) -> None:
            receiving.splitter.untap(1)

    receiving.splitter.tap(1, Leaving(), body_limit=0)
    one = deliver() + header(0)
    assert b"".join(receiving.feed(one + one).passed_on) == one


def test_the_splitter_tells_whether_tapped_frames_came() -> None:
    receiving = Receiving()
    assert not receiving.feed(pika_frames.heartbeat()).splitter.hot
    assert receiving.feed(pika_frames.ack(1, 1)).splitter.hot


# --- what is no AMQP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (raw_frame(1, 3, b"abcd")[:-1] + b"!", "does not end with its end mark"),
        (b"HTTP/1.1 400 Bad Request\r\n", "exceeds the limit"),
        (b"AMQP\x00\x00\x09\x01", "exceeds the limit"),
        (raw_frame(1, 1, b"\x00"), "shorter than what it should hold"),
        (raw_frame(1, 1, b"\x00\x3c\x00\x50\x00"), "shorter than what it should hold"),
        (raw_frame(1, 1, b"\x00\x3c\x00\x3c\xff"), "shorter than what it should hold"),
        (raw_frame(1, 1, b"\x00\x3c\x00\x47" + bytes(14)), "shorter than what it should hold"),
        (deliver() + raw_frame(2, 1, b"\x00\x3c"), "shorter than what it should hold"),
        (deliver() + deliver(), "a method frame stands inside"),
        (deliver() + body(b"a"), "frame type 3 stands inside"),
        (deliver() + header(1) + header(1), "frame type 2 stands inside"),
        (deliver() + raw_frame(8, 1, b""), "frame type 8 stands inside"),
        (deliver() + header(1) + body(b"ab"), "longer than its header says"),
    ],
)
def test_bytes_that_are_not_amqp_are_a_frame_error(stream: bytes, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint):
        Receiving().feed(stream)


def test_the_beginning_of_a_frame_is_no_error() -> None:
    assert Receiving().feed(deliver()[:-1]).passed_on == []


def test_a_header_that_the_broker_has_added_to_may_be_larger_than_agreed() -> None:
    [delivery] = Receiving().feed(deliver() + raw_frame(2, 1, bytes(12 + 2 * FRAME_MAX))).log.deliveries
    assert len(delivery.properties) == 2 * FRAME_MAX


def test_a_header_beyond_all_measure_is_refused() -> None:
    with pytest.raises(FrameError, match="exceeds the limit"):
        Receiving().feed(deliver() + b"\x02\x00\x01" + (4 * FRAME_MAX + 1).to_bytes(4, "big") + b"!")


def test_a_frame_larger_than_agreed_is_refused_before_it_is_collected() -> None:
    too_large = b"\x03\x00\x01" + (FRAME_MAX + 1).to_bytes(4, "big") + b"!"
    with pytest.raises(FrameError, match="4097 bytes exceeds the limit of 4088"):
        Receiving().feed(too_large)


def test_an_error_in_a_body_that_is_thrown_away_is_an_error_all_the_same() -> None:
    with pytest.raises(FrameError, match="longer than its header says"):
        Receiving(body_limit=1).feed(deliver() + header(2) + body(b"abc"))


def test_the_limit_counts_the_whole_frame() -> None:
    with pytest.raises(FrameError):
        Receiving().feed(raw_frame(3, 3, bytes(FRAME_MAX - frames.OVERHEAD + 1)))


@pytest.mark.parametrize(
    "short",
    [
        pytest.param(raw_frame(1, 1, b""), id="no method"),
        pytest.param(raw_frame(1, 1, b"\x00\x3c\x00\x50\x00"), id="ack without tag"),
        pytest.param(raw_frame(1, 1, b"\x00\x3c\x00\x3c\x09"), id="deliver without tag"),
        pytest.param(deliver() + raw_frame(2, 1, b"\x00\x3c\x00\x00"), id="header without size"),
    ],
)
def test_a_frame_shorter_than_its_fields_is_a_frame_error_whatever_follows(short: bytes) -> None:
    with pytest.raises(FrameError, match="shorter than what it should hold"):
        Receiving().feed(short + pika_frames.heartbeat() * 8)


def test_the_names_of_the_properties_are_all_of_them_but_the_headers() -> None:
    assert sorted((*frames.PROPERTY_NAMES, "headers")) == sorted(vars(spec.BasicProperties()))


@pytest.mark.parametrize("size", [2**29 + 1, 2**63])
@pytest.mark.parametrize("method", [deliver(), pika_frames.method(1, spec.Basic.Return(312, "NO_ROUTE", "", "q"))])
def test_a_body_larger_than_any_that_can_be_published_is_a_frame_error(method: bytes, size: int) -> None:
    with pytest.raises(FrameError, match="larger than what brokers take"):
        Receiving().feed(method + raw_frame(2, 1, b"\0<\0\0" + size.to_bytes(8, "big") + b"\0\0"))
