"""The stream is taken apart the same way however the network cuts it up."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pika import spec

from tests.property import strategies as some
from tests.support import pika_frames
from warren.amqp.frames import Delivery, FrameError, read_return
from warren.amqp.splitter import Splitter

TAPPED = (1, 7)
UNTAPPED = (3,)
FRAME_MAX = 131_072

Event = tuple[Any, ...]


@dataclass
class Frame:
    """One frame and what it should lead to: an event at its tap, nothing yet, or its way to Pika."""

    data: bytes
    event: Event | None = None
    for_pika: bool = False


@dataclass
class Log:
    """A tap that writes down what it gets."""

    events: list[Event] = field(default_factory=list)

    def delivered(self, d: Delivery) -> None:
        self.events.append(("delivered", d.tag, d.redelivered, d.route(), d.properties, d.body, d.body_size))

    def returned(self, d: Delivery) -> None:
        self.events.append(("returned", read_return(d.envelope), d.properties, d.body))

    def confirmed(self, tag: int, multiple: bool) -> None:
        self.events.append(("confirmed", tag, multiple))

    def refused(self, tag: int, multiple: bool) -> None:
        self.events.append(("refused", tag, multiple))


class Receiving:
    """A splitter with both channels tapped, and everything that came out of it."""

    def __init__(self, *, body_limit: int = 1 << 20) -> None:
        self.passed_on: list[bytes] = []
        self.taps = {channel: Log() for channel in TAPPED}
        self.splitter = Splitter(self.passed_on.append, FRAME_MAX, large=1)
        for channel, tap in self.taps.items():
            self.splitter.tap(channel, tap, body_limit=body_limit)

    def feed(self, chunks: Sequence[bytes]) -> Receiving:
        for chunk in chunks:
            self.splitter.feed(chunk)
        return self

    def read(self, chunks: Sequence[bytes]) -> Receiving:
        """The same by way of the places of what is not whole."""
        for chunk in chunks:
            read(self.splitter, chunk)
        return self

    @property
    def output(self) -> tuple[list[bytes], list[list[Event]]]:
        return self.passed_on, [tap.events for tap in self.taps.values()]


def read(splitter: Splitter, chunk: bytes) -> None:
    """What a connection does with bytes that have come: it puts them to their places, and feeds what has none."""
    while chunk and (places := splitter.places()):
        count, chunk = spread(places, chunk)
        splitter.placed(places, count)
    if chunk:
        splitter.feed(chunk)


def spread(places: list[memoryview], chunk: bytes) -> tuple[int, bytes]:
    """Fill places as ``readv(2)`` does; returns how many bytes went there, and the rest."""
    whole = len(chunk)
    for place in places:
        part, chunk = chunk[: len(place)], chunk[len(place) :]
        place[: len(part)] = part
    return whole - len(chunk), chunk


# --- streams ------------------------------------------------------------------------------------------------------

redelivery = st.booleans()
# One entry a frame: of any size, and the last not empty, or of one size with a smaller one at the end, as servers write
# them.
bodies = st.one_of(
    st.builds(
        lambda parts, last: [*parts, last] if last else [],
        st.lists(st.binary(max_size=40), max_size=2),
        st.binary(max_size=40),
    ),
    st.builds(
        lambda whole, size: [whole[at : at + size] for at in range(0, len(whole), size)],
        st.binary(max_size=60),
        st.integers(9, 20),
    ),
)


@st.composite
def deliveries(draw: st.DrawFn, channel: int, tapped: bool) -> list[Frame]:
    tag, again, chunks = draw(some.tags), draw(redelivery), draw(bodies)
    exchange, key = draw(some.short), draw(some.short)
    props = spec.BasicProperties(**draw(some.property_sets))
    payload = b"".join(chunks)
    method = (
        spec.Basic.Deliver(draw(some.short), tag, again, exchange, key)
        if draw(st.booleans())
        else spec.Basic.GetOk(tag, again, exchange, key, draw(st.integers(0, 2**32 - 1)))
    )
    made = [
        pika_frames.method(channel, method),
        pika_frames.header(channel, len(payload), props),
        *(pika_frames.body(channel, chunk) for chunk in chunks),
    ]
    if not tapped:
        return [Frame(data, for_pika=True) for data in made]
    properties = pika_frames.properties(props)
    event = (
        "delivered",
        tag,
        again,
        (exchange.encode(), key.encode()),
        properties,
        payload,
        len(payload),
    )
    return [Frame(data) for data in made[:-1]] + [Frame(made[-1], event)]


@st.composite
def confirms(draw: st.DrawFn, channel: int, tapped: bool) -> list[Frame]:
    tag, multiple = draw(some.tags), draw(st.booleans())
    if draw(st.booleans()):
        return [_hot(pika_frames.ack(channel, tag, multiple=multiple), ("confirmed", tag, multiple), tapped)]
    data = pika_frames.nack(channel, tag, multiple=multiple, requeue=draw(st.booleans()))
    return [_hot(data, ("refused", tag, multiple), tapped)]


def _hot(data: bytes, event: Event, tapped: bool) -> Frame:
    return Frame(data, event) if tapped else Frame(data, for_pika=True)


@st.composite
def returns(draw: st.DrawFn, channel: int, tapped: bool) -> list[Frame]:
    chunks, exchange, key = draw(bodies), draw(some.short), draw(some.short)
    props = spec.BasicProperties(**draw(some.property_sets))
    made = [
        pika_frames.method(channel, spec.Basic.Return(312, "NO_ROUTE", exchange, key)),
        pika_frames.header(channel, sum(map(len, chunks)), props),
        *(pika_frames.body(channel, chunk) for chunk in chunks),
    ]
    if not tapped:
        return [Frame(data, for_pika=True) for data in made]
    told = (b"NO_ROUTE", exchange.encode(), key.encode())
    event = ("returned", told, pika_frames.properties(props), b"".join(chunks))
    return [Frame(data) for data in made[:-1]] + [Frame(made[-1], event)]


PIKA_ONLY = (
    spec.Basic.QosOk(),
    spec.Basic.ConsumeOk("ctag"),
    spec.Basic.CancelOk("ctag"),
    spec.Basic.Cancel("ctag"),
    spec.Confirm.SelectOk(),
    spec.Queue.DeclareOk("q", 1, 2),
    spec.Channel.OpenOk(),
    spec.Channel.Close(404, "NOT_FOUND", 60, 20),
)


def on_channel(channel: int, tapped: bool) -> st.SearchStrategy[list[Frame]]:
    """All frames of one channel, in order."""
    methods = st.sampled_from(PIKA_ONLY).map(lambda m: [Frame(pika_frames.method(channel, m), for_pika=True)])
    event = st.one_of(deliveries(channel, tapped), confirms(channel, tapped), returns(channel, tapped), methods)
    return st.lists(event, max_size=4).map(lambda parts: list(itertools.chain.from_iterable(parts)))


on_channel_zero = st.lists(
    st.sampled_from(
        [
            pika_frames.heartbeat(),
            pika_frames.method(0, spec.Connection.Blocked("low on memory")),
            pika_frames.method(0, spec.Connection.Unblocked()),
            pika_frames.method(0, spec.Connection.Close(320, "CONNECTION_FORCED", 0, 0)),
        ]
    ),
    max_size=3,
).map(lambda made: [Frame(data, for_pika=True) for data in made])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, tuple[list[bytes], list[list[Event]]]]:
    """A stream in which the channels' frames are mixed, and what must come out of it."""
    queues = {channel: draw(on_channel(channel, True)) for channel in TAPPED}
    queues |= {channel: draw(on_channel(channel, False)) for channel in UNTAPPED}
    queues[0] = draw(on_channel_zero)
    turns = [channel for channel, frames in queues.items() for _ in frames]
    order = draw(st.permutations(turns)) if turns else []
    mixed = [(channel, queues[channel].pop(0)) for channel in order]
    passed_on = [frame.data for _, frame in mixed if frame.for_pika]
    events = [[f.event for c, f in mixed if c == tapped and f.event is not None] for tapped in TAPPED]
    return b"".join(frame.data for _, frame in mixed), (passed_on, events)


@st.composite
def cuts(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The stream in pieces."""
    marks = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in itertools.pairwise([0, *marks, len(stream)])]


def one_by_one(stream: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in stream]


@given(streams(), st.data())
def test_the_output_does_not_depend_on_how_the_stream_was_cut(
    stream_and_output: tuple[bytes, tuple[list[bytes], list[list[Event]]]], data: st.DataObject
) -> None:
    stream, expected = stream_and_output
    chunks = data.draw(cuts(stream), label="chunks")
    assert Receiving().feed(chunks).output == expected
    assert Receiving().read(chunks).output == expected


@given(streams())
def test_one_byte_at_a_time_gives_what_the_whole_gives(
    stream_and_output: tuple[bytes, tuple[list[bytes], list[list[Event]]]],
) -> None:
    stream, expected = stream_and_output
    assert Receiving().feed(one_by_one(stream)).output == expected
    assert Receiving().read(one_by_one(stream)).output == expected


@given(st.lists(st.sampled_from([b"", b"some", b"of it"]), max_size=3), st.data())
def test_frames_without_a_part_of_the_body_change_nothing(parts: list[bytes], data: st.DataObject) -> None:
    body = b"".join([*parts, b"end"])
    made = [
        pika_frames.method(1, spec.Basic.Deliver("", 1, False, "", "")),
        pika_frames.header(1, len(body), spec.BasicProperties()),
        *(pika_frames.body(1, part) for part in [*parts, b"end"]),
    ]
    for receiving in (Receiving().feed([b"".join(made)]), Receiving().read(data.draw(cuts(b"".join(made))))):
        [event] = receiving.taps[1].events
        assert event[5] == body


@given(streams())
def test_the_whole_stream_at_once_gives_every_frame_its_place(
    stream_and_output: tuple[bytes, tuple[list[bytes], list[list[Event]]]],
) -> None:
    stream, expected = stream_and_output
    assert Receiving().feed([stream]).output == expected


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), st.integers(0, 60), st.data())
def test_a_body_is_kept_exactly_when_it_is_within_the_limit(
    chunks: list[bytes], limit: int, data: st.DataObject
) -> None:
    payload = b"".join(chunks)
    stream = pika_frames.method(1, spec.Basic.Deliver("c", 1, False, "", "q"))
    stream += pika_frames.header(1, len(payload), spec.BasicProperties())
    stream += b"".join(pika_frames.body(1, chunk) for chunk in chunks)
    pieces = data.draw(cuts(stream))
    kept = payload if len(payload) <= limit else None
    for receiving in (Receiving(body_limit=limit).feed(pieces), Receiving(body_limit=limit).read(pieces)):
        assert [event[-2:] for event in receiving.taps[1].events] == [(kept, len(payload))]


# --- garbage ------------------------------------------------------------------------------------------------------


def _frame(kind: int, channel: int, payload: bytes, end: int) -> bytes:
    return bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + bytes((end,))


almost_frames = st.builds(
    _frame,
    st.sampled_from([0, 1, 2, 3, 4, 8, 255]),
    st.sampled_from([0, 1, 3, 7]),
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda m, rest: m + rest,
            st.sampled_from([b"\0<\0<", b"\0<\0002", b"\0<\0G", b"\0<\0P", b"\0<\0x"]),
            st.binary(max_size=24),
        ),
    ),
    st.sampled_from([0xCE, 0xCE, 0xCE, 0xCE, 0xCE, 0]),
)
garbage = st.one_of(st.binary(max_size=200), st.lists(almost_frames, max_size=5).map(b"".join))


@given(garbage, st.data())
def test_garbage_raises_frame_error_or_waits_for_more(stream: bytes, data: st.DataObject) -> None:
    chunks = data.draw(cuts(stream), label="chunks")
    for take in (Splitter.feed, read):
        splitter = Splitter(lambda _frame: None, FRAME_MAX, large=1)
        splitter.tap(1, Counter(), body_limit=100)
        splitter.tap(7, Counter(), body_limit=100)
        with contextlib.suppress(FrameError):
            for chunk in chunks:
                take(splitter, chunk)


class Counter:
    """A tap that does not look at what it gets."""

    count = 0

    def delivered(self, _delivery: Delivery) -> None:
        self.count += 1

    def returned(self, _delivery: Delivery) -> None:
        self.count += 1

    def confirmed(self, _tag: int, _multiple: bool) -> None:
        self.count += 1

    def refused(self, _tag: int, _multiple: bool) -> None:
        self.count += 1


def _outcome(
    chunks: Iterator[bytes] | Sequence[bytes], take: Callable[[Splitter, bytes], None] = Splitter.feed
) -> tuple[list[bytes], int, bool]:
    passed_on: list[bytes] = []
    counter = Counter()
    splitter = Splitter(passed_on.append, FRAME_MAX, large=1)
    splitter.tap(1, counter, body_limit=100)
    try:
        for chunk in chunks:
            take(splitter, chunk)
    except FrameError:
        return passed_on, counter.count, True
    return passed_on, counter.count, False


@given(st.lists(almost_frames, max_size=4).map(b"".join), st.data())
def test_what_becomes_of_garbage_does_not_depend_on_how_it_was_cut(stream: bytes, data: st.DataObject) -> None:
    expected = _outcome([stream])
    assert _outcome(one_by_one(stream)) == _outcome(one_by_one(stream), read) == expected
    assert _outcome(data.draw(cuts(stream)), read) == expected
