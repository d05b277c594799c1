"""All instances are asked, and one of them dies, stands still, or loses its connection."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.support.proxy import Proxy
from tests.support.serving import doomed, lines
from tests.support.waiting import PATIENCE, until
from warren import AsyncClient, CallError, Execution, WorkerLost


async def test_an_instance_that_is_killed_with_the_request_is_lost_and_the_others_have_answered(
    url: str, service_name: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with doomed(2, service_name, url, runs) as workers:
        async with AsyncClient(url, timeout=PATIENCE) as client:
            told = asyncio.create_task(client.broadcast(f"{service_name}.at-most-once", "x", 60.0))
            await until(lambda: len(lines(runs)) == 2)
            for worker in workers:
                os.kill(worker.pid, signal.SIGKILL)
            failed = (await told).failed.values()
            assert [type(error) for error in failed] == [WorkerLost, WorkerLost]
            assert {error.execution for error in failed if isinstance(error, CallError)} == {Execution.UNKNOWN}
            assert len({error.call_id for error in failed if isinstance(error, CallError) and error.call_id}) == 2


async def test_an_instance_that_stands_still_is_not_waited_for_beyond_the_timeout(
    url: str, service_name: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with doomed(2, service_name, url, runs) as workers:
        os.kill(workers[0].pid, signal.SIGSTOP)
        try:
            async with AsyncClient(url, timeout=4) as client:
                told = await client.broadcast(f"{service_name}.at-most-once", "x")
                assert (len(told.told), told.failed, told.silent) == (1, {}, 1)
                assert len(lines(runs)) == 1
        finally:
            os.kill(workers[0].pid, signal.SIGCONT)


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "again"])
async def test_a_broker_that_says_nothing_is_not_waited_for_beyond_the_timeout(
    proxy: Proxy, url: str, service_name: str, tmp_path: Path, earlier: bool
) -> None:
    with doomed(1, service_name, url, tmp_path / "runs"):
        async with AsyncClient(proxy.url, timeout=PATIENCE, liveness_timeout=10 * PATIENCE, heartbeat=0) as client:
            await client.connect()
            if earlier:
                assert (await client.broadcast(f"{service_name}.at-most-once", "x")).all
            proxy.up.silent = proxy.down.silent = True
            try:
                async with asyncio.timeout(PATIENCE):
                    told = await client.options(timeout=1).broadcast(f"{service_name}.at-most-once", "x")
            finally:
                proxy.up.silent = proxy.down.silent = False
            assert (told.told, told.failed, told.silent) == ([], {}, 1)
