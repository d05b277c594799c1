"""Three nodes: what a client and a worker notice when one of them goes, or two."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from rabbit import Cluster
from tests.support.evidence import Counting, ending, works_again
from tests.support.load import TYPED, Load
from tests.support.serving import serving
from warren import AsyncClient, Client, Execution

pytestmark = pytest.mark.timeout(1200)  # three nodes start

#: The cluster may be electing leaders: seconds that calls which shall succeed may take.
PATIENCE = 30.0


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[Cluster]:
    """Three nodes for the tests of one file; three VMs are too many to keep beside other tests."""
    with Cluster(name="warren-faults", extra_conf="net_ticktime = 5") as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The three nodes for a test that kills, freezes or restarts some of them; whole again afterwards."""
    yield whole_cluster
    whole_cluster.mend()


@pytest.fixture
async def counting(service_name: str) -> Counting:
    """A service on a quorum queue."""
    return Counting(service_name, queue="quorum")


@pytest.fixture
async def served(cluster: Cluster, counting: Counting) -> AsyncIterator[Counting]:
    """The service, on any node of the cluster."""
    async with serving(counting.service, url=cluster.url, liveness_timeout=2.0):
        yield counting
        counting.release.set()


@pytest.mark.scenario(
    49,
    "The node in use is killed: calls under way end UNKNOWN at once, with resend they return; the clients and "
    "the worker move to another node by themselves.",
)
async def test_the_node_in_use_is_killed(cluster: Cluster, served: Counting) -> None:
    async with AsyncClient(cluster.url, timeout=PATIENCE) as client:
        blocking = Client(cluster.url, timeout=PATIENCE)
        try:
            assert await asyncio.to_thread(blocking.call, served.echo, "blocking") == "blocking"
            lost = asyncio.create_task(ending(client.call(served.hold, "lost"), within=PATIENCE))
            kept = asyncio.create_task(ending(client.call(served.keep, "kept"), within=PATIENCE))
            await works_again(client, served.echo)
            assert served.runs == Counter({**served.runs, "lost": 1, "kept": 1})
            await asyncio.to_thread(cluster.nodes[0].kill)
            assert (await asyncio.wait_for(lost, 10)).evidence == ("CONNECTION_LOST", Execution.UNKNOWN)
            served.release.set()
            assert (await kept).value == "kept"
            await works_again(client, served.echo, seconds=PATIENCE)
            assert await asyncio.to_thread(blocking.call, served.echo, "moved") == "moved"
        finally:
            await asyncio.to_thread(blocking.close)
    assert served.runs["lost"] == 1


@pytest.mark.scenario(
    49,
    "The node in use freezes: it is noticed within liveness_timeout, and client and worker move on as soon as the rest "
    "of the cluster has noticed it, too (RabbitMQ's net_ticktime).",
)
async def test_the_node_in_use_freezes(cluster: Cluster, served: Counting) -> None:
    patience = 90.0  # RabbitMQ 4.3 needs most of a minute to declare anything again, 3.10 and 4.0 only seconds
    async with AsyncClient(cluster.url, timeout=patience, liveness_timeout=2.0) as client:
        await works_again(client, served.echo)
        cluster.nodes[0].freeze()
        try:
            got = await ending(client.call(served.repeat, "x"), within=patience)
            assert got.value == "x"
            await works_again(client, served.echo, seconds=patience)
        finally:
            cluster.nodes[0].kill()  # thawed, it would stay apart from the others


@pytest.mark.scenario(
    103,
    "A rolling restart of the cluster under load: every call ends in time, at-least-once calls all return, and neither "
    "client nor worker needs a restart.",
)
async def test_a_rolling_restart_under_load(cluster: Cluster, served: Counting) -> None:
    async with (
        AsyncClient(cluster.url) as client,
        Load(client, served.echo, lanes=5) as load,
        Load(client, f"{served.queue}.repeat", lanes=5, timeout=PATIENCE, resend=True) as sure,
    ):
        await load.more()
        for node in cluster.nodes:
            await asyncio.to_thread(node.restart)
            await asyncio.to_thread(cluster.mend)
            await load.more()
        assert set(await load.stop()) <= TYPED | {"QUEUE_FULL", "ON_ARRIVAL"}  # no leader; waited for one too long
        assert set(await sure.stop()) == {None}
        await works_again(client, served.echo)
    assert max(served.runs[one.value] for one in load.endings if one.value) == 1


@pytest.mark.scenario(
    104,
    "A quorum queue without a majority: calls and casts end UNKNOWN at their deadline, saying that the broker has not "
    "confirmed; with the majority back the same client works on.",
)
async def test_a_quorum_queue_without_a_majority(cluster: Cluster, counting: Counting) -> None:
    url = cluster.nodes[2].url
    async with serving(counting.service, url=url), AsyncClient(url) as client:
        await works_again(client, counting.echo, seconds=PATIENCE)
        for node in cluster.nodes[:2]:
            await asyncio.to_thread(node.kill)
        hasty = client.options(timeout=2)
        for request in (hasty.call(counting.echo, "call"), hasty.cast(counting.echo, "cast")):
            got = await ending(request, within=2)
            assert got.evidence == ("CLIENT_TIMER", Execution.UNKNOWN)
            assert "not confirm" in str(got)
        await asyncio.to_thread(cluster.mend)
        await works_again(client, counting.echo, seconds=PATIENCE)
    assert counting.runs["call"] <= 1
