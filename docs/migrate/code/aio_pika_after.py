"""The same with Warren: ``warren serve aio_pika_after``, then ``python aio_pika_after.py``."""

import asyncio
import os

from warren import AsyncClient, Service

URL = os.environ.get("AMQP_URL", "amqp://localhost")
service = Service("calc", errors=[ValueError])


@service.method
async def fib(*, n: int) -> int:
    if n < 0:
        raise ValueError("n must not be negative")
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


async def main() -> None:
    async with AsyncClient(URL, timeout=10) as client:
        print("one: ", await client.call(fib, n=30))
        print("many:", await asyncio.gather(*(client.call(fib, n=n) for n in range(10))))
        try:
            await client.call(fib, n=-1)
        except ValueError as error:
            print("none:", error)


if __name__ == "__main__":
    asyncio.run(main())
