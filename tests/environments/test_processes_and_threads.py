"""Servers in threads, and processes that handlers start."""

import pytest

from tests.environments.conftest import Run

IN_A_THREAD = """
import asyncio, os, threading
from warren import Client, Server
import calc

url = os.environ["WARREN_URL"]
server = Server(calc.service, url=url)
ready = threading.Event()

async def main():
    serving = asyncio.ensure_future(server.serve())
    await server.ready()
    ready.set()
    await serving

thread = threading.Thread(target=asyncio.run, args=(main(),))
thread.start()
ready.wait()
with Client(url, timeout=30) as client:
    print(client.call(calc.add, 1, 1), client.call(calc.slow_add, 1, 2))
server.stop()
thread.join()
print("drained")
"""


def test_a_server_is_served_in_a_thread_and_stopped_from_another(run: Run) -> None:
    assert run(IN_A_THREAD).splitlines() == ["2 3", "drained"]


POOLS = """
import asyncio, multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from warren import AsyncClient, Client, Server, Service, current_call
import calc

service = Service("pools")
url = os.environ["WARREN_URL"]

def square(n):
    return n * n

def ask(n):
    with Client(url, timeout=30) as client:
        return client.call(calc.add, n, 1)

@service.lifespan
@asynccontextmanager
async def pool():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("HOW")) as pool:
        yield pool

@service.method
async def in_pool(n: int) -> int:
    return await asyncio.get_running_loop().run_in_executor(current_call().state, square, n)

@service.method
async def asks(n: int) -> int:
    return await asyncio.get_running_loop().run_in_executor(current_call().state, ask, n)

@service.method
def in_process(n: int) -> int:
    with multiprocessing.get_context("HOW").Pool(1) as pool:
        return pool.apply(square, (n,))

async def main():
    async with Server(service, calc.service, url=url), AsyncClient(url, timeout=60) as client:
        calls = [client.call(in_pool, n) for n in range(4)]
        print(*await asyncio.gather(*calls), await client.call(asks, 5), await client.call(in_process, 6))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_handlers_start_processes_in_every_way(run: Run, how: str) -> None:
    program = f"open('pools.py', 'w').write({POOLS.replace('HOW', how)!r})\n"
    assert run(program + "import pools, asyncio\nasyncio.run(pools.main())") == "0 1 4 9 6 36\n"
