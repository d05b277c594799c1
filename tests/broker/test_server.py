"""The embedded broker on sockets, with Pika and with plain sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pika
import pytest
from pika import exceptions, spec
from pika.adapters.asyncio_connection import AsyncioConnection

from tests.support.raw import raw_channel
from tests.support.sessions import HEADER, method, publish
from tests.support.tls import make_certificates
from tests.support.waiting import until
from warren.broker import Broker
from warren.broker.command import fetch_status
from warren.broker.session import Session

PATIENCE = 20.0


@contextmanager
def plain_socket(broker: Broker) -> Iterator[socket.socket]:
    """A connection with a channel, spoken to in bytes."""
    with socket.create_connection(("127.0.0.1", broker.port), PATIENCE) as sock:
        shake_hands(sock)
        yield sock


def shake_hands(sock: socket.socket) -> None:
    """Log in and open channel 1."""
    login = spec.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US")
    sock.sendall(HEADER + method(0, login) + method(0, spec.Connection.TuneOk(10, 131072, 0)))
    sock.sendall(method(0, spec.Connection.Open("/")) + method(1, spec.Channel.Open()))
    data = b""
    while method(1, spec.Channel.OpenOk()) not in data:
        data += sock.recv(65536)


def read_to_end(sock: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    chunks = []
    while chunk := sock.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def beat(broker: Broker, ready: threading.Event, stop: threading.Event) -> bool:
    """A client with a heartbeat of a second, which it keeps; whether it is still connected when it is to stop."""
    with socket.create_connection(("127.0.0.1", broker.port), PATIENCE) as sock:
        login = spec.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US")
        sock.sendall(HEADER + method(0, login) + method(0, spec.Connection.TuneOk(10, 131072, 1)))
        sock.sendall(method(0, spec.Connection.Open("/")))
        data = b""
        while method(0, spec.Connection.OpenOk()) not in data:
            data += sock.recv(65536)
        ready.set()
        while not stop.wait(0.2):
            sock.sendall(b"\x08\0\0\0\0\0\0\xce")
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while sock.recv(65536):
                pass
            return False
    return True


async def test_a_loop_that_is_held_up_drops_nobody_for_being_silent() -> None:
    async with Broker() as broker:
        ready, stop = threading.Event(), threading.Event()
        client = asyncio.create_task(asyncio.to_thread(beat, broker, ready, stop))
        await asyncio.to_thread(ready.wait, PATIENCE)
        time.sleep(3.0)  # noqa: ASYNC251 - the handler, or the test, that holds the loop up
        await asyncio.sleep(0.3)
        stop.set()
        assert await client


async def test_a_connection_that_does_not_read_can_be_dropped(broker: Broker) -> None:
    with plain_socket(broker) as sock:
        sock.sendall(method(1, spec.Queue.Declare(queue="q")) + method(1, spec.Basic.Consume(queue="q")))
        await until(lambda: broker.status().consumers)
        with raw_channel(broker.url) as publisher:
            for _ in range(20):
                publisher.basic_publish("", "q", bytes(1_000_000))
        await until(lambda: broker.status().queues[0].unacked > 2)
        broker.drop_connections()
        await until(lambda: not broker.status().consumers)


# --- life -------------------------------------------------------------------------------------------------------------


async def test_it_runs_on_the_running_loop() -> None:
    async with Broker() as broker:
        channels = await asyncio.to_thread(open_and_count, broker)
    assert channels == 1


def open_and_count(broker: Broker) -> int:
    with raw_channel(broker.url):
        return broker.status().connections[0].channels


async def test_on_a_thread_it_runs_beside_a_running_loop() -> None:
    with Broker() as broker:
        assert broker.status().connections == ()


def test_pikas_asyncio_client(broker: Broker) -> None:
    async def main() -> bytes:
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_channel(channel: Any) -> None:
            channel.queue_declare("q", callback=lambda _: on_queue(channel))

        def on_queue(channel: Any) -> None:
            channel.basic_consume("q", lambda _c, _m, _p, body: done.set_result(body), auto_ack=True)
            channel.basic_publish("", "q", b"hello")

        connection = AsyncioConnection(
            pika.URLParameters(broker.url), on_open_callback=lambda c: c.channel(on_open_callback=on_channel)
        )
        try:
            return await asyncio.wait_for(done, PATIENCE)
        finally:
            closed = asyncio.Event()
            connection.add_on_close_callback(lambda *_: closed.set())
            connection.close()
            await asyncio.wait_for(closed.wait(), PATIENCE)

    assert asyncio.run(main()) == b"hello"


def test_clients_are_told_when_it_stops() -> None:
    with Broker() as broker:
        connection = pika.BlockingConnection(pika.URLParameters(broker.url))
        thread = threading.Thread(target=broker.__exit__, args=(None, None, None))
        thread.start()
        with pytest.raises(exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED"):
            connection.process_data_events(PATIENCE)
        thread.join(PATIENCE)
        broker.__enter__()  # for the end of the with


def test_a_client_that_does_not_answer_does_not_keep_it_from_stopping() -> None:
    with Broker() as broker:
        sock = socket.create_connection(("127.0.0.1", broker.port))
        sock.sendall(HEADER)
        sock.recv(65536)
    with sock, suppress(ConnectionResetError):  # an end of one kind or the other
        read_to_end(sock)


async def test_a_client_that_connects_while_it_stops_is_not_left_waiting() -> None:
    broker = Broker()
    await broker.__aenter__()
    with socket.create_connection(("127.0.0.1", broker.port)) as sock:
        for _ in range(2):  # asyncio has accepted it, and has not told the broker yet
            await asyncio.sleep(0)
        await broker.__aexit__(None, None, None)
        sock.settimeout(PATIENCE)
        with suppress(ConnectionResetError):
            read_to_end(sock)


def test_a_port_that_is_taken_is_an_error(broker: Broker) -> None:
    with pytest.raises(OSError, match="in use"), Broker(port=broker.port):
        pass


def test_it_cannot_be_asked_before_it_runs() -> None:
    with pytest.raises(RuntimeError, match="does not run"):
        Broker().status()


# --- other ways in ----------------------------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "broker")
    with Broker(socket=path):
        status = fetch_status("amqp://", path)
        assert [c.address for c in status.connections] == ["unix socket"]
    assert not Path(path).exists()


def test_a_socket_that_somebody_left_behind_is_no_obstacle_but_a_running_broker_is(tmp_path: Path) -> None:
    path = str(tmp_path / "broker")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    with Broker(socket=path), pytest.raises(OSError, match="somebody listens"), Broker(socket=path):
        pass


def test_tls(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    with Broker(tls=context) as broker:
        assert broker.url.startswith("amqps://")
        parameters = pika.URLParameters(broker.url)
        parameters.ssl_options = pika.SSLOptions(certificates.client_context(), "localhost")
        connection = pika.BlockingConnection(parameters)
        assert connection.channel().queue_declare("q").method.queue == "q"
        connection.close()


def test_users_of_ones_own() -> None:
    with Broker(users={"ann:b": "p/w"}) as broker:
        with raw_channel(broker.url) as channel:
            assert channel.is_open
        with pytest.raises(exceptions.ProbableAuthenticationError):
            pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", broker.port))


# --- what clients do --------------------------------------------------------------------------------------------------


def test_a_client_that_is_still_writing_gets_the_answer_to_its_close(broker: Broker) -> None:
    """An immediate close would reset the connection, and CloseOk would be lost."""
    with plain_socket(broker) as sock:
        sock.sendall(method(0, spec.Connection.Close(200, "bye", 0, 0)))
        sock.sendall(publish("nowhere", bytes(100_000)) * 10)
        assert read_to_end(sock).endswith(method(0, spec.Connection.CloseOk()))


async def test_a_client_that_resets_the_connection_at_the_end_disturbs_nobody() -> None:
    """It has gone before the broker comes to close its side."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with Broker() as broker:
        with socket.create_connection(("127.0.0.1", broker.port)) as sock:
            await asyncio.to_thread(shake_hands, sock)
            broker.close_connections()
            await asyncio.to_thread(sock.recv, 65536)
            sock.sendall(method(0, spec.Connection.CloseOk()))  # the broker's loop cannot run before the reset
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await until(lambda: not broker.status().connections)
    assert not errors


def test_garbage_costs_its_connection_only(broker: Broker) -> None:
    with raw_channel(broker.url) as channel, plain_socket(broker) as sock:
        sock.sendall(b"\xff" * 1000)
        assert b"FRAME_ERROR" in read_to_end(sock)
        assert channel.queue_declare("q").method.queue == "q"


def test_a_defect_of_the_brokers_costs_one_connection_only(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(session: Session, data: bytes) -> None:
        raise ZeroDivisionError("a defect")

    with raw_channel(broker.url) as channel:
        with monkeypatch.context() as patch:
            patch.setattr(Session, "receive", fail)
            with pytest.raises(exceptions.ConnectionClosedByBroker, match="INTERNAL_ERROR"):
                channel.queue_declare("q")
        with raw_channel(broker.url) as other:
            assert other.queue_declare("q").method.queue == "q"


def test_a_client_that_does_not_read_does_not_fill_the_broker(broker: Broker) -> None:
    """What it does not read stays in its queue, and comes when it reads."""
    size, count = 100_000, 400
    with plain_socket(broker) as sock, raw_channel(broker.url) as channel:
        sock.sendall(method(1, spec.Queue.Declare(queue="q")) + method(1, spec.Basic.Consume(queue="q", no_ack=True)))
        wait_for_consumer(broker)
        channel.confirm_delivery()
        for _ in range(count):
            channel.basic_publish("", "q", bytes(size))
        assert broker.status().queues[0].ready > count // 4
        seen = 0
        while seen < size * count:
            seen += len(sock.recv(1 << 20))
        assert broker.status().queues[0].ready == 0


def wait_for_consumer(broker: Broker) -> None:
    end = time.monotonic() + PATIENCE
    while not broker.status().consumers:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lost_client_gives_back_what_it_held(broker: Broker) -> None:
    with raw_channel(broker.url) as channel, plain_socket(broker) as sock:
        channel.queue_declare("q")
        channel.basic_publish("", "q", b"m")
        sock.sendall(method(1, spec.Basic.Consume(queue="q")))
        wait_for_consumer(broker)
        sock.close()
        got = next(channel.consume("q", inactivity_timeout=PATIENCE))
        assert (got[0].redelivered, got[2]) == (True, b"m")


def test_a_message_larger_than_all_buffers(broker: Broker) -> None:
    body = bytes(range(256)) * 40_000
    with raw_channel(broker.url) as channel:
        channel.queue_declare("q")
        channel.basic_publish("", "q", body)
        assert channel.basic_get("q", auto_ack=True)[2] == body


def test_time_passes_by_itself(broker: Broker) -> None:
    with raw_channel(broker.url) as channel:
        channel.queue_declare("grave")
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "grave", "x-message-ttl": 50}
        channel.queue_declare("q", arguments=arguments)
        channel.basic_publish("", "q", b"m")
        assert next(channel.consume("grave", inactivity_timeout=PATIENCE))[2] == b"m"


def test_the_status_shows_connections_queues_and_consumers(broker: Broker) -> None:
    with raw_channel(broker.url) as channel:
        channel.queue_declare("q", durable=True)
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume("q", lambda *_: None, consumer_tag="c")
        for _ in range(3):
            channel.basic_publish("", "q", b"m")
        channel.queue_declare("q", passive=True)
        status = fetch_status(broker.url, None)
        assert len(status.connections) == 2
        (queue,), (consumer,) = status.queues, status.consumers
        assert (queue.name, queue.ready, queue.unacked, queue.consumers, queue.durable) == ("q", 2, 1, 1, True)
        assert (consumer.queue, consumer.tag, consumer.prefetch, consumer.unacked) == ("q", "c", 1, 1)


# --- on a thread of its own ---------------------------------------------------------------------------------------


def test_a_broker_that_is_entered_twice_refuses_and_still_ends_with_the_first_block() -> None:
    before = set(threading.enumerate())
    with Broker() as broker:
        running = set(threading.enumerate())
        with pytest.raises(RuntimeError, match="runs already"):
            broker.__enter__()
        assert set(threading.enumerate()) == running
        with plain_socket(broker):
            pass
    assert set(threading.enumerate()) <= before


def test_a_broker_whose_thread_cannot_start_leaves_no_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop

    def note() -> asyncio.AbstractEventLoop:
        made.append(make())
        return made[-1]

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "new_event_loop", note)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Broker().__enter__()
    assert [loop.is_closed() for loop in made] == [True]
