"""Keep many calls in flight on one connection: with asyncio, with futures, and with threads.

Start the service of fib.py first: ``warren serve fib:service``.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor, as_completed

from fib import fib
from warren import AsyncClient, Client

URL = os.environ.get("WARREN_URL", "amqp://localhost")
NUMBERS = range(91)


async def with_asyncio() -> int:
    async with AsyncClient(URL) as client:
        return sum(await asyncio.gather(*(client.call(fib, n) for n in NUMBERS)))


def with_futures() -> int:
    with Client(URL) as client:
        futures = [client.submit(fib, n) for n in NUMBERS]  # none of them waits
        return sum(future.result() for future in as_completed(futures))


def with_threads() -> int:
    with Client(URL) as client, ThreadPoolExecutor(8) as pool:  # all threads share the client
        return sum(pool.map(lambda n: client.call(fib, n), NUMBERS))


if __name__ == "__main__":
    print("asyncio:", asyncio.run(with_asyncio()))
    print("futures:", with_futures())
    print("threads:", with_threads())
