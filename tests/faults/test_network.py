"""The network and the broker fail: silence, restarts, loss of everything, alarms, and how all come back."""

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rabbit import Node
from tests.support import nodes
from tests.support.doomed import make_service
from tests.support.evidence import LATE, Counting, ending, endings, messages, out_of_memory, works_again
from tests.support.load import TYPED, Load, until_blocked
from tests.support.proxy import Proxy
from tests.support.raw import raw_channel, take
from tests.support.serving import lines, serving
from tests.support.waiting import until
from warren import AsyncClient, Code, Execution
from warren.protocol import topology

#: Quick limits: silence is noticed within a second, by the broker within six.
QUICK: dict[str, Any] = {"heartbeat": 2, "liveness_timeout": 1.0}
#: Seconds that noticing a silence of `QUICK` and coming back may take, on a busy machine.
NOTICED = 1.0 + 2.0 + LATE


@pytest.fixture
async def served(rabbit: Node, counting: Counting) -> AsyncIterator[Counting]:
    """The counting service, running on a connection that nothing happens to."""
    async with serving(counting.service, url=rabbit.url):
        yield counting
        counting.release.set()


# --- silence ------------------------------------------------------------------------------------------------------

SILENCES: dict[str, Callable[[Proxy], None]] = {
    "up": lambda proxy: proxy.abandon("up"),
    "down": lambda proxy: proxy.abandon("down"),
    "both": lambda proxy: proxy.abandon("up", "down"),
    "half-open": Proxy.half_open,
}


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("up", marks=pytest.mark.scenario(41, "Nothing reaches the broker any more: noticed in time (*).")),
        pytest.param("down", marks=pytest.mark.scenario(42, "Nothing comes from the broker any more: the same.")),
        pytest.param("both", marks=pytest.mark.scenario(42, "Silence in both directions: the same.")),
        pytest.param("half-open", marks=pytest.mark.scenario(43, "The broker's FIN or RST is lost: the same.")),
    ],
)
async def test_a_client_notices_silence_and_moves_to_a_new_connection(proxy: Proxy, served: Counting, how: str) -> None:
    """(*) within ``liveness_timeout``; calls that were written end UNKNOWN, new ones succeed on the next link."""
    async with AsyncClient(proxy.url, **QUICK) as client:
        calm = client.options(timeout=60)
        held = asyncio.create_task(ending(calm.call(served.hold, "held"), within=60))
        await until(lambda: served.runs["held"])
        SILENCES[how](proxy)
        begun = time.monotonic()
        again = calm.options(resend=True)
        during = asyncio.create_task(
            endings(again.call(served.echo, "call"), again.cast(served.echo, "cast"), within=60)
        )
        got = await asyncio.wait_for(held, NOTICED)
        assert got.evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
        call, cast = await during
        assert (call.value, cast.error) == ("call", None)
        assert time.monotonic() - begun < NOTICED
        await works_again(client, served.echo)
    assert len(proxy.accepted) == 2
    assert served.runs["held"] == 1


@pytest.mark.scenario(
    43,
    "A server notices silence as a client does and serves on. What the broker gives to its dead connection meanwhile "
    "ends as WORKER_LOST once the broker misses its heartbeats.",
)
@pytest.mark.parametrize("how", sorted(SILENCES))
async def test_a_server_notices_silence_and_serves_on(proxy: Proxy, rabbit: Node, counting: Counting, how: str) -> None:
    async with serving(counting.service, url=proxy.url, **QUICK), AsyncClient(rabbit.url) as client:
        await works_again(client, counting.echo)
        before = consumers(rabbit, counting.queue)
        SILENCES[how](proxy)
        calls = [client.options(timeout=30).call(counting.echo, f"{number}") for number in range(20)]
        during = asyncio.create_task(endings(*calls, within=30))
        await until(lambda: len(proxy.accepted) == 2, seconds=NOTICED)
        await until(lambda: not before & (now := consumers(rabbit, counting.queue)) and now, seconds=20)
        assert {one.reason for one in await during} <= {None, "WORKER_LOST"}
        await works_again(client, counting.echo)
    assert all(counting.runs[f"{number}"] <= 1 for number in range(20))
    assert messages(rabbit, counting.queue) == 0


def consumers(node: Node, queue: str) -> set[str]:
    """The tags of a queue's consumers."""
    found = node.eval(
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),'
        " [binary_to_list(element(2, C)) || C <- rabbit_amqqueue:consumers(Q)]"
    )
    return set(re.findall(r"ctag[\w.-]+", found))


# --- the broker goes and comes back -------------------------------------------------------------------------------


@pytest.mark.scenario(
    44, "stop_app and start_app under load: every call ends in time, in a result or a typed error; all resume alone."
)
async def test_the_broker_application_restarts_under_load(breakable_rabbit: Node, served: Counting) -> None:
    node = breakable_rabbit
    async with AsyncClient(node.url) as client, Load(client, served.echo) as load:
        await load.more()
        await asyncio.to_thread(node.ctl, "stop_app")
        await asyncio.to_thread(node.ctl, "start_app")
        await load.more()
        assert set(await load.stop()) <= TYPED
        await works_again(client, served.echo)
    assert max(served.runs[one.value] for one in load.endings if one.value) == 1


@pytest.mark.scenario(
    106, "A frozen broker is noticed like a dead one; calls made meanwhile wait, and return when it goes on."
)
async def test_a_frozen_broker(breakable_rabbit: Node, counting: Counting) -> None:
    node = breakable_rabbit
    async with serving(counting.service, url=node.url, **QUICK), AsyncClient(node.url, **QUICK) as client:
        held = asyncio.create_task(ending(client.options(timeout=60).call(counting.hold, "held"), within=60))
        await until(lambda: counting.runs["held"])
        node.freeze()
        got = await asyncio.wait_for(held, NOTICED)
        assert got.evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
        meanwhile = asyncio.create_task(client.options(timeout=60).call(counting.echo, "meanwhile"))
        hasty = await ending(client.options(timeout=0.5).call(counting.echo, "hasty"), within=0.5)
        assert hasty.evidence == ("NOT_CONNECTED", Execution.NOT_SENT)
        counting.release.set()
        node.thaw()
        assert await meanwhile == "meanwhile"
        await works_again(client, counting.echo)
    assert counting.runs == Counter({**counting.runs, "held": 1, "meanwhile": 1, "hasty": 0})


@pytest.mark.scenario(
    45, "kill -9 and restart: no confirmed cast is lost (at-least-once: each has run); replies find their new queue."
)
async def test_no_confirmed_cast_is_lost_when_the_broker_is_killed(breakable_rabbit: Node, served: Counting) -> None:
    node = breakable_rabbit
    confirmed: list[str] = []

    async def cast_on(client: AsyncClient, lane: int) -> None:
        for number in range(10_000):
            text = f"{lane}-{number}"
            if (await ending(client.cast(served.repeat, text), within=5)).error is not None:
                return
            confirmed.append(text)

    async with AsyncClient(node.url, timeout=5) as client:
        lanes = [asyncio.create_task(cast_on(client, lane)) for lane in range(20)]
        await until(lambda: len(confirmed) > 200)
        await asyncio.to_thread(node.kill)
        await asyncio.gather(*lanes)
        await asyncio.to_thread(node.start)
        await works_again(client, served.echo)
        await until(lambda: messages(node, served.queue) == 0)
    lost = [text for text in confirmed if not served.runs[text]]
    assert not lost


@pytest.mark.scenario(
    45, 'With reply="durable" an at-least-once call under way survives kill -9 and restart, and returns its result.'
)
async def test_a_durable_call_survives_the_death_of_the_broker(breakable_rabbit: Node, served: Counting) -> None:
    node = breakable_rabbit
    async with AsyncClient(node.url, reply="durable") as client:
        call = asyncio.create_task(ending(client.options(timeout=60).call(served.keep, "x"), within=60))
        await until(lambda: served.runs["x"])
        await client.cast(served.echo, "by now the call is confirmed")
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        served.release.set()
        assert (await call).value == "x"
        await works_again(client, served.echo)
    assert 1 <= served.runs["x"] <= 3


@pytest.mark.scenario(
    45,
    "kill -9 over a backlog of casts that may run once only: none runs twice, and each has run or is set aside."
    " A classic queue does not know any more what it had given out, so what waited in it is set aside as well.",
)
@pytest.mark.parametrize("queue", ["classic", "quorum"])
async def test_a_killed_broker_makes_nothing_run_twice(
    breakable_rabbit: Node, service_name: str, queue: str, tmp_path: Path
) -> None:
    node, runs, count = breakable_rabbit, tmp_path / "runs", 600
    service = make_service(service_name, queue, runs, concurrency=4)
    async with AsyncClient(node.url) as client:
        async with serving(service, url=node.url):
            await client.call(f"{service_name}.ping")
        modes = itertools.cycle(["report", "at-most-once"])
        await asyncio.gather(*(client.cast(f"{service_name}.{next(modes)}", f"{n}", 0.005) for n in range(count)))
        node.register_queues()
        aside: set[str] = set()

        def all_accounted_for() -> bool:
            aside.update(take_keys(node, topology.dead_queue(service_name)))
            return len(aside.union(lines(runs))) == count

        async with serving(service, url=node.url):
            await until(lambda: len(lines(runs)) > count / 4)
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)
            await until(all_accounted_for, seconds=60)
    assert max(Counter(lines(runs)).values()) == 1


def take_keys(node: Node, queue: str) -> set[str]:
    """The first arguments of the requests that are in a queue, which is empty then."""
    keys: set[str] = set()
    with raw_channel(node.url) as raw:
        while (message := take(raw, queue)) is not None:
            keys.add(json.loads(message[1])[0])
    return keys


@pytest.fixture
def vhost(rabbit: Node) -> Iterator[str]:
    """A vhost that may be lost; its URL."""
    make_vhost(rabbit)
    yield f"{rabbit.url}faults"
    nodes.delete_vhost(rabbit, "faults")


def make_vhost(node: Node) -> None:
    nodes.add_vhost(node, "faults")


@pytest.mark.scenario(
    46, "The vhost is deleted with all queues and made again: server and client come back without a restart."
)
async def test_a_vhost_that_is_lost_and_made_again(rabbit: Node, vhost: str, counting: Counting) -> None:
    async with serving(counting.service, url=vhost), AsyncClient(vhost) as client:
        await works_again(client, counting.echo)
        await asyncio.to_thread(nodes.delete_vhost, rabbit, "faults")
        got = await ending(client.options(timeout=1).call(counting.echo, "nowhere"), within=1)
        assert got.error is not None
        assert got.error.code in (Code.UNAVAILABLE, Code.PERMISSION_DENIED)
        await asyncio.to_thread(make_vhost, rabbit)
        await works_again(client, counting.echo, seconds=60)
    assert counting.runs["nowhere"] == 0


@pytest.fixture
def user(rabbit: Node) -> Iterator[str]:
    """A user of its own with all rights; its name, which is its password, too."""
    nodes.add_user(rabbit, "mallory", "mallory")
    yield "mallory"
    nodes.delete_user(rabbit, "mallory")


@pytest.mark.scenario(
    47,
    "Permission revoked: from the next connection on calls end PERMISSION_DENIED, UNKNOWN. "
    "Granted again: they work, without a restart.",
)
async def test_a_permission_that_comes_and_goes(rabbit: Node, served: Counting, user: str) -> None:
    async with AsyncClient(rabbit.url, username=user, password=user) as client:
        await works_again(client, served.echo)
        await asyncio.to_thread(nodes.grant, rabbit, user, (".*", "^amq[.]gen", ".*"))
        await asyncio.to_thread(rabbit.ctl, "close_all_user_connections", user, "a channel remembers what it may do")
        got = await ending(client.options(timeout=5).call(served.echo, "denied"), within=5)
        assert got.evidence == ("PERMISSION_DENIED", Execution.UNKNOWN)
        await asyncio.to_thread(nodes.grant, rabbit, user)
        await works_again(client, served.echo)
    assert served.runs["denied"] == 0


@pytest.mark.scenario(
    48, "The password changes and the connections are closed: the callable is asked again, and calls go on."
)
async def test_credentials_that_are_rotated(rabbit: Node, served: Counting, user: str) -> None:
    passwords = [user]
    asked: list[str] = []

    def password() -> str:
        asked.append(passwords[-1])
        return passwords[-1]

    async with AsyncClient(rabbit.url, username=user, password=password) as client:
        await works_again(client, served.echo)
        await asyncio.to_thread(rabbit.ctl, "change_password", user, "rotated")
        passwords.append("rotated")
        await asyncio.to_thread(rabbit.ctl, "close_all_user_connections", user, "rotated")
        await works_again(client, served.echo)
    assert asked == [user, "rotated"]


@pytest.mark.scenario(
    50, "100 clients lose their broker for 3 s: each tries at most 8 times a second, spread out; all are back in 30 s."
)
async def test_many_clients_come_back_without_a_stampede(breakable_rabbit: Node, counting: Counting) -> None:
    node = breakable_rabbit
    with Proxy(node.port) as proxy:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(AsyncClient(proxy.url, timeout=30)) for _ in range(100)]
            await asyncio.gather(*(client.connect() for client in clients))
            before = len(proxy.accepted)
            assert before == 100
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)
            async with serving(counting.service, url=node.url):
                got = await endings(
                    *(client.call(counting.echo, f"{n}") for n, client in enumerate(clients)), within=30
                )
                assert [one.value for one in got] == [f"{n}" for n in range(100)]
            attempts = sorted(proxy.accepted[before:])
    assert max(sum(start <= other < start + 1 for other in attempts) for start in attempts) <= 800
    assert attempts[99] - attempts[0] > 0.02


# --- alarms -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def alarmed(request: pytest.FixtureRequest, rabbit: Node) -> Iterator[str]:
    """A broker that is out of memory or disk, as far as it knows."""
    if request.param == "memory":
        rabbit.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.000001)")
    else:
        rabbit.eval('rabbit_disk_monitor:set_disk_free_limit("900000GB")')
    yield request.param
    rabbit.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
    rabbit.eval('rabbit_disk_monitor:set_disk_free_limit("50MB")')


@pytest.mark.scenario(
    101,
    "Out of memory or disk: calls and casts end at their deadline naming the cause; those not written say NOT_SENT. "
    "When the alarm is over the same client works on.",
)
async def test_an_alarm_is_named(proxy: Proxy, rabbit: Node, served: Counting, alarmed: str) -> None:
    cause = f"low on {alarmed}"
    async with AsyncClient(proxy.url, **QUICK) as client:
        hasty = client.options(timeout=1)
        # The publish that makes the broker block was written: whether it counts is not known, and it says so.
        first = await until_blocked(client, proxy, served.echo)
        assert first.evidence == ("CLIENT_TIMER", Execution.UNKNOWN)
        assert "not confirm" in str(first)
        assert cause in str(first)
        for request in (hasty.call(served.echo, "call"), hasty.cast(served.echo, "cast")):
            got = await ending(request, within=1)
            assert got.evidence == ("NOT_CONNECTED", Execution.NOT_SENT)
            assert cause in str(got)
        await asyncio.to_thread(rabbit.eval, "vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
        await asyncio.to_thread(rabbit.eval, 'rabbit_disk_monitor:set_disk_free_limit("50MB")')
        await works_again(client, served.echo)
    assert (served.runs["call"], served.runs["cast"]) == (0, 0)


@pytest.mark.scenario(102, "Replies that a worker cannot send during an alarm arrive when it is over.")
async def test_a_reply_waits_for_the_end_of_an_alarm(rabbit: Node, served: Counting) -> None:
    async with AsyncClient(rabbit.url) as client:
        held = [asyncio.create_task(client.options(timeout=60).call(served.hold, f"{n}")) for n in range(20)]
        await until(lambda: len(served.runs) == 20)
        with out_of_memory(rabbit):
            served.release.set()
            done, _ = await asyncio.wait(held, timeout=0.5)
            assert len(done) < 20
        assert await asyncio.gather(*held) == [f"{n}" for n in range(20)]
        await works_again(client, served.echo)
    assert {served.runs[f"{n}"] for n in range(20)} == {1}
