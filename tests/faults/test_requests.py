"""The way of a request to the broker: what its caller hears when it is cut, held up, refused or damaged."""

import asyncio
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from rabbit import Node, version
from tests.support.evidence import LATE, Counting, ending, endings, messages, out_of_memory, works_again
from tests.support.load import until_blocked
from tests.support.proxy import Proxy, Way
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Client, Execution, Overloaded


@pytest.fixture
async def served(rabbit: Node, counting: Counting) -> AsyncIterator[Counting]:
    """The counting service, running on a connection that nothing happens to."""
    async with serving(counting.service, url=rabbit.url):
        yield counting
        counting.release.set()


@pytest.fixture
async def client(proxy: Proxy, served: Counting) -> AsyncIterator[AsyncClient]:
    """A connected client behind the proxy."""
    async with AsyncClient(proxy.url) as client:
        await client.connect()
        yield client


# --- cut --------------------------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    8, "Cut between the publish and its confirm: the call ends at once, CONNECTION_LOST, UNKNOWN; it ran once."
)
async def test_a_cut_after_the_publish_leaves_the_call_unknown(
    client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node
) -> None:
    proxy.abandon_at("up", "Body", "down")
    call = asyncio.create_task(ending(client.options(timeout=30).call(served.echo, "x"), within=30))
    await until(lambda: served.runs["x"])
    proxy.cut()
    got = await asyncio.wait_for(call, LATE)
    assert got.evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
    await works_again(client, served.echo)
    assert served.runs["x"] == 1
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(
    8, "The same with resend: sent again with the same message id, the result arrives. Handlers must bear to run twice."
)
@pytest.mark.parametrize("how", ["options", "declared"])
async def test_a_cut_after_the_publish_is_mended_by_sending_again(
    client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node, how: str
) -> None:
    proxy.abandon_at("up", "Body", "down")
    view = client.options(timeout=30)
    pending = view.options(resend=True).call(served.echo, "x") if how == "options" else view.call(served.repeat, "x")
    call = asyncio.create_task(ending(pending, within=30))
    await until(lambda: served.runs["x"])
    proxy.cut()
    got = await call
    assert got.value == "x"
    assert served.runs["x"] == 2
    assert len(served.ids["x"]) == 1
    await works_again(client, served.echo)
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(
    8, "A cast that loses its link before the confirm ends UNKNOWN at once; with resend it is sent again."
)
@pytest.mark.parametrize("resend", [False, True])
async def test_a_cut_before_the_confirm_of_a_cast(
    client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node, resend: bool
) -> None:
    proxy.abandon_at("up", "Body", "down")
    view = client.options(timeout=30)
    cast = asyncio.create_task(
        ending((view.options(resend=True) if resend else view).cast(served.echo, "x"), within=30)
    )
    await until(lambda: served.runs["x"])
    proxy.cut()
    got = await asyncio.wait_for(cast, LATE)
    assert got.evidence == ((None, None) if resend else ("CONNECTION_LOST", Execution.UNKNOWN))
    await works_again(client, served.echo)
    assert (served.runs["x"], len(served.ids["x"])) == (2 if resend else 1, 1)
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(
    9, "A publish that never leaves the link it was written to: UNKNOWN at once; with resend it runs exactly once."
)
@pytest.mark.parametrize("resend", [False, True])
async def test_a_publish_that_is_lost_with_the_link(
    client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node, resend: bool
) -> None:
    proxy.cut_at("up", "Basic.Publish")
    view = client.options(timeout=30)
    got = await ending((view.options(resend=True) if resend else view).call(served.echo, "x"), within=30)
    if resend:
        assert (got.value, served.runs["x"]) == ("x", 1)
    else:
        assert (got.evidence, served.runs["x"]) == (("CONNECTION_LOST", Execution.UNKNOWN), 0)
        assert got.seconds < LATE
    await works_again(client, served.echo)
    assert messages(rabbit, served.queue) == 0


@pytest.mark.scenario(9, "A call made while there is no link waits, goes out on the next one and runs exactly once.")
async def test_a_call_without_a_link_is_sent_on_the_next(
    client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node
) -> None:
    proxy.refuse()
    proxy.cut()
    await until(lambda: proxy.open == 0)
    await ending(client.options(timeout=0.2).call(served.echo, "probe"), within=0.2)  # the client has noticed
    call = asyncio.create_task(ending(client.options(timeout=30).call(served.echo, "x"), within=30))
    await asyncio.sleep(0)
    proxy.accept()
    assert (await call).value == "x"
    assert served.runs["x"] == 1
    await works_again(client, served.echo)


@pytest.mark.scenario(10, "Cut in the middle of a body: as 9, and the broker has nothing of it.")
@pytest.mark.parametrize("resend", [False, True])
async def test_a_cut_in_the_middle_of_a_body(
    client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node, resend: bool
) -> None:
    text = "0123456789" * 30_000
    proxy.up.cut_after(200_000)
    view = client.options(timeout=30)
    got = await ending((view.options(resend=True) if resend else view).call(served.echo, text), within=30)
    if resend:
        assert (got.value, served.runs[text]) == (text, 1)
    else:
        assert (got.evidence, served.runs[text]) == (("CONNECTION_LOST", Execution.UNKNOWN), 0)
    await works_again(client, served.echo)
    assert messages(rabbit, served.queue) == 0


# --- confirms -----------------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    11,
    "Without confirms a call still returns its result, for the reply says more; a cast ends UNKNOWN at its deadline.",
)
async def test_confirms_that_never_come(client: AsyncClient, proxy: Proxy, served: Counting) -> None:
    proxy.drop("down", "Basic.Ack")
    called, cast = await asyncio.gather(
        ending(client.options(timeout=30).call(served.echo, "call"), within=30),
        ending(client.options(timeout=1).cast(served.echo, "cast"), within=1),
    )
    assert called.value == "call"
    assert cast.evidence == ("CLIENT_TIMER", Execution.UNKNOWN)
    assert "not confirm" in str(cast)
    await until(lambda: served.runs["cast"])
    assert (served.runs["call"], served.runs["cast"]) == (1, 1)
    proxy.forget_rules()
    await works_again(client, served.echo)


@pytest.mark.scenario(11, "A call that ends at its deadline says whether the broker had confirmed it.")
@pytest.mark.parametrize("confirmed", [False, True])
async def test_a_timed_out_call_says_whether_it_was_confirmed(
    client: AsyncClient, proxy: Proxy, served: Counting, confirmed: bool
) -> None:
    for name in ("Basic.Deliver", "Header", "Body", *(() if confirmed else ("Basic.Ack",))):
        proxy.drop("down", name)
    got = await ending(client.options(timeout=1).call(served.echo, "x"), within=1)
    assert got.evidence == ("CLIENT_TIMER", Execution.UNKNOWN)
    assert ("the broker has not confirmed" in str(got)) is not confirmed
    await until(lambda: served.runs["x"])
    assert served.runs["x"] == 1
    proxy.forget_rules()
    await works_again(client, served.echo)


@pytest.fixture
def full_queue(rabbit: Node, service_name: str) -> Iterator[Counting]:
    """A queue that holds one message and refuses the next."""
    rabbit.ctl(
        "set_policy",
        "full",
        f"^{service_name}-full([.]dead)?$",
        '{"max-length": 1, "overflow": "reject-publish"}',
        "--apply-to",
        "queues",
    )
    yield Counting(f"{service_name}-full")
    rabbit.ctl("clear_policy", "full")


@pytest.mark.scenario(12, "A full queue that refuses publishes: QUEUE_FULL, NOT_EXECUTED, at once.")
@pytest.mark.usefixtures("unhurried")
async def test_a_nack_is_an_error_at_once(
    client: AsyncClient, served: Counting, full_queue: Counting, rabbit: Node
) -> None:
    async with serving(full_queue.service, url=rabbit.url):
        pass  # the queue is there, and nobody consumes
    await client.cast(full_queue.echo, "first")
    for request in (client.call(full_queue.echo, "second"), client.cast(full_queue.echo, "third")):
        got = await ending(request, within=LATE)
        assert got.evidence == ("QUEUE_FULL", Execution.NOT_EXECUTED)
    assert messages(rabbit, full_queue.queue) == 1
    async with serving(full_queue.service, url=rabbit.url):
        await until(lambda: full_queue.runs["first"])
    assert dict(full_queue.runs) == {"first": 1}
    await works_again(client, served.echo)


@pytest.mark.scenario(
    12, "With resend a refused request is sent again until the queue has room, or ends QUEUE_FULL at its deadline."
)
@pytest.mark.usefixtures("unhurried")
async def test_a_refused_request_is_sent_again(
    client: AsyncClient, served: Counting, full_queue: Counting, rabbit: Node
) -> None:
    async with serving(full_queue.service, url=rabbit.url):
        pass
    await client.cast(full_queue.echo, "first")
    again = client.options(resend=True)
    patient = asyncio.create_task(ending(again.call(full_queue.echo, "patient"), within=30))
    for _ in range(5):
        hasty = await ending(again.options(timeout=0.5).call(full_queue.echo, "hasty"), within=0.5)
        if hasty.reason != "CLIENT_TIMER":  # which says that it was just being sent again
            break
    assert hasty.evidence == ("QUEUE_FULL", Execution.NOT_EXECUTED)  # however often it was sent
    async with serving(full_queue.service, url=rabbit.url):
        assert (await patient).value == "patient"
    assert dict(full_queue.runs) == {"first": 1, "patient": 1}
    await works_again(client, served.echo)


@pytest.mark.scenario(
    16, "Confirms that are coalesced, out of order and mixed with refusals: each cast ends as its own."
)
@pytest.mark.usefixtures("unhurried")
async def test_confirms_of_all_kinds_find_their_casts(
    client: AsyncClient, proxy: Proxy, served: Counting, full_queue: Counting, rabbit: Node, service_name: str
) -> None:
    quorum = Counting(f"{service_name}-quorum", queue="quorum")
    async with serving(full_queue.service, url=rabbit.url):
        pass
    await client.cast(full_queue.echo, "fills it")
    async with serving(quorum.service, url=rabbit.url):
        targets = [served.echo, full_queue.echo, quorum.echo, served.echo]
        texts = [str(number) for number in range(200)]
        casts = [client.cast(targets[int(text) % 4], text) for text in texts]
        got = await endings(*casts, within=30)
        assert [one.reason for one in got] == [None, "QUEUE_FULL", None, None] * 50
        assert proxy.seen["down", "Basic.Nack"] > 0
        assert proxy.seen["down", "Basic.Ack"] < 150  # some confirmed several
        await until(lambda: len(served.runs) == 100 and len(quorum.runs) == 50)
    assert set(served.runs.values()) == set(quorum.runs.values()) == {1}
    assert full_queue.runs == {}
    await works_again(client, served.echo)
    await asyncio.to_thread(rabbit.ctl, "delete_queue", quorum.queue)


@pytest.mark.scenario(
    107, "A dead queue that refuses: a cast is set aside again over another channel, until the queue takes it."
)
async def test_a_dead_queue_that_refuses(
    proxy: Proxy, rabbit: Node, full_queue: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    dead = f"{full_queue.queue}.dead"
    async with serving(full_queue.service, url=proxy.url), AsyncClient(rabbit.url) as client:
        await client.cast(full_queue.echo, 1)  # no text, so it is set aside, and the dead queue is full
        await until(lambda: messages(rabbit, dead) == 1)
        opened = proxy.seen["up", "Channel.Open"]
        await client.cast(full_queue.echo, 2)
        await until(lambda: proxy.seen["up", "Channel.Open"] >= opened + 1)
        assert re.search(r"the broker refuses it \(call \w+\); trying again", caplog.text)
        await asyncio.to_thread(rabbit.ctl, "purge_queue", dead)
        await until(lambda: messages(rabbit, dead) == 1)
    assert full_queue.runs == {}


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.scenario(13, "A service that never ran: NO_ROUTE, NOT_EXECUTED, within a round trip.")
async def test_no_queue_is_told_at_once(client: AsyncClient, served: Counting) -> None:
    for request in (client.call("nobody.home", "x"), client.cast("nobody.home", "x")):
        got = await ending(request, within=LATE)
        assert got.evidence == ("NO_ROUTE", Execution.NOT_EXECUTED)
    await works_again(client, served.echo)


@pytest.fixture
def small_messages(rabbit: Node) -> Iterator[int]:
    """For connections made from now on the broker takes small messages only."""
    before = rabbit.eval("element(2, application:get_env(rabbit, max_message_size))")
    limit = (
        "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})"  # 4.0 has both
    )
    rabbit.eval(limit.format(100_000))
    yield 100_000
    rabbit.eval(limit.format(before))


@pytest.mark.scenario(
    14, "A request over the broker's size limit costs its channel and ends that call; 20 calls under way return."
)
async def test_a_message_that_is_too_large_ends_its_own_call_only(
    small_messages: int, client: AsyncClient, served: Counting
) -> None:
    held = [asyncio.create_task(client.call(served.hold, str(number))) for number in range(20)]
    await until(lambda: len(served.runs) == 20)
    await client.cast(served.echo, "by now the others are confirmed")
    got = await ending(client.call(served.echo, "x" * (small_messages + 1)), within=LATE)
    assert got.error is not None
    assert got.evidence == ("CHANNEL_CLOSED", Execution.UNKNOWN)
    assert "larger than" in str(got)
    served.release.set()
    assert await asyncio.gather(*held) == [str(number) for number in range(20)]
    await works_again(client, served.echo)


@pytest.mark.scenario(14, "A request over the client's own limit is refused before it is sent: TOO_LARGE, NOT_SENT.")
async def test_a_request_over_the_own_limit_is_not_sent(proxy: Proxy, served: Counting) -> None:
    async with AsyncClient(proxy.url, max_message_size=1000) as client:
        await client.connect()
        got = await ending(client.call(served.echo, "x" * 1000), within=LATE)
        assert got.evidence == ("TOO_LARGE", Execution.NOT_SENT)
        assert proxy.seen["up", "Basic.Publish"] == 0
        await works_again(client, served.echo)


@pytest.fixture
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers made from now on look after their exchanges, queues and bindings every 0.5 s instead of 30."""
    monkeypatch.setattr("warren.server.upkeep.INTERVAL", 0.5)


@pytest.mark.scenario(
    15, "The exchange is deleted under load: every call ends in time; workers bind their queues again within 30 s."
)
async def test_an_exchange_that_is_deleted_under_load(
    quick_look: None, client: AsyncClient, proxy: Proxy, served: Counting, rabbit: Node
) -> None:
    works = asyncio.Event()

    async def load(lane: int) -> list[str | None]:
        reasons: list[str | None] = []
        while not works.is_set():  # the worker may have bound its queue again before a lane has met that
            reasons.append((await ending(client.options(timeout=5).call(served.echo, f"{lane}"), within=5)).reason)
        return reasons

    lanes = [asyncio.create_task(load(lane)) for lane in range(10)]
    await until(lambda: sum(served.runs.values()) > 50)
    deleted = 'rabbit_exchange:delete(rabbit_misc:r(<<"/">>, exchange, <<"warren">>), false, <<"a test">>)'
    await asyncio.to_thread(rabbit.eval, deleted)
    await works_again(client, served.echo)
    works.set()
    reasons = {reason for lane in await asyncio.gather(*lanes) for reason in lane}
    assert reasons <= {None, "CHANNEL_CLOSED", "NO_ROUTE", "CLIENT_TIMER", "QUEUE_TTL"}
    assert len(proxy.accepted) == 1  # a channel was lost, not the connection


# --- slow and damaged ---------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    17, "connection.blocked for 3 s: calls wait and succeed, or end NOT_SENT naming the cause; the link stays up."
)
async def test_a_blocked_connection_is_waited_for(proxy: Proxy, served: Counting, rabbit: Node) -> None:
    async with AsyncClient(proxy.url, heartbeat=1) as client:
        await client.connect()
        with out_of_memory(rabbit):
            await until_blocked(client, proxy, served.echo)
            patient = [asyncio.create_task(client.options(timeout=60).call(served.echo, f"{n}")) for n in range(20)]
            hasty = await ending(client.options(timeout=3).call(served.echo, "hasty"), within=3)
            assert hasty.evidence == ("NOT_CONNECTED", Execution.NOT_SENT)
            assert "low on memory" in str(hasty)
        assert await asyncio.gather(*patient) == [f"{n}" for n in range(20)]
        assert len(proxy.accepted) == 1
        await works_again(client, served.echo)
    assert (served.runs["hasty"], {served.runs[f"{n}"] for n in range(20)}) == (0, {1})


@pytest.fixture
def small_frames(rabbit: Node) -> Iterator[None]:
    """Connections made from now on have the smallest frames that the broker allows: AMQP's 4096, from 4.1 on 8192."""
    before = rabbit.eval("element(2, application:get_env(rabbit, frame_max))")
    smallest = 8192 if tuple(map(int, version().split(".")[:2])) >= (4, 1) else 4096
    rabbit.eval(f"application:set_env(rabbit, frame_max, {smallest})")
    yield
    rabbit.eval(f"application:set_env(rabbit, frame_max, {before})")


MIB = "0123456789abcdef" * 65_536


@pytest.mark.scenario(18, "The smallest frames that the broker allows carry 1 MiB each way.")
async def test_small_frames_carry_large_bodies(
    small_frames: None, client: AsyncClient, proxy: Proxy, served: Counting
) -> None:
    assert await client.call(served.echo, MIB) == MIB
    assert proxy.seen["up", "Body"] >= 128
    await works_again(client, served.echo)


@pytest.mark.scenario(18, "Every byte in a packet of its own changes nothing.")
async def test_every_byte_in_its_own_packet(proxy: Proxy, served: Counting) -> None:
    proxy.up.slice = proxy.down.slice = 1
    async with AsyncClient(proxy.url) as client:
        assert await client.call(served.echo, MIB[:20_000]) == MIB[:20_000]
        await works_again(client, served.echo)
    assert len(proxy.accepted) == 1


@pytest.mark.scenario(18, "A second of round trip time is only slow: no connection is given up for it.")
async def test_half_a_second_of_delay_each_way(proxy: Proxy, served: Counting) -> None:
    async with AsyncClient(proxy.url, heartbeat=1, liveness_timeout=3) as client:
        await client.connect()
        proxy.up.delay = proxy.down.delay = 0.5
        assert await client.call(served.echo, "x") == "x"
        assert await asyncio.gather(*(client.call(served.echo, f"{n}") for n in range(100))) == [
            f"{n}" for n in range(100)
        ]
        proxy.up.delay = proxy.down.delay = 0
    assert len(proxy.accepted) == 1


@pytest.mark.scenario(18, "A slow transfer that takes longer than the liveness limit is not taken for silence.")
@pytest.mark.parametrize(("way", "rate", "size"), [("up", 4_000_000, 12_000_000), ("down", 10_000, 25_000)])
async def test_a_slow_line_is_not_a_silent_one(proxy: Proxy, served: Counting, way: Way, rate: int, size: int) -> None:
    text = "x" * size
    async with AsyncClient(proxy.url, heartbeat=1, liveness_timeout=2) as client:
        await client.connect()
        proxy.line(way).rate = rate
        assert await client.call(served.echo, text) == text
        proxy.line(way).rate = None
        await works_again(client, served.echo)
    assert len(proxy.accepted) == 1


FRAMES = range(35)  # the method frame that begins a request, or a reply
CONTENT = range(35, 150)  # what follows: properties and body


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize(
    "part",
    [
        pytest.param(
            FRAMES,
            id="frames",
            marks=pytest.mark.scenario(
                19, "A flipped bit in AMQP's frames: the right result or a typed error, in time."
            ),
        ),
        pytest.param(
            CONTENT,
            id="content",
            marks=pytest.mark.scenario(
                19,
                "A flipped bit in properties or body can change what a message means, as AMQP has no checksum: that "
                "call ends in time, and no other is harmed.",
            ),
        ),
    ],
)
async def test_a_flipped_bit_harms_no_other_call(
    proxy: Proxy, served: Counting, part: range, way: Way, seed: int
) -> None:
    rng = random.Random(seed)
    for number in range(12):
        # A client of its own each time, so that the pauses between its attempts stay short.
        async with AsyncClient(proxy.url, heartbeat=2, liveness_timeout=1) as client:
            await client.connect()
            proxy.line(way).corrupt(rng.choice(part))
            got = await ending(client.options(timeout=0.5).call(served.echo, f"{number}"), within=0.5)
            assert part is CONTENT or got.error is not None or got.value == f"{number}"
            await until(lambda: proxy.line(way).corrupted)
            await works_again(client, served.echo)


# --- more than the broker takes -----------------------------------------------------------------------------------


@pytest.mark.scenario(
    58, "When the broker reads nothing, calls from threads end at their deadline and release their threads."
)
def test_threads_are_released_when_nothing_is_read(proxy: Proxy, rabbit: Node, service_name: str) -> None:
    failures: list[CallError] = []

    def call(client: Client) -> None:
        try:
            client.options(timeout=2).call(f"{service_name}.echo", MIB * 4)
        except CallError as error:
            failures.append(error)

    with Client(proxy.url, heartbeat=0) as client:
        client.connect()
        proxy.up.silent = True
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(8)]
        deadline = time.monotonic() + 2 + LATE
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in threads)
        proxy.heal()
    assert len(failures) == 8
    assert {failure.reason for failure in failures} <= {"NOT_CONNECTED", "CLIENT_TIMER", "CONNECTION_LOST"}
    assert any(failure.execution is Execution.NOT_SENT for failure in failures)


@pytest.mark.scenario(
    105, "A producer that is faster than its broker is refused (CLIENT_LIMIT, NOT_SENT) before its memory grows."
)
async def test_a_producer_that_is_too_fast_is_held_back(proxy: Proxy, served: Counting) -> None:
    text = "x" * 100_000
    async with AsyncClient(proxy.url, max_waiting_bytes=2_000_000, heartbeat=0) as client:
        await client.connect()
        proxy.up.silent = True
        calls = [client.options(timeout=2).call(served.echo, text) for _ in range(400)]
        got = await endings(*calls, within=2)
        proxy.heal()
        refused = [one for one in got if one.reason == "CLIENT_LIMIT"]
        assert all(isinstance(one.error, Overloaded) and one.execution is Execution.NOT_SENT for one in refused)
        # What was taken is in the kernel's and the proxy's buffers, the transport's (1 MiB) or waits (2 MB).
        assert len(refused) > 200
        assert {one.reason for one in got} <= {"CLIENT_LIMIT", "CLIENT_TIMER", "NOT_CONNECTED", "CONNECTION_LOST"}
        await works_again(client, served.echo)
