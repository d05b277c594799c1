"""What a connection sends and receives past its transport, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import uvloop
from tests.support import pika_frames
from tests.support.waiting import until

from warren.amqp.frames import Delivery, content_frames
from warren.amqp.splitter import LARGE
from warren.connection.output import HIGH_WATER
from warren.connection.stream import Stream

FRAME_MAX = 16 * 1024
MIB = 1024 * 1024


class Pika:
    """What Pika is to the stream."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: list[BaseException | None] = []

    def connection_made(self, _transport: object) -> None:
        pass

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        self.received.append(data)


class Peer:
    """The other end of the socket: it reads when it is told to, with little room in its system."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.got = bytearray()

    async def read(self, count: int) -> bytes:
        """So many more bytes, in portions of any size."""
        loop, rng, wanted = asyncio.get_running_loop(), random.Random(count), len(self.got) + count
        while len(self.got) < wanted:
            self.got += await loop.sock_recv(self._sock, min(wanted - len(self.got), rng.randint(1, 100_000)))
        return bytes(self.got[-count:])

    def read_at_once(self) -> None:
        """All that has come."""
        with contextlib.suppress(BlockingIOError):
            while some := self._sock.recv(100_000):
                self.got += some

    async def read_to_the_end(self) -> None:
        """All that still comes."""
        with contextlib.suppress(ConnectionError):
            while some := await asyncio.get_running_loop().sock_recv(self._sock, 100_000):
                self.got += some

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)


class Tap:
    """Takes the deliveries of a channel."""

    def __init__(self) -> None:
        self.bodies: list[bytes | None] = []

    def delivered(self, delivery: Delivery) -> None:
        self.bodies.append(delivery.body)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Stream, Peer, Pika]]:
    async with paired() as (stream, peer, pika):
        yield stream, peer, pika


@contextlib.asynccontextmanager
async def paired() -> AsyncIterator[tuple[Stream, Peer, Pika]]:
    ours, theirs = socket.socketpair()
    with theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        loop, pika = asyncio.get_running_loop(), Pika()
        stream = Stream(loop, FRAME_MAX)
        stream.attach(pika)
        transport, _ = await loop.connect_accepted_socket(lambda: stream, ours)
        stream._take = stream.splitter.feed  # greeted already
        assert stream._tick_timer is not None
        stream._tick_timer.cancel()  # it would show Pika heartbeats of its own
        yield stream, Peer(theirs), pika
        transport.abort()
        await until(lambda: pika.lost)


def pieces(rng: random.Random) -> Iterator[list[bytes | memoryview]]:
    """What may be written in one turn: little, much that is small, large, and both."""
    while True:
        yield rng.choice(
            [
                [rng.randbytes(10)],
                [rng.randbytes(rng.randint(1, 20)) for _ in range(8000)],
                content_frames(1, rng.randbytes(50), rng.randbytes(rng.randint(100_000, 400_000)), FRAME_MAX),
                [rng.randbytes(100_000), rng.randbytes(3), memoryview(rng.randbytes(200_000)), rng.randbytes(1)],
            ]
        )


@pytest.mark.parametrize("seed", range(5))
async def test_all_that_is_written_arrives_in_its_order_however_slow_the_peer_is(
    pair: tuple[Stream, Peer, Pika], seed: int
) -> None:
    stream, peer, _ = pair
    rng, written, made = random.Random(seed), bytearray(), pieces(random.Random(seed))
    for _ in range(30):
        some = next(made)
        stream.write_pieces(some)
        written += b"".join(some)
        if rng.random() < 0.7:
            await asyncio.sleep(0)
        if rng.random() < 0.5:
            await peer.read(rng.randint(1, max(1, len(written) - len(peer.got) - stream.get_write_buffer_size())))
    await peer.read(len(written) - len(peer.got))
    assert peer.got == written
    assert stream.get_write_buffer_size() == 0
    assert stream.beat()


@pytest.mark.parametrize("size", [100, 300_000], ids=["small", "large"])
async def test_publishers_wait_while_much_waits_and_hear_when_it_does_not(
    pair: tuple[Stream, Peer, Pika], size: int
) -> None:
    stream, peer, _ = pair
    relieved: list[int] = []
    stream.on_relieved = lambda: relieved.append(stream.get_write_buffer_size())
    written = 0
    while not stream.congested:
        assert written < 2 * HIGH_WATER
        for _ in range(max(1, 50_000 // size)):
            stream.write(b"x" * size)
            written += size
        await asyncio.sleep(0)
    assert not stream.beat()  # it would be within a frame
    await peer.read(written // 2)
    assert stream.congested
    await peer.read(written - written // 2)
    await until(lambda: not stream.congested)
    assert len(relieved) == 1
    assert relieved[0] <= HIGH_WATER // 4


async def test_what_waits_is_dropped_with_the_connection(pair: tuple[Stream, Peer, Pika]) -> None:
    stream, _peer, pika = pair
    stream.write(b"x" * 4 * MIB)
    assert stream.get_write_buffer_size() > MIB
    stream.abort()
    await until(lambda: pika.lost)
    assert stream.get_write_buffer_size() == 0
    stream.write(b"late")
    await asyncio.sleep(0)


async def test_nothing_follows_a_frame_of_which_the_transport_drops_a_part(pair: tuple[Stream, Peer, Pika]) -> None:
    stream, peer, pika = pair
    written = random.Random(1).randbytes(4 * MIB)
    stream.write(written)
    stream.abort()
    peer.read_at_once()  # there is room again, and the connection is not lost yet
    stream.write(bytes(1000))
    stream.flush()
    await until(lambda: pika.lost)
    await peer.read_to_the_end()
    assert written.startswith(peer.got)


@pytest.mark.parametrize("early", [True, False], ids=["at_once", "later"])
async def test_output_that_cannot_be_handed_on_ends_the_connection(
    pair: tuple[Stream, Peer, Pika], monkeypatch: Any, early: bool
) -> None:
    stream, peer, pika = pair

    def fails(_fd: object, _pieces: object) -> int:
        raise MemoryError

    if not early:
        stream.write(b"x" * MIB)
        stream.flush()
    monkeypatch.setattr("warren.connection.output._write_now", fails)
    stream.write(b"x" * MIB)
    if not early:
        await peer.read_to_the_end()
    await until(lambda: pika.lost)
    assert isinstance(pika.lost[0], MemoryError)


async def test_a_body_that_there_is_no_room_for_ends_the_connection(
    pair: tuple[Stream, Peer, Pika], monkeypatch: Any
) -> None:
    _stream, peer, pika = pair

    def fails(_splitter: object) -> list[memoryview]:
        raise MemoryError

    monkeypatch.setattr("warren.amqp.splitter.Splitter.places", fails)
    await peer.send(b"x")
    await until(lambda: pika.lost)
    assert [type(error) for error in pika.lost] == [MemoryError]


async def test_empty_pieces_hold_nothing_up(pair: tuple[Stream, Peer, Pika]) -> None:
    stream, peer, _ = pair
    stream.write_pieces([b"", b"x" * MIB, b"", b"y" * MIB, b""])
    assert await peer.read(2 * MIB) == b"x" * MIB + b"y" * MIB
    await until(lambda: not stream.get_write_buffer_size())


async def test_what_writes_late_and_fails_each_time_ends_the_connection_once(pair: tuple[Stream, Peer, Pika]) -> None:
    stream, _peer, pika = pair

    def fails() -> None:
        raise ZeroDivisionError

    stream.before_flush(fails)
    stream.flush_soon()
    await until(lambda: pika.lost)
    assert [type(error) for error in pika.lost] == [ZeroDivisionError]


def message(body: bytes, frame: int = FRAME_MAX - 8, channel: int = 1) -> list[bytes]:
    """A delivery's frames."""
    from pika import spec

    return [
        pika_frames.method(channel, spec.Basic.Deliver("ctag", 1, False, "", "q")),
        pika_frames.header(channel, len(body), spec.BasicProperties()),
        *(pika_frames.body(channel, body[at : at + frame]) for at in range(0, len(body), frame)),
    ]


@pytest.mark.parametrize("frame", [FRAME_MAX - 8, 5000, 100])
@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "mixed"])
async def test_large_bodies_are_put_together_from_what_comes(
    pair: tuple[Stream, Peer, Pika], frame: int, mixed: bool
) -> None:
    stream, peer, pika = pair
    one, other = Tap(), Tap()
    stream.splitter.tap(1, one, body_limit=4 * MIB)  # type: ignore[arg-type]  # it gets deliveries only
    stream.splitter.tap(2, other, body_limit=4 * MIB)  # type: ignore[arg-type]
    rng = random.Random(frame)
    large, second = rng.randbytes(MIB + 3), rng.randbytes(3 * LARGE)
    frames, others = message(large, frame), message(second, 3000, channel=2)
    if mixed:  # frames of different channels may come in any order [AMQP 0-9-1, 4.2.6]
        places = sorted(rng.sample(range(len(frames)), len(others)))
        for at, between in zip(places, others, strict=True):
            frames.insert(at, between)
        frames.insert(len(frames) // 2, pika_frames.heartbeat())
    for _ in range(3):
        await peer.send(b"".join(frames))
    await until(lambda: len(one.bodies) == 3)
    assert one.bodies == [large] * 3
    assert other.bodies == ([second] * 3 if mixed else [])
    assert pika.received == ([pika_frames.heartbeat()] * 3 if mixed else [])


def damaged(rest: bytes) -> bytes:
    """Much of a large body, and the end of a frame of it that is none."""
    frames = message(bytes(MIB))
    frames[30] = frames[30][:-1] + rest
    return b"".join(frames) * 2


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("rest", "told"),
    [(b"\0", "does not end with its end mark"), (b"\xce\xff\0\0\xff\xff\xff\xff", "exceeds the limit")],
    ids=["end", "head"],
)
def test_a_damaged_frame_within_a_large_body_ends_the_connection_once(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], rest: bytes, told: str, caplog: Any
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(is_ended_once(damaged(rest), told))
    assert caplog.text == ""


async def is_ended_once(data: bytes, told: str) -> None:
    async with paired() as (stream, peer, pika):
        tap = Tap()
        stream.splitter.tap(1, tap, body_limit=4 * MIB)  # type: ignore[arg-type]
        with pytest.raises(OSError):
            await peer.send(data)
        await until(lambda: pika.lost)
        assert len(pika.lost) == 1
        assert told in str(pika.lost)
        assert tap.bodies == []
