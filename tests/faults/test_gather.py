"""All instances are asked, and one of them dies, stands still, or loses its connection."""

import asyncio
import os
import signal
from pathlib import Path

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
