"""The tools of the fault tests do what they say."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from pika import frame, spec

from rabbit import Node
from tests.support.proxy import HOST, FrameReader, Line, Proxy
from tests.support.scenarios import table
from tests.support.waiting import until

PUBLISH = bytes(frame.Method(1, spec.Basic.Publish(exchange="e", routing_key="k")).marshal())
BODY = bytes(frame.Body(1, b"x" * 300).marshal())


# --- pure parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_frames_are_named_and_come_out_whole_however_they_arrive(step: int) -> None:
    stream = b"AMQP\x00\x00\x09\x01" + PUBLISH + BODY + bytes(frame.Heartbeat().marshal())
    reader = FrameReader()
    found = [one for start in range(0, len(stream), step) for one in reader.feed(stream[start : start + step])]
    assert [name for name, _ in found] == ["Protocol", "Basic.Publish", "Body", "Heartbeat"]
    assert b"".join(data for _, data in found) == stream


def test_bytes_that_are_no_frames_pass_as_they_are() -> None:
    assert list(FrameReader().feed(b"HTTP/1.1 400 Bad Request")) == [("?", b"HTTP/1.1 400 Bad Request")]


def make_line() -> Line:
    return Line(lambda: None)


def test_a_line_flips_one_bit_of_one_byte() -> None:
    line = make_line()
    line.corrupt(4)
    assert [line.spoil(b"abc"), line.spoil(b"abc"), line.spoil(b"abc")] == [b"abc", b"arc", b"abc"]
    assert line.corrupted


def test_a_line_cuts_after_so_many_bytes() -> None:
    line = make_line()
    line.cut_after(4, "fin")
    assert [line.cut(b"abc"), line.cut(b"abc"), line.cut(b"abc")] == [(b"abc", None), (b"a", "fin"), (b"abc", None)]


def test_the_table_has_a_row_for_each_scenario_in_order() -> None:
    second, first = (12, "late", "b.py::t"), (2, "early", "a.py::t")
    assert table(Counter([second, first, first])).splitlines()[-2:] == [
        "| 2 | early | `a.py::t` | 2 |",
        "| 12 | late | `b.py::t` | 1 |",
    ]


def test_a_node_that_does_not_take_a_connection_in_time_is_asked_again(
    rabbit: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rabbit._shared, "cookie", "another")
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(rabbit.eval, "1 + 1")
            assert wait([answer], 1).not_done
            patch.undo()
            assert answer.result(60) == "2"


# --- on sockets ---------------------------------------------------------------------------------------------------


class Peer:
    """A connection through a proxy to a server that sends everything back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echoes(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))

    async def is_silent(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), 0.1)
        except TimeoutError:
            return True
        return False


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture
async def echo_proxy(echo_port: int) -> AsyncIterator[Proxy]:
    with Proxy(echo_port) as proxy:
        yield proxy


@pytest.fixture
async def peer(echo_proxy: Proxy) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection(HOST, echo_proxy.port)
    peer = Peer(reader, writer)
    assert await peer.echoes(PUBLISH) == PUBLISH
    yield peer
    writer.transport.abort()
    await asyncio.sleep(0)


async def test_the_proxy_counts_what_passes(echo_proxy: Proxy, peer: Peer) -> None:
    assert (echo_proxy.seen["up", "Basic.Publish"], echo_proxy.seen["down", "Basic.Publish"]) == (1, 1)
    assert (len(echo_proxy.accepted), echo_proxy.open) == (1, 1)


async def test_cutting_with_a_reset(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.cut("rst")
    with pytest.raises(ConnectionResetError):
        await peer.reader.read(1)


async def test_cutting_with_a_fin(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.cut("fin")
    assert await peer.reader.read(1) == b""
    await until(lambda: echo_proxy.open == 0)


async def test_refusing_and_accepting_again_on_the_same_port(echo_proxy: Proxy) -> None:
    port = echo_proxy.port
    echo_proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)
    echo_proxy.accept()
    reader, writer = await asyncio.open_connection(HOST, port)
    assert await Peer(reader, writer).echoes(BODY) == BODY
    writer.transport.abort()


async def test_resetting_new_connections(echo_proxy: Proxy) -> None:
    echo_proxy.reset_new()
    await is_reset(echo_proxy.port)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_silent_line_holds_bytes_back_until_it_heals(echo_proxy: Proxy, peer: Peer, way: str) -> None:
    echo_proxy.line("up" if way == "up" else "down").silent = True
    peer.writer.write(PUBLISH)
    assert await peer.is_silent()
    echo_proxy.heal()
    assert await peer.reader.readexactly(len(PUBLISH)) == PUBLISH


async def test_abandoned_connections_are_silent_and_new_ones_are_not(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.abandon("up", "down")
    peer.writer.write(PUBLISH)
    assert await peer.is_silent()
    reader, writer = await asyncio.open_connection(HOST, echo_proxy.port)
    assert await Peer(reader, writer).echoes(BODY) == BODY
    writer.transport.abort()


async def test_a_half_open_connection_is_gone_at_one_end_only(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.half_open()
    assert await peer.is_silent()
    assert echo_proxy.open == 1


async def test_cutting_at_the_nth_frame_of_a_kind(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.cut_at("up", "Body", nth=2)
    assert await peer.echoes(PUBLISH + BODY) == PUBLISH + BODY
    peer.writer.write(BODY)
    with pytest.raises(ConnectionResetError):
        await peer.reader.read(1)


async def test_dropping_frames_of_a_kind(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.drop("down", "Body")
    peer.writer.write(PUBLISH + BODY + PUBLISH)
    assert await peer.reader.readexactly(2 * len(PUBLISH)) == PUBLISH + PUBLISH


async def test_abandoning_the_way_back_at_a_frame(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.abandon_at("up", "Body", "down")
    peer.writer.write(BODY)
    await until(lambda: echo_proxy.seen["up", "Body"])
    assert await peer.is_silent()


async def test_cutting_in_the_middle_of_a_frame(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.up.cut_after(20, "fin")
    peer.writer.write(BODY)
    assert await peer.reader.read(1) == b""
    await until(lambda: echo_proxy.open == 0)


async def test_slices_a_rate_and_a_delay_change_nothing_but_the_time(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.up.slice = 1
    echo_proxy.down.rate = 100_000
    echo_proxy.down.delay = 0.05
    assert await peer.echoes(BODY) == BODY


async def test_a_flipped_bit_arrives(echo_proxy: Proxy, peer: Peer) -> None:
    echo_proxy.up.corrupt(10)
    peer.writer.write(BODY)
    assert await peer.reader.readexactly(len(BODY)) == BODY[:10] + b"h" + BODY[11:]


async def test_a_proxy_without_a_broker_resets(unused_port: int) -> None:
    with Proxy(unused_port) as proxy:
        await is_reset(proxy.port)


async def is_reset(port: int) -> None:
    """A connection is reset at once: while it is made, or when it is read from."""

    async def meet_it() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            await reader.read(1)
        finally:
            writer.transport.abort()

    with pytest.raises(ConnectionResetError):
        await meet_it()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])
