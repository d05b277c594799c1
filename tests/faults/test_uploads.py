"""Uploads when something goes: one error at each side, nothing short, nothing twice, and no side waits for ever."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from rabbit import Node
from tests.support.evidence import broker_memory, queued_bytes
from tests.support.proxy import Proxy
from tests.support.raw import raw_channel
from tests.support.serving import serving, victims
from tests.support.taking import Source, Taking
from tests.support.waiting import until
from tests.support.yielding import Row, taken
from warren import AsyncClient, CallError, Client, CurrentCall, Execution, PermissionDenied, Service, WorkerLost
from warren.client import sending
from warren.client.inlet import Inlet
from warren.client.sending import Sending
from warren.connection.errors import ChannelClosed
from warren.protocol.streaming import DEFAULT_WINDOW
from warren.server import inflow
from warren.server.vitals import resident_memory

KINDS = ("on_loop", "in_thread")


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel


async def outcome(call: Any) -> tuple[Any, Exception | None]:
    try:
        return await call, None
    except Exception as error:
        return None, error


async def endless() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1


# --- workers and links that go ------------------------------------------------------------------------------------


@pytest.mark.scenario(
    190,
    "A worker dies in the middle of an upload: WORKER_LOST, EXECUTED; it is not run again, and the items are closed.",
)
@pytest.mark.parametrize("method", ["take_and_die", "take_and_die_at_most_once"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_worker_that_dies_ends_the_upload_which_is_not_run_again(
    url: str, service_name: str, tmp_path: Path, workers: int, method: str
) -> None:
    log = tmp_path / "runs"
    with victims(workers, service_name, url):
        async with AsyncClient(url, timeout=60) as client:
            items = endless()
            _, error = await outcome(client.upload(f"{service_name}.{method}", items, str(log), 300))
            assert isinstance(error, WorkerLost)
            assert error.execution is Execution.EXECUTED
            assert "taken" in error.__notes__[0]
            assert client.statistics.in_flight == 0
            with pytest.raises(StopAsyncIteration):
                await anext(items)  # they are closed
        assert len(log.read_text().splitlines()) == 1


@pytest.mark.scenario(190, "The same when all was sent, at-most-once: the caller finds out by itself.")
async def test_a_worker_that_dies_when_all_was_sent_ends_the_upload(
    url: str, service_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SIGN_OF_LIFE", 0.2)
    with victims(1, service_name, url):
        async with AsyncClient(url, timeout=60) as client:
            call = client.upload(f"{service_name}.take_and_die_at_most_once", range(3), str(tmp_path / "runs"), 3)
            _, error = await outcome(call)
    assert isinstance(error, WorkerLost)
    assert error.execution is Execution.EXECUTED


@pytest.mark.scenario(
    191,
    "The caller's link is cut at a delivery or a publish of a long upload: whole, or an error at both ends; "
    "never short.",
)
@pytest.mark.parametrize(
    ("way", "frame", "nth"),
    [*(("down", "Basic.Deliver", n) for n in (1, 2, 3, 5)), *(("up", "Basic.Publish", n) for n in (1, 2, 3, 5, 9))],
)
@pytest.mark.parametrize("reply", ["exclusive", "durable"])
async def test_a_callers_link_that_is_cut_after_any_frame_never_makes_an_upload_short(
    proxy: Proxy, url: str, service_name: str, way: Any, frame: str, nth: int, reply: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.2)
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(proxy.url, timeout=60, reply=reply) as client:
        await client.connect()
        proxy.cut_at(way, frame, nth=nth)
        source = Source(3000)
        total, error = await outcome(client.upload(taking.on_loop, source.on_loop()))
        if error is None:
            assert total == 4_498_500
            assert taking.taken == 3000
        else:
            assert isinstance(error, CallError)
            assert error.reason == "CONNECTION_LOST"
            assert error.execution is (Execution.EXECUTED if source.given else Execution.UNKNOWN)
        proxy.forget_rules()
        await until(lambda: error is None or not taking.taken or bool(taking.ended))
        assert len(taking.ended) <= 1
        if taking.ended and taking.ended[0] is None:
            assert taking.taken == 3000
        assert await client.call(taking.one) == 1  # over the next link; else its durable queue stays


@pytest.mark.scenario(192, "A caller is gone without a word while a handler waits for items: the handler is ended.")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_that_waits_for_a_caller_which_is_gone_is_ended(
    proxy: Proxy, url: str, service_name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.1)
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(proxy.url, timeout=600) as client:
        call = asyncio.create_task(outcome(client.upload(getattr(taking, kind), Source(1, hang=True).on_loop())))
        await until(lambda: taking.taken == 1)
        proxy.refuse()
        proxy.cut()
        await until(lambda: taking.ended)
        assert isinstance(taking.ended[0], asyncio.CancelledError)
        _, error = await call
        assert isinstance(error, CallError)
        assert (error.reason, error.execution) == ("CONNECTION_LOST", Execution.EXECUTED)


@pytest.mark.scenario(
    193,
    "A worker loses its link: its handler is ended, the caller hears WORKER_LOST, and the next upload works.",
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_whose_link_is_lost_ends_the_handler_and_its_caller_is_told(
    proxy: Proxy, url: str, service_name: str, kind: str
) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=proxy.url), AsyncClient(url, timeout=60) as client:
        source = Source(1, hang=True)
        call = asyncio.create_task(outcome(client.upload(getattr(taking, kind), source.on_loop())))
        await until(lambda: taking.taken == 1)
        proxy.cut()
        _, error = await call
        assert isinstance(error, WorkerLost)
        assert error.execution is Execution.EXECUTED
        assert source.closed
        await until(lambda: taking.ended)
        assert isinstance(taking.ended[0], asyncio.CancelledError)
        assert await client.upload(getattr(taking, kind), [Row(5)]) == 5  # over the new link


@pytest.mark.scenario(193, "The same for a conversation: both sides end.")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_conversation_whose_worker_loses_its_link_ends_on_both_sides(
    proxy: Proxy, url: str, service_name: str, kind: str
) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=proxy.url), AsyncClient(url, timeout=60) as client:
        source = Source(1, hang=True)
        answers = client.converse(getattr(taking, f"echo_{kind}"), source.on_loop())
        assert await anext(answers) == Row(0)
        proxy.cut()
        items, error = await taken(answers)
        assert items == []
        assert isinstance(error, WorkerLost)
        await until(lambda: bool(taking.ended and source.closed))


# --- messages that get lost ---------------------------------------------------------------------------------------


def lose(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Lose these messages of all that are sent from now on, counted from 0."""
    write, count = Sending.write, 0

    def lossy(self: Sending, reply_to: bytes, publish: Any) -> None:
        def some(to: bytes, properties: bytes, body: bytes) -> None:
            nonlocal count
            count += 1
            if count - 1 not in numbers:
                publish(to, properties, body)

        write(self, reply_to, some)

    monkeypatch.setattr(Sending, "write", lossy)


@pytest.mark.scenario(194, "A message with items is lost: STREAM_BROKEN in the handler and at the caller.")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1, 3])
async def test_items_that_are_lost_are_an_error_in_the_handler_and_never_a_silent_end(
    url: str, service_name: str, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SIGN_OF_LIFE", 0.2)
    lose(monkeypatch, number)
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        source = Source(3000)
        _, error = await outcome(client.upload(getattr(taking, kind), source.on_loop()))
        assert isinstance(error, CallError)
        assert "the upload is broken: item" in error.message
        assert (error.reason, error.execution) == ("STREAM_BROKEN", Execution.EXECUTED)
        assert source.closed
        (ended,) = taking.ended
        assert isinstance(ended, CallError)


@pytest.mark.scenario(194, "The last items are lost: they are missed, too.")
async def test_the_last_items_that_are_lost_are_missed_too(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, 0)
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(CallError, match="0 items came of 3"):
            await client.upload(taking.on_loop, [Row(0), Row(1), Row(2)])


@pytest.mark.scenario(194, "The end of an upload is lost: it is said again.")
async def test_an_end_that_is_lost_is_said_again(url: str, service_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SIGN_OF_LIFE", 0.2)
    lose(monkeypatch, 1)
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        assert await client.upload(taking.on_loop, [Row(1), Row(2)]) == 3


@pytest.mark.scenario(194, "What a worker says of how far it has come is lost: it says it again.")
async def test_what_a_worker_tells_and_is_lost_it_tells_again(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.1)
    heard, taken_, lost = 0, Inlet.taken, {1, 2, 4}

    def lossy(self: Inlet, p: Any) -> None:
        nonlocal heard
        heard += 1
        if heard not in lost:
            taken_(self, p)

    monkeypatch.setattr(Inlet, "taken", lossy)
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        assert await client.upload(taking.on_loop, Source(2000).on_loop()) == 1_999_000


@pytest.mark.scenario(195, "A caller falls silent: its handler hears STREAM_BROKEN.")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_that_says_nothing_any_more_is_given_up(
    url: str, service_name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.05)
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        source = Source(1, hang=True)
        _, error = await outcome(client.upload(getattr(taking, kind), source.on_loop()))
        assert isinstance(error, CallError)
        assert "silent" in error.message
        assert (error.reason, error.execution) == ("STREAM_BROKEN", Execution.EXECUTED)
        assert source.closed


@pytest.mark.scenario(195, "A caller that thinks for long is not taken for silent.")
async def test_a_caller_that_thinks_for_long_says_that_it_is_there(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.2)
    monkeypatch.setattr(sending, "SIGN_OF_LIFE", 0.2)
    taking = Taking(service_name)

    async def slowly() -> AsyncIterator[Row]:
        yield Row(1)
        await asyncio.sleep(inflow.MOST_SILENT * 0.2 + 1)
        yield Row(2)

    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        assert await client.upload(taking.on_loop, slowly()) == 3


# --- what is deleted, or forbidden --------------------------------------------------------------------------------


@pytest.mark.scenario(
    196,
    "The control exchange is deleted: the upload ends, EXECUTED; the next one works when it is there again.",
)
async def test_an_exchange_that_is_deleted_ends_an_upload_and_the_next_one_works_when_it_is_there_again(
    url: str, service_name: str, raw: Any
) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=url) as server, AsyncClient(url, timeout=60) as client:
        source = Source(1, hang=True)
        call = asyncio.create_task(outcome(client.upload(taking.on_loop, source.on_loop())))
        await until(lambda: taking.taken == 1)
        raw.exchange_delete("warren.control")
        (attempt,) = server._posts[0].worker.holding.taken
        assert attempt.request is not None
        pending = client._shared.core()._calls.find(attempt.request.properties.correlation_id)
        assert pending is not None
        assert isinstance(pending.waiter, Inlet)
        assert pending.waiter._sending is not None
        for _ in range(2):  # the first look finds that something was sent
            pending.waiter._sending._look()
        _, error = await call
        assert isinstance(error, CallError)
        assert error.execution is Execution.EXECUTED
        assert source.closed
        link = server._upkeep.link
        assert link is not None
        await server._upkeep._look_after_own(link)  # as a worker does every 30 s
        assert await client.upload(taking.on_loop, [Row(3)]) == 3


@pytest.mark.scenario(196, "The queue for items is deleted: STREAM_BROKEN; the next upload works.")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_queue_for_items_that_is_deleted_ends_an_upload_and_there_is_another(
    url: str, service_name: str, kind: str
) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=url) as server, AsyncClient(url, timeout=60) as client:
        call = asyncio.create_task(outcome(client.upload(getattr(taking, kind), Source(1, hang=True).on_loop())))
        await until(lambda: taking.taken == 1)
        queue = server._posts[0].uploads.queue
        assert queue._channel is not None
        await queue._channel.delete_queue(queue.name)
        _, error = await call
        assert isinstance(error, CallError)
        assert "was deleted" in error.message
        assert (error.reason, error.execution) == ("STREAM_BROKEN", Execution.EXECUTED)
        await until(lambda: queue.name)
        assert await client.upload(getattr(taking, kind), [Row(3)]) == 3


@pytest.mark.scenario(196, "The broker forbids to send items: PermissionDenied, EXECUTED.")
async def test_a_channel_for_items_that_the_broker_refuses_ends_the_upload(url: str, service_name: str) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        call = asyncio.create_task(outcome(client.upload(taking.on_loop, Source(1, hang=True).on_loop())))
        await until(lambda: taking.taken == 1)
        uplink = client._shared.core().cancels.uplink
        assert uplink._channel is not None
        uplink._on_closed(uplink._channel, ChannelClosed(403, "ACCESS_REFUSED"))
        _, error = await call
        assert isinstance(error, PermissionDenied)
        assert error.execution is Execution.EXECUTED
        await until(lambda: taking.ended)


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    197,
    "A handler sleeps before an upload of a gigabyte: its caller waits, and the memory of broker, client and "
    "worker is bounded.",
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_that_sleeps_bounds_all_memory(rabbit: Node, url: str, service_name: str, kind: str) -> None:
    taking, of_broker = Taking(service_name), broker_memory(rabbit)
    async with serving(taking.service, url=url), AsyncClient(url, timeout=60) as client:
        before = resident_memory() or 0
        source = Source(4000, 256 * 1024)  # a gigabyte
        call = asyncio.create_task(client.upload(getattr(taking, f"sleep_{kind}"), source.on_loop(), 3))
        await until(lambda: taking.taken == 3)
        seen = -1
        while seen != source.given:
            seen = source.given
            await asyncio.sleep(0.2)
        assert source.given < DEFAULT_WINDOW.bytes // (256 * 1024) + 15
        assert queued_bytes(rabbit) < 1.25 * DEFAULT_WINDOW.bytes  # no more than the window
        assert broker_memory(rabbit) - of_broker < 100 * 1024 * 1024
        assert (resident_memory() or 0) - before < 100 * 1024 * 1024
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        taking.go_on.set()


@pytest.mark.scenario(198, "A handler that its middleware has left alone is ended.")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_that_its_middleware_has_left_alone_is_ended(
    url: str, service_name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflow, "TELL_AGAIN", 0.1)
    left: list[Any] = []

    async def leave(_call: CurrentCall, proceed: Any) -> Any:
        left.append(asyncio.ensure_future(proceed()))
        await until(lambda: taking.taken == 1)
        raise ValueError("no longer")

    taking = Taking(service_name, middleware=[leave])
    async with serving(taking.service, url=url), AsyncClient(url, timeout=600) as client:
        _, error = await outcome(client.upload(getattr(taking, kind), Source(1, hang=True).on_loop()))
        assert error is not None
        await until(lambda: taking.ended)
        await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.scenario(198, "The items of a thread stand still beyond its timeout: it hears of it when they go on.")
def test_a_thread_whose_items_stand_still_is_told_when_they_go_on(url: str, service_name: str) -> None:
    asked, go_on, ended = threading.Event(), threading.Event(), list[Exception]()

    def stuck() -> Iterator[int]:
        yield 0
        asked.set()
        go_on.wait(60)
        yield 1

    def call() -> None:
        try:
            with Client(url, timeout=0.5) as client:
                client.upload(f"{service_name}.report_items", stuck())
        except Exception as error:
            ended.append(error)

    service = Service(service_name)

    @service.method
    async def report_items(items: AsyncIterator[int]) -> int:
        return len([item async for item in items])

    async def serve() -> None:
        async with serving(service, url=url):
            thread = threading.Thread(target=call)
            thread.start()
            await asyncio.to_thread(asked.wait, 60)
            await asyncio.sleep(0.7)
            go_on.set()
            await asyncio.to_thread(thread.join, 60)

    asyncio.run(serve())
    (error,) = ended
    assert isinstance(error, TimeoutError)


# --- peers that do not keep to it ---------------------------------------------------------------------------------


VERSION = {"rpc-v": 1}


def request(raw: Any, service: str, method: str, body: bytes = b"[]") -> Any:
    """Ask for an upload, and wait to hear where its items go."""
    reply = raw.queue_declare("", exclusive=True).method.queue
    p = pika.BasicProperties("application/json", correlation_id="c-1", reply_to=reply, type=method, headers=VERSION)
    raw.basic_publish("warren", service, body, p)
    return reply, hear(raw, reply)


def hear(raw: Any, reply: str) -> Any:
    for method, p, body in raw.consume(reply, inactivity_timeout=30):
        assert method is not None
        raw.basic_ack(method.delivery_tag)
        if p.type != "taken" or p.headers["rpc-taken"] == 0:
            raw.cancel()
            return p, body
    raise AssertionError("nothing came")


def send(raw: Any, to: str, reply: str, *, type: str = "item", body: Any = None, **headers: Any) -> None:
    said = {f"rpc-{name}": value for name, value in headers.items()}
    p = pika.BasicProperties("application/json", correlation_id="c-1", reply_to=reply, type=type, headers=said)
    raw.basic_publish("warren.control", to, json.dumps(body).encode(), p)


@pytest.mark.scenario(199, "A caller that does not keep to the wire format: an error at both ends, and no short end.")
@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([{"seq": 1, "items": 1, "body": [1]}], "item 1 came where item 0 was due"),
        ([{"seq": 0, "items": 1, "body": [1]}, {"seq": 0, "items": 1, "body": [1]}], "item 0 came where item 1"),
        ([{"seq": 0, "items": 2, "body": [1]}], "1 items came in a message that says 2"),
        ([{"seq": 0, "items": 1, "body": [1]}, {"type": "end", "seq": 2, "items": 0}], "1 items came of 2"),
        ([{"type": "end", "seq": 1, "items": 0}], "0 items came of 1"),
        ([{"seq": 0, "items": 257, "body": [0] * 257}], "more than the 256"),
        ([{"seq": -1, "items": 1, "body": [1]}], "cannot be read"),
        ([{"items": 1, "body": [1]}], "cannot be read"),
        ([{"type": "what", "seq": 0, "items": 1, "body": [1]}], "cannot be read"),
        ([{"seq": 0, "items": 1, "body": {"no": "array"}}], "items must be an array"),
        ([{"seq": 0, "items": 1, "body": ["text"]}], "item 0 must be"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_that_does_not_keep_to_it_breaks_its_upload(
    url: str, service_name: str, raw: Any, kind: str, messages: list[dict[str, Any]], why: str
) -> None:
    service, ended = Service(service_name), list[Exception]()

    @service.method
    async def on_loop(items: AsyncIterator[int]) -> int:
        try:
            return sum([item async for item in items])
        except Exception as error:
            ended.append(error)
            raise

    @service.method
    def in_thread(items: Iterator[int]) -> int:
        try:
            return sum(items)
        except Exception as error:
            ended.append(error)
            raise

    def misbehave() -> Any:
        reply, (p, _) = request(raw, service_name, f"{kind}[<]")
        for message in messages:
            send(raw, p.headers["rpc-items-to"], reply, **message)
        return hear(raw, reply)

    async with serving(service, url=url):
        p, body = await asyncio.to_thread(misbehave)
    assert p.headers["rpc-status"] in ("DATA_LOSS", "INVALID_ARGUMENT")
    assert why in json.loads(body)["detail"]
    assert len(ended) == 1


@pytest.mark.scenario(199, "A plain peer that keeps to it uploads, and what is nobody's harms nothing.")
async def test_a_peer_that_keeps_to_what_is_written_uploads(url: str, service_name: str, raw: Any) -> None:
    service = Service(service_name)

    @service.method
    async def total(items: AsyncIterator[int], factor: int) -> int:
        return factor * sum([item async for item in items])

    def behave() -> Any:
        reply, (p, _) = request(raw, service_name, "total[<]", b"[10]")
        to = p.headers["rpc-items-to"]
        assert (p.headers["rpc-window-items"], p.headers["rpc-window-bytes"]) == (256, 8_388_608)
        send(raw, to, "another", seq=0, items=1, body=[99])  # whose reply queue is not known: it is nobody's
        send(raw, to, reply, seq=0, items=2, body=[1, 2])
        send(raw, to, reply, seq=2, items=0)  # as a sign of life
        send(raw, to, reply, seq=2, items=1, body=[3])
        for _ in range(2):
            send(raw, to, reply, type="end", seq=3, items=0)
        return hear(raw, reply)

    async with serving(service, url=url):
        p, body = await asyncio.to_thread(behave)
    assert (p.type, body) == (None, b"60")


@pytest.mark.scenario(199, "A worker that does not keep to it: STREAM_BROKEN.")
@pytest.mark.parametrize(
    ("said", "kind", "why"),
    [
        ({"rpc-taken": 0}, "taken", "cannot be read"),
        ({"rpc-seq": 0, "rpc-items": 1, "rpc-instance": "i"}, "item", "items came of a method that yields none"),
    ],
)
async def test_a_worker_that_does_not_keep_to_it_breaks_the_upload(
    url: str, service_name: str, raw: Any, said: dict[str, Any], kind: str, why: str
) -> None:
    service = Service(service_name)  # declares the queue, and leaves it to the peer

    @service.method
    async def total(items: AsyncIterator[int]) -> int:
        raise NotImplementedError

    def answer() -> str:
        for method, p, _ in raw.consume(service_name, inactivity_timeout=30):
            raw.basic_ack(method.delivery_tag)
            assert p.type == "total[<]"
            made = pika.BasicProperties("application/json", correlation_id=p.correlation_id, type=kind, headers=said)
            raw.basic_publish("", p.reply_to, b"[1]", made)
            break
        raw.cancel()
        return str(p.message_id)

    async with serving(service, url=url):
        pass
    async with AsyncClient(url, timeout=60) as client:
        call = asyncio.create_task(outcome(client.upload(total, [1])))
        call_id = await asyncio.to_thread(answer)
        _, error = await call
    assert isinstance(error, CallError)
    assert why in error.message
    assert (error.reason, error.execution, error.call_id) == ("STREAM_BROKEN", Execution.EXECUTED, call_id)


@pytest.mark.scenario(199, "What is said of items to a call that sends none harms nothing.")
async def test_what_is_said_of_items_to_a_call_that_sends_none_is_passed_over(
    url: str, service_name: str, raw: Any
) -> None:
    service = Service(service_name)

    @service.method
    async def one() -> int:
        return 1

    def answer() -> None:
        for method, p, _ in raw.consume(service_name, inactivity_timeout=30):
            raw.basic_ack(method.delivery_tag)
            said = {"rpc-taken": 0, "rpc-items-to": "x", "rpc-instance": "instance:none"}
            for kind, headers, body in (("taken", said, b""), (None, None, b"7")):
                made = pika.BasicProperties(
                    "application/json", correlation_id=p.correlation_id, type=kind, headers=headers
                )
                raw.basic_publish("", p.reply_to, body, made)
            break
        raw.cancel()

    async with serving(service, url=url):
        pass
    async with AsyncClient(url, timeout=60) as client:
        call = asyncio.create_task(client.call(one))
        await asyncio.to_thread(answer)
        assert await call == 7
