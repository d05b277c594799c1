"""Streams when something goes: they end in one error that says how far they came, and are never short, or run twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from rabbit import Node
from tests.support.evidence import broker_memory, queued_bytes
from tests.support.proxy import How, Proxy
from tests.support.raw import raw_channel
from tests.support.serving import serving, victims
from tests.support.waiting import until, within
from tests.support.yielding import Yielding, taken
from warren import AsyncClient, CallError, Client, CurrentCall, Execution, Service, WorkerLost
from warren.protocol.streaming import DEFAULT_WINDOW
from warren.server import streaming
from warren.server.vitals import resident_memory

KINDS = ("on_loop", "in_thread")


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel


@pytest.mark.scenario(
    180,
    "A worker dies in the middle of a stream: WORKER_LOST, EXECUTED, behind all items that had come; it is not"
    " run again.",
)
async def test_a_worker_that_dies_ends_the_stream_which_is_not_run_again(
    url: str, service_name: str, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    with victims(2, service_name, url):
        async with AsyncClient(url, timeout=60) as client:
            items, error = await taken(client.stream(f"{service_name}.die_after", str(log), 300))
        assert items == [*range(300)]
        assert isinstance(error, WorkerLost)
        assert error.execution is Execution.EXECUTED
        assert error.__notes__ == ["300 items of the stream had come: its handler was begun"]
        assert len(log.read_text().splitlines()) == 1


@pytest.mark.scenario(
    208,
    "A worker dies in the middle of a stream that is resumable: another one goes on where it was, and the stream comes"
    " whole, each item once.",
)
@pytest.mark.parametrize("count", [1, 2, 300, 3000])
async def test_another_worker_goes_on_with_a_resumable_stream(
    url: str, service_name: str, tmp_path: Path, count: int
) -> None:
    log = tmp_path / "runs"
    with victims(2, service_name, url):
        async with AsyncClient(url, timeout=60) as client:
            items, error = await taken(client.stream(f"{service_name}.die_half_way", str(log), count))
        assert error is None
        assert items == [*range(count)]
        assert len(log.read_text().splitlines()) == 2


@pytest.mark.scenario(208, "The same for a thread.")
async def test_another_worker_goes_on_with_a_threads_resumable_stream(
    url: str, service_name: str, tmp_path: Path
) -> None:
    def take() -> list[int]:
        with Client(url, timeout=60) as client:
            return [*client.stream(f"{service_name}.die_half_way", str(tmp_path / "runs"), 1000)]

    with victims(2, service_name, url):
        assert await asyncio.to_thread(take) == [*range(1000)]


@pytest.mark.scenario(208, "The worker's link is cut again and again: what has come is not sent once more.")
@pytest.mark.parametrize("kind", ["on_loop", "in_thread"])
async def test_what_a_caller_has_is_not_sent_again(
    proxy: Proxy, url: str, service_name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, sent = Service(service_name), [0]
    runs: list[int] = []

    @service.method(delivery="at-least-once", resumable=True, max_attempts=10)
    async def on_loop(count: int) -> AsyncIterator[int]:
        runs.append(count)
        for number in range(count):
            yield number

    @service.method(delivery="at-least-once", resumable=True, max_attempts=10)
    def in_thread(count: int) -> Iterator[int]:
        runs.append(count)
        yield from range(count)

    send = streaming.Outlet._send

    def counted(self: streaming.Outlet, first: int, bodies: list[bytes]) -> None:
        sent[0] += len(bodies)
        send(self, first, bodies)

    monkeypatch.setattr(streaming.Outlet, "_send", counted)
    async with serving(service, url=proxy.url), AsyncClient(url, timeout=60) as client:
        methods: dict[str, Any] = {"on_loop": on_loop, "in_thread": in_thread}
        stream = client.stream(methods[kind], 10_000)
        for number in range(10_000):
            assert await anext(stream) == number
            if number in (3000, 6000, 9999):
                proxy.cut()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert 3 <= len(runs) <= 4  # the end may have come before the last cut
    assert sent[0] < 10_000 + 4 * 3 * 256  # a window, and what is on its way when the caller tells how far it is


@pytest.mark.scenario(208, "The broker restarts in the middle, the caller has durable replies: the stream comes whole.")
async def test_a_resumable_stream_outlives_a_restart_of_the_broker(breakable_rabbit: Node, service_name: str) -> None:
    service, url = Service(service_name), breakable_rabbit.url
    runs: list[int] = []

    @service.method(delivery="at-least-once", resumable=True)
    async def rows(count: int) -> AsyncIterator[int]:
        runs.append(count)
        for number in range(count):
            yield number

    async with serving(service, url=url), AsyncClient(url, timeout=120, reply="durable") as client:
        stream = client.stream(rows, 3000)
        items = [await anext(stream) for _ in range(1000)]
        await asyncio.to_thread(breakable_rabbit.restart)
        more, error = await taken(stream)
    assert error is None
    assert items + more == [*range(3000)]
    assert len(runs) == 2


@pytest.mark.scenario(
    208, "Another run sends large items in other messages, to a caller whose window is full: none counts twice."
)
async def test_another_run_that_sends_large_items_in_other_messages_overruns_no_window(
    proxy: Proxy, url: str, service_name: str
) -> None:
    """Three of 20 KiB travel together; the messages of the second run begin where the first run's end."""
    service, run, sent = Service(service_name), [0], asyncio.Event()

    @service.method(delivery="at-least-once", resumable=True)
    async def rows() -> AsyncIterator[bytes]:
        run[0] += 1
        for number in range(300):
            if (run[0], number) == (1, 202):  # 204 are all that the window has room for
                sent.set()
                await asyncio.Event().wait()
            if (run[0], number) == (2, 2):
                await asyncio.sleep(0.1)  # the first two travel alone
            if (run[0], number) == (2, 205):
                sent.set()
            yield b"%d" % number + bytes(20 * 1024)

    @service.method
    async def behind_them() -> None:
        """Its reply comes behind all that was sent before."""

    async with serving(service, url=proxy.url), AsyncClient(url, timeout=60, encoding="msgpack") as client:
        stream = client.stream(rows)
        items = [await anext(stream)]
        await within(sent.wait(), "what the first run sends")
        await client.call(behind_them)
        sent.clear()
        proxy.cut()
        await within(sent.wait(), "what the second run sends")
        await client.call(behind_them)
        more, error = await taken(stream)
    assert error is None
    assert [int(item.rstrip(bytes(1))) for item in items + more] == [*range(300)]
    assert run == [2]


@pytest.mark.scenario(208, "Another run yields less than the first one had: STREAM_BROKEN, never short.")
async def test_a_run_that_yields_less_than_another_has_breaks_the_stream(
    proxy: Proxy, url: str, service_name: str
) -> None:
    service = Service(service_name)
    runs: list[int] = []

    @service.method(delivery="at-least-once", resumable=True)
    async def rows() -> AsyncIterator[int]:
        runs.append(1)
        for number in range(5000 if len(runs) == 1 else 20):
            yield number

    async with serving(service, url=proxy.url), AsyncClient(url, timeout=60) as client:
        stream = client.stream(rows)
        items = [await anext(stream) for _ in range(100)]
        proxy.cut()
        more, error = await taken(stream)
    assert isinstance(error, CallError)
    assert (error.reason, error.execution) == ("STREAM_BROKEN", Execution.EXECUTED)
    assert items + more == [*range(len(items + more))]


@pytest.mark.scenario(
    181,
    "The caller's link is cut at a delivery of a long stream: the first items and CONNECTION_LOST; the "
    "generator is closed.",
)
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8, 13])
async def test_a_clients_link_that_is_cut_after_any_frame_never_makes_a_stream_short(
    proxy: Proxy, url: str, service_name: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SIGN_OF_LIFE", 0.5)
    yielding = Yielding(service_name)
    async with serving(yielding.service, url=url), AsyncClient(proxy.url, timeout=60) as client:
        await client.connect()
        proxy.cut_at("down", "Basic.Deliver", nth=nth)
        items, error = await taken(client.stream(yielding.on_loop, 2000))
        assert [row.number for row in items] == [*range(len(items))]
        if error is None:
            assert len(items) == 2000
        else:
            assert isinstance(error, CallError)
            assert error.reason == "CONNECTION_LOST"
            assert error.execution is (Execution.EXECUTED if items else Execution.UNKNOWN)
        await until(lambda: yielding.closed)
        assert len(yielding.closed) == 1


@pytest.mark.scenario(181, "The same with durable replies: the stream comes whole, each item once.")
@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("nth", [1, 2, 3, 5, 8, 13])
async def test_a_stream_with_durable_replies_goes_on_after_a_lost_link(
    proxy: Proxy, url: str, service_name: str, nth: int, how: How
) -> None:
    yielding = Yielding(service_name)
    async with (
        serving(yielding.service, url=url),
        AsyncClient(proxy.url, reply="durable", timeout=120) as client,
    ):
        await client.connect()
        stream = client.stream(yielding.on_loop, 3000)
        assert (await anext(stream)).number == 0
        await until(lambda: proxy.seen["down", "Basic.Ack"] > 0)  # the broker has confirmed the request
        proxy.cut_at("down", "Basic.Deliver", nth=nth, how=how)
        items, error = await taken(stream)
        assert error is None
        assert [row.number for row in items] == [*range(1, 3000)]


@pytest.mark.scenario(182, "A caller is gone without a word while a generator waits for it: the generator is closed.")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_generator_that_waits_for_a_caller_which_is_gone_is_closed(
    proxy: Proxy, url: str, service_name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SIGN_OF_LIFE", 0.1)
    yielding = Yielding(service_name)
    async with serving(yielding.service, url=url), AsyncClient(proxy.url, timeout=600) as client:
        stream = client.stream(getattr(yielding, kind), 1_000_000)
        await anext(stream)
        proxy.refuse()
        proxy.cut()
        await until(lambda: yielding.closed)
        await stream.aclose()


@pytest.mark.scenario(
    183,
    "A worker loses its link: its generator is closed, and its caller hears WORKER_LOST behind the items.",
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_whose_link_is_lost_closes_the_generator_and_its_caller_is_told(
    proxy: Proxy, url: str, service_name: str, kind: str
) -> None:
    yielding = Yielding(service_name)
    async with serving(yielding.service, url=proxy.url), AsyncClient(url, timeout=60) as client:
        stream = client.stream(getattr(yielding, kind), 1_000_000)
        await anext(stream)
        proxy.cut()
        await until(lambda: yielding.closed)
        items, error = await taken(stream)  # what had come, then what the worker says that is asked again
        assert isinstance(error, WorkerLost)
        assert [row.number for row in items] == [*range(1, len(items) + 1)]
        assert len(yielding.closed) == 1


@pytest.mark.scenario(
    184,
    "The message that lets a stream go on is lost: it is told again, and the stream comes whole.",
)
async def test_credit_that_is_lost_is_told_again(url: str, service_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    yielding = Yielding(service_name)
    async with serving(yielding.service, url=url) as server, AsyncClient(url, timeout=60) as client:
        lost: list[int] = []
        streams = server._posts[0].streams
        monkeypatch.setattr(streams, "credit", lambda _id, _address, count: lost.append(count))
        stream = client.stream(yielding.on_loop, 600)
        for _ in range(256):
            await anext(stream)
        rest = asyncio.create_task(taken(stream))
        await until(lambda: 256 in lost)
        monkeypatch.undo()
        items, error = await rest
        assert error is None
        assert len(items) == 344


@pytest.mark.scenario(
    185,
    "A consumer sleeps before a stream of a gigabyte: its worker waits, and the memory of broker, client and "
    "worker is bounded.",
)
async def test_a_consumer_that_sleeps_bounds_all_memory(rabbit: Node, url: str, service_name: str) -> None:
    yielding, of_broker = Yielding(service_name), broker_memory(rabbit)
    async with serving(yielding.service, url=url), AsyncClient(url, timeout=60) as client:
        before = resident_memory() or 0
        stream = client.stream(yielding.on_loop, 4000, 256 * 1024)  # a gigabyte
        await anext(stream)
        seen = -1
        while seen != yielding.yielded:
            seen = yielding.yielded
            await asyncio.sleep(0.2)
        assert yielding.yielded < DEFAULT_WINDOW.bytes // (256 * 1024) + 5
        assert queued_bytes(rabbit) < 1.25 * DEFAULT_WINDOW.bytes  # no more than the window
        assert broker_memory(rabbit) - of_broker < 100 * 1024 * 1024
        assert (resident_memory() or 0) - before < 100 * 1024 * 1024
        await stream.aclose()


@pytest.mark.scenario(186, "A generator that its middleware has left alone is closed.")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_generator_that_its_middleware_has_left_alone_is_closed(
    url: str, service_name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SIGN_OF_LIFE", 0.1)
    left: list[Any] = []

    async def leave(_call: CurrentCall, proceed: Any) -> Any:
        left.append(asyncio.ensure_future(proceed()))
        await until(lambda: yielding.yielded > 256)
        raise ValueError("no longer")

    yielding = Yielding(service_name, middleware=[leave])
    async with serving(yielding.service, url=url), AsyncClient(url, timeout=600) as client:
        _, error = await taken(client.stream(getattr(yielding, kind), 1_000_000))
        assert error is not None
        await until(lambda: yielding.closed)
        await asyncio.gather(*left, return_exceptions=True)


# --- peers that do not keep to it ---------------------------------------------------------------------------------


def say(raw: Any, queue: str, *messages: Any, end: bytes | None = None) -> str:
    """Take one request, and answer it with these messages: number, count, items, run if not 1; then with an end.

    Returns the request's ``message_id``.
    """
    for method, p, _body in raw.consume(queue, inactivity_timeout=0.1):
        if method is None:
            continue
        raw.basic_ack(method.delivery_tag)
        assert p.type == "rows[]"
        for seq, count, items, *run in messages:
            headers = {"rpc-seq": seq, "rpc-items": count, "rpc-instance": "instance:none"}
            answer(raw, p, json.dumps(items).encode(), type="item", headers=headers, message_id=f"run {run or [1]}")
        if end is not None:
            answer(raw, p, end)
        break
    raw.cancel()
    return str(p.message_id)


def answer(raw: Any, p: Any, body: bytes, **properties: Any) -> None:
    import pika

    made = pika.BasicProperties("application/json", correlation_id=p.correlation_id, **properties)
    raw.basic_publish("", p.reply_to, body, made)


@pytest.mark.scenario(
    187,
    "Items that are missing, come twice, of another run, or do not add up: STREAM_BROKEN, behind the good ones.",
)
@pytest.mark.parametrize(
    ("messages", "end", "got", "why"),
    [
        ([(1, 1, [1])], None, [], "item 1 came where item 0 was due"),
        ([(0, 2, [0, 1]), (3, 1, [3])], None, [0, 1], "item 3 came where item 2 was due"),
        ([(0, 2, [0, 1]), (0, 2, [0, 1])], None, [0, 1], "item 0 came where item 2 was due"),
        ([(0, 2, [0, 1])], b"3", [0, 1], "2 items came of a stream that has 3"),
        ([(0, 2, [0, 1])], b"1", [0, 1], "2 items came of a stream that has 1"),
        ([(0, 3, [0, 1])], None, [], "2 items came in a message that says 3"),
        ([(0, 1, ["no number"])], None, [], "the reply cannot be read"),
        ([(0, 257, [*range(257)])], None, [], "more than the 256"),
        ([(0, -1, [])], None, [], "cannot be read"),
        (
            [(0, 2, [0, 1]), (2, 1, [2], 2)],
            b"3",
            [0, 1],
            "item 2 of a second run of the method came, after 2 of the first",
        ),
        (
            [(0, 2, [0, 1]), (0, 1, [0], 2)],
            b"3",
            [0, 1],
            "item 0 of a second run of the method came, after 2 of the first",
        ),
    ],
)
async def test_a_stream_with_gaps_is_broken_and_says_so(
    url: str, service_name: str, raw: Any, messages: Any, end: bytes | None, got: list[int], why: str
) -> None:
    service = Service(service_name)  # declares the queue, and leaves it to the peer

    @service.method
    async def rows() -> AsyncIterator[int]:
        yield 0

    async with serving(service, url=url):
        pass
    async with AsyncClient(url, timeout=60) as client:
        taking = asyncio.create_task(taken(client.stream(rows)))
        call_id = await asyncio.to_thread(say, raw, service_name, *messages, end=end)
        items, error = await taking
    assert items == got
    assert isinstance(error, CallError)
    assert why in error.message
    reason = "DECODE_REPLY" if why == "the reply cannot be read" else "STREAM_BROKEN"
    assert (error.reason, error.execution, error.call_id) == (reason, Execution.EXECUTED, call_id)


@pytest.mark.scenario(187, "Items for a call that is no stream harm nothing.")
async def test_items_for_a_call_that_is_no_stream_are_passed_over(url: str, service_name: str, raw: Any) -> None:
    service = Service(service_name)

    @service.method
    async def one() -> int:
        return 1

    def tell(queue: str) -> None:
        for method, p, _body in raw.consume(queue, inactivity_timeout=0.1):
            if method is not None:
                raw.basic_ack(method.delivery_tag)
                headers = {"rpc-seq": 0, "rpc-items": 1, "rpc-instance": "instance:none"}
                answer(raw, p, b"[1]", type="item", headers=headers)
                answer(raw, p, b"7")
                break
        raw.cancel()

    async with serving(service, url=url):
        pass
    async with AsyncClient(url, timeout=60) as client:
        calling = asyncio.create_task(client.call(one))
        await asyncio.to_thread(tell, service_name)
        assert await calling == 7
