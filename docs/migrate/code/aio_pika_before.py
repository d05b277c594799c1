"""aio-pika's RPC pattern: ``python aio_pika_before.py serve``, then without ``serve``."""

import asyncio
import os
import sys

from aio_pika import connect_robust
from aio_pika.patterns import RPC

URL = os.environ.get("AMQP_URL", "amqp://localhost")


async def fib(*, n):
    if n < 0:
        raise ValueError("n must not be negative")
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


async def serve():
    async with await connect_robust(URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        rpc = await RPC.create(channel)
        await rpc.register("fib", fib, auto_delete=True)
        print("serving", flush=True)
        await asyncio.Future()


async def main():
    async with await connect_robust(URL) as connection:
        rpc = await RPC.create(await connection.channel())
        print("one: ", await rpc.proxy.fib(n=30))
        print("many:", await asyncio.gather(*(rpc.proxy.fib(n=n) for n in range(10))))
        try:
            async with asyncio.timeout(10):  # it has none of its own
                await rpc.call("fib", {"n": -1})
        except ValueError as error:
            print("none:", error)
        await rpc.close()


if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1:] else main())
