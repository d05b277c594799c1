"""gevent and eventlet: green threads instead of the system's, patched in before all else."""

import pytest

from tests.environments.conftest import Run

GEVENT = "from gevent import monkey, sleep, spawn\nmonkey.patch_all()\njoin = lambda thread: thread.get()\n"
EVENTLET = (
    "import eventlet; eventlet.monkey_patch()\nfrom eventlet import spawn, sleep\njoin = lambda thread: thread.wait()\n"
)
QUIET = ("-W", "ignore")  # eventlet says that it is deprecated

pytestmark = pytest.mark.usefixtures("worker")
each = pytest.mark.parametrize("patch", [GEVENT, EVENTLET], ids=["gevent", "eventlet"])

CLIENT = """
import os
from warren import Client
import calc

ticks = []
def tick():
    while len(ticks) < 1000:
        ticks.append(1)
        sleep(0.001)

with Client(os.environ["WARREN_URL"], timeout=30) as client:
    ticking = spawn(tick)
    calls = [spawn(client.call, calc.add, n, 1) for n in range(20)]
    print(sum(join(call) for call in calls), client.submit(calc.slow_add, 1, 1).result())
    print(len(ticks) > 1, "ticks beside the calls")
    ticking.kill()
"""


@each
def test_a_client_serves_many_green_threads_and_holds_up_none(run: Run, patch: str) -> None:
    assert run(patch + CLIENT, python=QUIET).splitlines() == ["210 2", "True ticks beside the calls"]


TWO = """
import os
from warren import CallError, Client
import calc

with Client(os.environ["WARREN_URL"], timeout=30) as client:
    print(client.call(calc.add, 1, 1))
    try:
        Client(os.environ["WARREN_URL"]).call(calc.add, 1, 1)
    except CallError as error:
        print(error)
"""


@each
def test_a_second_client_is_told_to_share_the_first(run: Run, patch: str) -> None:
    said = run(patch + TWO, python=QUIET)
    assert said.startswith("2\n")
    assert "share one Client" in said
    assert "NOT_SENT" in said


@each
def test_a_patch_that_comes_too_late_is_told(run: Run, patch: str) -> None:
    program = """
import os
from warren import CallError, Client
import calc
client = Client(os.environ["WARREN_URL"])
PATCH
try:
    client.call(calc.add, 1, 1)
except CallError as error:
    print(error)
""".replace("PATCH", patch)
    said = run(program, python=QUIET)
    assert "after warren was imported: patch first" in said
    assert "NOT_SENT" in said


ASYNC = """
import asyncio, os
from warren import AsyncClient, Server
import calc

async def main():
    async with Server(calc.service, url=os.environ["WARREN_URL"]):
        async with AsyncClient(os.environ["WARREN_URL"], timeout=30) as client:
            print(await client.call(calc.add, 1, 1), await client.call(calc.slow_add, 1, 2))

asyncio.run(main())
"""


@each
def test_asyncio_runs_there_too(run: Run, patch: str) -> None:
    assert run(patch + ASYNC, python=QUIET) == "2 3\n"
