"""The stream between asyncio's transport and Pika: a transport and a protocol of our own stand in for both."""

import asyncio
from typing import Any

import pytest

from warren.amqp.frames import HEARTBEAT_FRAME, Delivery, ack_frame, content_frames
from warren.connection.output import HIGH_WATER
from warren.connection.stream import Stream

OTHER = ack_frame(9, 1, multiple=False)  # a frame of a channel that nobody tapped


class Transport(asyncio.Transport):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False
        self.buffered = 0

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Pika:
    """What Pika is to the stream."""

    def __init__(self, error: Exception | None = None) -> None:
        self.received: list[bytes] = []
        self.lost: list[BaseException | None] = []
        self.made = 0
        self._error = error

    def connection_made(self, _transport: object) -> None:
        self.made += 1

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        if self._error is not None:
            raise self._error


class Tap:
    """Takes the hot frames of a channel."""

    def __init__(self) -> None:
        self.bodies: list[bytes | None] = []

    def delivered(self, delivery: Delivery) -> None:
        self.bodies.append(delivery.body)

    def returned(self, delivery: Delivery) -> None:
        raise AssertionError

    def confirmed(self, tag: int, multiple: bool) -> None:
        raise AssertionError

    def refused(self, tag: int, multiple: bool) -> None:
        raise AssertionError


class Both:
    """A stream with something on either side."""

    def __init__(self, pika: Pika | None = None) -> None:
        self.transport, self.pika = Transport(), pika or Pika()
        self.stream = Stream(asyncio.get_running_loop(), 131_072)
        self.stream.attach(self.pika)
        self.stream.connection_made(self.transport)


@pytest.fixture
async def both() -> Any:
    both = Both()
    yield both
    both.stream.connection_lost(None)


def receive(stream: Stream, data: bytes) -> None:
    """What the event loop does when bytes arrive."""
    stream.get_buffer(-1)[: len(data)] = data
    stream.buffer_updated(len(data))


async def turn() -> None:
    """Let the loop do what it was asked to do soon."""
    await asyncio.sleep(0)


async def test_pika_hears_of_the_connection_in_the_same_turn(both: Both) -> None:
    assert both.pika.made == 1


async def test_a_connection_that_is_made_after_it_was_given_up_is_dropped() -> None:
    stream, transport, pika = Stream(asyncio.get_running_loop(), 131_072), Transport(), Pika()
    stream.attach(pika)
    stream.detach()
    stream.connection_made(transport)
    assert transport.aborted
    assert pika.made == 0


async def test_all_that_is_written_in_one_turn_leaves_in_one_write(both: Both) -> None:
    both.stream.write(b"one")
    both.stream.write(b"two")
    assert both.transport.writes == []
    await turn()
    both.stream.write(b"three")
    await turn()
    assert both.transport.writes == [b"onetwo", b"three"]


async def test_producers_add_their_frames_last_and_only_when_asked(both: Both) -> None:
    both.stream.before_flush(lambda: both.stream.write(b"acks"))
    both.stream.write(b"reply ")
    await turn()
    assert both.transport.writes == [b"reply acks"]


async def test_a_producer_alone_can_ask_for_a_flush_and_be_forgotten(both: Both) -> None:
    def produce() -> None:
        both.stream.write(b"acks")

    both.stream.before_flush(produce)
    both.stream.flush_soon()
    await turn()
    both.stream.forget(produce)
    both.stream.forget(produce)
    both.stream.flush_soon()
    await turn()
    assert both.transport.writes == [b"acks"]


async def test_frames_that_nobody_tapped_go_to_pika_untouched(both: Both) -> None:
    receive(both.stream, OTHER + HEARTBEAT_FRAME)
    assert both.pika.received == [OTHER, HEARTBEAT_FRAME]


async def test_bytes_that_are_no_frames_end_the_connection_with_the_reason(both: Both) -> None:
    receive(both.stream, OTHER)
    receive(both.stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert both.transport.aborted
    both.stream.connection_lost(None)
    assert "exceeds the limit" in str(both.pika.lost[0])


async def test_a_peer_of_another_protocol_is_known_by_what_it_sends_first(both: Both) -> None:
    receive(both.stream, b"HTT")
    assert not both.transport.aborted
    receive(both.stream, b"P/1.1 400 Bad Request\r\n\r\n")
    assert both.transport.aborted
    both.stream.connection_lost(None)
    assert "it speaks HTTP" in str(both.pika.lost[0])


async def test_a_peer_that_ends_within_its_first_bytes_is_known_by_them(both: Both) -> None:
    receive(both.stream, b"\x15\x03\x01\x00\x02\x02\n")
    both.stream.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    assert "speaks TLS" in str(both.pika.lost[0])


async def test_frames_may_come_in_pieces_from_the_first_on(both: Both) -> None:
    receive(both.stream, OTHER[:3])
    receive(both.stream, OTHER[3:])
    assert both.pika.received == [OTHER]
    both.stream.connection_lost(None)
    assert both.pika.lost == [None]


async def test_an_error_in_pikas_callbacks_ends_the_connection_and_not_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    both = Both(Pika(error=ZeroDivisionError("a bug")))
    receive(both.stream, OTHER)
    assert both.transport.aborted
    assert "error while reading" in caplog.text
    both.stream.connection_lost(None)
    assert isinstance(both.pika.lost[0], ZeroDivisionError)


async def test_back_pressure_follows_the_transport_and_its_end_is_told(both: Both) -> None:
    relieved: list[bool] = []
    both.stream.on_relieved = lambda: relieved.append(True)
    both.transport.buffered = HIGH_WATER + 1
    both.stream.write(b"x")
    await turn()
    assert both.stream.congested
    both.transport.buffered = 0
    both.stream.resume_writing()
    assert not both.stream.congested
    assert relieved == [True]


async def test_who_writes_a_lot_in_one_turn_hears_of_congestion_in_that_turn(both: Both) -> None:
    both.stream.before_flush(lambda: both.stream.write(b"acks"))
    both.stream.write(b"x" * HIGH_WATER)
    assert both.transport.writes == []
    both.stream.write(b"x")
    assert both.transport.writes == [b"x" * (HIGH_WATER + 1) + b"acks"]


async def test_the_buffer_size_counts_what_is_not_flushed_yet(both: Both) -> None:
    both.transport.buffered = 5
    both.stream.write(b"123")
    assert both.stream.get_write_buffer_size() == 8
    assert both.stream.get_protocol() is both.pika


async def test_nothing_is_written_after_the_connection_is_lost(both: Both) -> None:
    both.stream.write(b"late")
    both.stream.connection_lost(ConnectionResetError())
    await turn()
    both.stream.abort()
    assert both.transport.writes == []
    assert not both.stream.beat()


async def test_a_heartbeat_from_outside_is_not_put_into_a_half_sent_frame(both: Both) -> None:
    both.transport.buffered = 1
    assert not both.stream.beat()


async def test_pika_is_shown_a_heartbeat_while_only_hot_frames_arrive(both: Both) -> None:
    tap = Tap()
    both.stream.splitter.tap(3, tap, body_limit=100)
    envelope = b"\x01c" + (1).to_bytes(8, "big") + b"\x00\x00\x00"
    payload = (60 << 16 | 60).to_bytes(4, "big") + envelope
    frame = b"\x01\x00\x03" + len(payload).to_bytes(4, "big") + payload + b"\xce"
    receive(both.stream, frame + b"".join(content_frames(3, b"\x00\x00", b"body", 131_072)))
    assert tap.bodies == [b"body"]
    assert both.pika.received == []
    both.stream._tick()
    assert both.pika.received == [HEARTBEAT_FRAME]
    both.stream._tick()
    assert both.pika.received == [HEARTBEAT_FRAME]  # silence is not hidden from Pika
