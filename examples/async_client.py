"""Call the service of fib.py from asyncio. Start that first: ``warren serve fib:service``."""

import asyncio
import os

from fib import fib
from warren import AsyncClient

URL = os.environ.get("WARREN_URL", "amqp://localhost")


async def main() -> None:
    async with AsyncClient(URL, timeout=5) as client:
        print("one: ", await client.call(fib, 30))
        print("many:", await asyncio.gather(*(client.call(fib, n) for n in range(10))))
        try:
            async with asyncio.timeout(2):  # cancelling a call gives it up
                print("last:", await client.options(fail_fast=True).call("calc.fib", 90))
        except TimeoutError:  # warren.DeadlineExceeded is one, too
            print("last: too slow")


if __name__ == "__main__":
    asyncio.run(main())
