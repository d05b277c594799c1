"""FastStream: ``python faststream_before.py serve``, then without ``serve``."""

import asyncio
import os
import sys

from faststream import FastStream
from faststream.rabbit import RabbitBroker

broker = RabbitBroker(os.environ.get("AMQP_URL", "amqp://localhost"), logger=None)
app = FastStream(broker)


@broker.subscriber("fib")
async def fib(n: int) -> dict[str, int | str]:
    if n < 0:  # raised, it would be no reply: the caller would wait until its time is over
        return {"error": "n must not be negative"}
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return {"result": a}


@app.after_startup
async def ready():
    print("serving", flush=True)


async def call(n):
    reply = await broker.request(n, "fib", timeout=10)
    answer = await reply.decode()
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer["result"]


async def main():
    await broker.connect()
    print("one: ", await call(30))
    print("many:", await asyncio.gather(*(call(n) for n in range(10))))  # in fact one after the other
    try:
        await call(-1)
    except ValueError as error:
        print("none:", error)
    await broker.stop()


if __name__ == "__main__":
    asyncio.run(app.run() if sys.argv[1:] else main())
