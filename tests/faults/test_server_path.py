"""The way of a request through a server: dead, frozen, cut off, misled or misused, what it held ends as promised."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from rabbit import Node, version
from tests.support.doomed import RUNNING, make_service
from tests.support.evidence import LATE, Counting, ending, messages, works_again
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel, take
from tests.support.serving import doomed, lines, serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Execution, Service
from warren.client.options import ReplyQueue
from warren.protocol import topology
from warren.server.service import QueueKind


@pytest.fixture
async def client(rabbit: Node) -> AsyncIterator[AsyncClient]:
    """A connected client, on a connection that nothing happens to."""
    async with AsyncClient(rabbit.url, timeout=30) as client:
        await client.connect()
        yield client


@pytest.fixture
def raw(rabbit: Node) -> Iterator[Any]:
    with raw_channel(rabbit.url) as channel:
        yield channel


def eval_queue(node: Node, queue: str, expression: str) -> str:
    """Evaluate Erlang with `Q` bound to the queue."""
    return node.eval(f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)), {expression}')


# --- dead, frozen, cut off --------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    29, "All workers are killed and come back after the deadline: what expired is not run, nor in the dead queue."
)
async def test_what_expired_while_nobody_served_is_not_run(
    client: AsyncClient, url: str, raw: Any, rabbit: Node, service_name: str, tmp_path: Path
) -> None:
    runs, reached = tmp_path / "runs", tmp_path / "reached"
    view = client.options(timeout=3.0)
    with doomed(1, service_name, url, runs, POINT=RUNNING, REACHED=str(reached)):
        held = asyncio.create_task(ending(view.call(f"{service_name}.report", "held"), within=3.0))
        await until(reached.exists)
        queued = asyncio.create_task(ending(view.call(f"{service_name}.report", "queued"), within=3.0))
        await until(lambda: messages(rabbit, service_name) == 2)
    for got in await asyncio.gather(held, queued):
        assert got.reason in ("QUEUE_TTL", "CLIENT_TIMER")  # they race for the same moment
        assert got.execution is Execution.UNKNOWN
    await until(lambda: messages(rabbit, service_name) == 0)
    async with serving(make_service(service_name, "classic", runs), url=url):
        await client.call(f"{service_name}.ping")
    assert lines(runs) == ["held"]
    assert depth(raw, topology.dead_queue(service_name)) == 0  # its callers know


@pytest.mark.scenario(
    30,
    "A worker frozen for longer than the broker waits: its call is WORKER_LOST and others serve on; thawed, it drops"
    " its reply and its ack, reconnects and serves; nothing ran twice.",
)
async def test_a_frozen_worker_is_dropped_and_comes_back(
    client: AsyncClient, url: str, rabbit: Node, service_name: str, tmp_path: Path
) -> None:
    runs, gate = tmp_path / "runs", tmp_path / "gate"
    with doomed(1, service_name, f"{url}?heartbeat=1", runs) as (worker,):
        call = asyncio.create_task(ending(client.call(f"{service_name}.report", "x", 0.0, str(gate)), within=30))
        await until(lambda: lines(runs) == ["x"])
        worker.process.send_signal(signal.SIGSTOP)
        async with serving(make_service(service_name, "classic", runs), url=url):
            assert (await call).evidence == ("WORKER_LOST", Execution.UNKNOWN)
            await client.call(f"{service_name}.ping")
        gate.touch()
        worker.process.send_signal(signal.SIGCONT)
        for _ in range(100):  # only the thawed worker is left to answer
            assert await client.call(f"{service_name}.ping") == worker.pid
    assert lines(runs) == ["x"]
    assert client.ignored_replies == 0
    assert messages(rabbit, service_name) == 0


@pytest.mark.scenario(
    31,
    "A server's connection is cut before its reply: report is WORKER_LOST, at-least-once runs again elsewhere; the late"
    " reply is dropped with a warning.",
)
@pytest.mark.parametrize("delivery", ["report", "at-least-once"])
async def test_a_server_that_loses_its_connection_before_the_reply(
    client: AsyncClient,
    rabbit: Node,
    proxy: Proxy,
    service_name: str,
    delivery: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cut, whole = Counting(service_name), Counting(service_name)
    whole.release.set()
    method = f"{service_name}.{'hold' if delivery == 'report' else 'keep'}"
    async with serving(cut.service, url=proxy.url):
        call = asyncio.create_task(ending(client.call(method, "x"), within=30))
        await until(lambda: cut.runs["x"])
        async with serving(whole.service, url=rabbit.url):
            proxy.refuse()
            proxy.cut()
            got = await call
            cut.release.set()
            await until(lambda: "lost before a reply could be sent" in caplog.text)
            proxy.accept()
            await works_again(client, whole.echo)
    if delivery == "report":
        assert got.evidence == ("WORKER_LOST", Execution.UNKNOWN)
    else:
        assert got.value == "x"
    assert cut.runs["x"] == 1
    assert whole.runs["x"] == (0 if delivery == "report" else 1)
    assert client.ignored_replies == 0
    assert messages(rabbit, service_name) == 0


@pytest.mark.scenario(32, "A handler that computes for 5 heartbeats: the connection stays up, the result arrives.")
async def test_a_handler_outlasts_heartbeats(
    client: AsyncClient, url: str, rabbit: Node, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(service_name)

    @service.method
    def compute(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    async with serving(service, url=url, heartbeat=1):
        assert await client.call(compute, 5.0) == "done"
    assert "lost the connection" not in caplog.text
    assert messages(rabbit, service_name) == 0


@pytest.fixture
def impatient(rabbit: Node) -> Iterator[Node]:
    """The node takes a channel away whose delivery is not acknowledged within a second."""
    rabbit.eval(
        "[application:set_env(rabbit, K, V) || {K, V} <- [{consumer_timeout, 1000}, {channel_tick_interval, 200}]]"
    )
    yield rabbit
    rabbit.eval(
        "[application:set_env(rabbit, K, V) || {K, V} <- [{consumer_timeout, 1800000}, {channel_tick_interval, 60000}]]"
    )


@pytest.mark.scenario(
    33,
    "A handler outlasts the broker's consumer_timeout: the channel is opened again, report is WORKER_LOST,"
    " at-least-once runs max_attempts times and is POISON; the log says why.",
)
@pytest.mark.parametrize("delivery", ["report", "at-least-once"])
async def test_a_handler_that_outlasts_the_consumer_timeout(
    client: AsyncClient,
    impatient: Node,
    raw: Any,
    service_name: str,
    delivery: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, release, runs = Service(service_name, concurrency=5), asyncio.Event(), []

    @service.method(delivery=delivery, max_attempts=2)
    async def hang() -> None:
        runs.append("hang")
        await release.wait()

    @service.method
    async def echo(text: str) -> str:
        return text

    async with serving(service, url=impatient.url):
        got = await ending(client.call(hang), within=30)
        release.set()
        await works_again(client, f"{service_name}.echo")
    if tuple(map(int, version().split(".")[:2])) >= (4, 3):  # has no such limit on classic queues
        # Whose timer ends it first, the client's or the server's, is chance.
        assert got.evidence in (("CLIENT_TIMER", Execution.UNKNOWN), ("HANDLER", Execution.EXECUTED))
        assert len(runs) == 1
        return
    assert got.evidence == ("WORKER_LOST" if delivery == "report" else "POISON", Execution.UNKNOWN)
    assert len(runs) == (1 if delivery == "report" else 2)
    assert "delivery acknowledgement on channel" in caplog.text
    assert messages(impatient, service_name) == 0
    dead = take(raw, topology.dead_queue(service_name))
    assert (dead and dead[0].headers["rpc-dead-reason"]) == (None if delivery == "report" else "POISON")


# --- its queue --------------------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    36,
    "The service's queue is deleted: it is declared and consumed again without a restart; what runs is answered, what"
    " waited in it ends at its deadline.",
)
async def test_a_deleted_service_queue_comes_back(client: AsyncClient, rabbit: Node, service_name: str) -> None:
    counting = Counting(service_name, concurrency=2)
    async with serving(counting.service, url=rabbit.url):
        running = [asyncio.create_task(ending(client.call(counting.hold, f"r{n}"), within=30)) for n in range(2)]
        await until(lambda: sum(counting.runs.values()) == 2)
        brief = client.options(timeout=4.0)
        waiting = [asyncio.create_task(ending(brief.call(counting.hold, f"w{n}"), within=4.0)) for n in range(3)]
        await until(lambda: messages(rabbit, service_name) == 5)
        eval_queue(rabbit, service_name, 'rabbit_amqqueue:delete(Q, false, false, <<"tests">>)')
        await until(lambda: messages(rabbit, service_name) == 0)  # there is one again
        counting.release.set()
        assert [got.value for got in await asyncio.gather(*running)] == ["r0", "r1"]
        for got in await asyncio.gather(*waiting):
            assert got.evidence == ("CLIENT_TIMER", Execution.UNKNOWN)
        await works_again(client, counting.echo)
    assert counting.runs == {"r0": 1, "r1": 1, "again": 1, **{f"after {n}": 1 for n in range(100)}}
    assert messages(rabbit, service_name) == 0


@pytest.fixture(scope="module")
def quorum_by_default(rabbit: Node) -> Iterator[str]:
    """The URL of a vhost in which a queue without a type is a quorum queue."""
    rabbit.ctl("add_vhost", "by-default", "--default-queue-type", "quorum")
    rabbit.ctl("set_permissions", "-p", "by-default", "guest", ".*", ".*", ".*")
    yield f"{rabbit.url.rstrip('/')}/by-default"
    rabbit.ctl("delete_vhost", "by-default")


@pytest.mark.parametrize("queue", ["classic", "quorum"])
@pytest.mark.parametrize("reply", ["exclusive", "durable"])
async def test_a_queue_is_of_the_kind_that_was_asked_for_whatever_the_vhosts_default(
    rabbit: Node, quorum_by_default: str, service_name: str, queue: QueueKind, reply: ReplyQueue
) -> None:
    counting = Counting(service_name, queue=queue)
    async with (
        serving(counting.service, url=quorum_by_default),
        AsyncClient(quorum_by_default, reply=reply) as client,
    ):
        await works_again(client, counting.echo)
        listed = await asyncio.to_thread(rabbit.ctl, "list_queues", "-p", "by-default", "name", "type")
    kinds = dict(line.split("\t") for line in listed.splitlines() if "\t" in line)
    assert kinds[service_name] == kinds[f"{service_name}.dead"] == queue
    replies = [kind for name, kind in kinds.items() if name.startswith(("amq.gen-", "warren.reply."))]
    assert replies
    assert set(replies) == {"classic"}


async def test_a_worker_that_goes_loses_no_request_in_a_vhost_of_quorum_queues(
    quorum_by_default: str, service_name: str
) -> None:
    counting = Counting(service_name)
    async with AsyncClient(quorum_by_default, timeout=30) as client, serving(counting.service, url=quorum_by_default):
        calls = [asyncio.create_task(client.call(counting.echo, str(n))) for n in range(200)]
        for _ in range(3):
            other = Counting(service_name)
            async with serving(other.service, url=quorum_by_default):
                calls += [asyncio.create_task(client.call(counting.echo, f"more {n}")) for n in range(200)]
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [end for end in ends if isinstance(end, BaseException)] == []


@pytest.mark.scenario(
    37,
    "The queue exists with other arguments: serve raises QUEUE_ARGUMENTS, naming queue and argument (the whole server"
    " refuses to start); nothing is changed, and declare=False serves it as it is.",
)
async def test_a_queue_with_other_arguments_is_a_clear_error(
    client: AsyncClient, raw: Any, rabbit: Node, service_name: str
) -> None:
    raw.queue_declare(service_name, durable=True, arguments={"x-max-length": 7})
    counting = Counting(service_name)
    with pytest.raises(CallError) as caught:
        async with serving(counting.service, url=rabbit.url):
            pass
    assert (caught.value.reason, caught.value.execution) == ("QUEUE_ARGUMENTS", Execution.NOT_SENT)
    assert repr(service_name) in str(caught.value)
    assert "x-dead-letter-exchange" in str(caught.value)
    unchanged = (
        '[{<<"x-max-length">>, signedint, 7}]'
        ' =:= lists:keydelete(<<"x-queue-type">>, 1, amqqueue:get_arguments(Q))'  # which RabbitMQ 4 adds itself
    )
    assert eval_queue(rabbit, service_name, unchanged) == "true"
    as_it_is = Counting(service_name, declare=False)
    async with serving(as_it_is.service, url=rabbit.url):
        await works_again(client, as_it_is.echo)
    assert counting.runs.total() == 0


@pytest.mark.scenario(
    39, "A slow and a fast server: none holds more than its concurrency, and the fast one serves all the rest."
)
@pytest.mark.parametrize("queue", ["classic", "quorum"])
async def test_a_slow_server_starves_nobody(
    client: AsyncClient, rabbit: Node, raw: Any, service_name: str, queue: str
) -> None:
    slow = Counting(service_name, concurrency=2, queue=queue)
    fast = Counting(service_name, concurrency=2, queue=queue)
    fast.release.set()
    async with serving(slow.service, url=rabbit.url):
        calls = [asyncio.create_task(ending(client.call(slow.hold, f"{n}"), within=30)) for n in range(40)]
        await until(lambda: slow.runs.total() == 2)
        async with serving(fast.service, url=rabbit.url):
            await until(lambda: fast.runs.total() == 38)
            await until(lambda: sum(call.done() for call in calls) == 38)
            if queue == "classic":  # of a quorum queue the broker knows it only every 5 s
                assert messages(rabbit, service_name) == 2  # what the slow one holds
            assert slow.runs.total() == 2
            slow.release.set()
            assert [got.value for got in await asyncio.gather(*calls)] == [f"{n}" for n in range(40)]
    assert depth(raw, service_name) == 0  # both servers are gone: what they had not acknowledged would be back


# --- what it cannot serve -------------------------------------------------------------------------------------------

#: name: (body, properties, reason)
MALFORMED: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "bad JSON": (b'["a"', {}, "DECODE"),
    "empty": (b"", {}, "DECODE"),
    "nesting": (b"[" * 100_000, {}, "VALIDATION"),  # it is read no further than the first wrong type
    "not UTF-8": (b'["\xff"]', {}, "DECODE"),
    "bad msgpack": (b"\xc1", {"content_type": "application/msgpack"}, "DECODE"),
    "no arguments": (b"7", {}, "VALIDATION"),
    "too many": (b'["a", "b"]', {}, "VALIDATION"),
    "of a wrong type": (b"[7]", {}, "VALIDATION"),
    "unknown name": (b'{"txet": "a"}', {}, "VALIDATION"),
    "unknown method": (b'["a"]', {"type": "no_such"}, "METHOD"),
    "no method": (b'["a"]', {"type": None}, "METHOD"),
    "unknown content type": (b'["a"]', {"content_type": "application/x-unknown"}, "ENCODING"),
    "unknown version": (b'["a"]', {"headers": {"rpc-v": 9}}, "VERSION"),
}


@pytest.mark.scenario(
    35,
    "Requests that are malformed in 13 ways: with reply_to each is answered with its reason, NOT_EXECUTED; without it"
    " each is in the dead queue with the reason; no handler runs, and the server serves on.",
)
@pytest.mark.parametrize("answered", [True, False], ids=["calls", "casts"])
async def test_malformed_requests_are_answered_or_set_aside(
    client: AsyncClient, raw: Any, rabbit: Node, service_name: str, answered: bool
) -> None:
    counting = Counting(service_name)
    replies = raw.queue_declare("", exclusive=True).method.queue
    usual = {"type": "echo", "content_type": "application/json", "headers": {"rpc-v": 1}}
    async with serving(counting.service, url=rabbit.url):
        for name, (body, properties, _reason) in MALFORMED.items():
            ids = {"correlation_id": name, "message_id": name, "reply_to": replies if answered else None}
            raw.basic_publish("", service_name, body, pika.BasicProperties(**{**usual, **ids, **properties}))
        await until(
            lambda: messages(rabbit, replies if answered else topology.dead_queue(service_name)) == len(MALFORMED)
        )
        await works_again(client, counting.echo)
    assert counting.runs.total() == 101
    for name, (body, _properties, reason) in MALFORMED.items():
        got = take(raw, replies if answered else topology.dead_queue(service_name))
        assert got is not None
        properties, content = got
        assert properties.correlation_id == name
        if answered:
            assert (properties.headers["rpc-reason"], properties.headers["rpc-executed"]) == (reason, "NOT_EXECUTED")
        else:
            assert (properties.headers["rpc-dead-reason"], content) == (reason, body)
    assert messages(rabbit, service_name) == 0


# --- its handlers -----------------------------------------------------------------------------------------------------


class Base(BaseException):
    """What `except Exception` does not see."""


def leave() -> None:
    sys.exit(3)


def cancel() -> None:
    raise asyncio.CancelledError


def interrupt() -> None:
    raise KeyboardInterrupt


def base() -> None:
    raise Base("deep")


def stop() -> None:
    raise StopIteration(7)


@pytest.mark.scenario(
    40, "A handler raises SystemExit, KeyboardInterrupt or the like: REMOTE error, EXECUTED; its place is free again."
)
@pytest.mark.parametrize("misdeed", [leave, cancel, interrupt, base, stop], ids=lambda misdeed: misdeed.__name__)
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_what_a_handler_raises_never_ends_its_worker(
    client: AsyncClient, rabbit: Node, service_name: str, kind: str, misdeed: Callable[[], None]
) -> None:
    counting = Counting(service_name, concurrency=1)
    if kind == "async":

        @counting.service.method(name="bad")
        async def bad() -> None:
            misdeed()
    else:
        counting.service.method(name="bad")(misdeed)

    async with serving(counting.service, url=rabbit.url):
        for _ in range(3):
            got = await ending(client.call(f"{service_name}.bad"), within=30)
            assert got.evidence == ("HANDLER_EXCEPTION", Execution.EXECUTED)
            assert got.seconds < LATE
        await works_again(client, counting.echo)
    assert messages(rabbit, service_name) == 0


@pytest.mark.scenario(
    40, "An async handler exceeds its deadline: cut off, HANDLER or CLIENT_TIMER; its place is free again."
)
async def test_a_handler_that_exceeds_its_deadline_gives_its_place_back(
    client: AsyncClient, rabbit: Node, service_name: str
) -> None:
    counting = Counting(service_name, concurrency=1)
    async with serving(counting.service, url=rabbit.url):
        texts = [f"x{n}" for n in range(3)]
        view = client.options(timeout=1.0)
        for text in texts:
            got = await ending(view.call(counting.hold, text), within=1.0)
            assert got.evidence in [("HANDLER", Execution.EXECUTED), ("CLIENT_TIMER", Execution.UNKNOWN)]
        await works_again(client, counting.echo)
    assert [counting.runs[text] for text in texts] == [1, 1, 1]
    assert messages(rabbit, service_name) == 0
