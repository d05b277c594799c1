"""FastStream's ``broker.request``, as its documentation shows it, with its log line per message switched off.

Requests of one broker object wait for one another (its issue 1318), so more in flight is not faster. The timeout is
the same as Warren's default.
"""

from __future__ import annotations

import asyncio

from faststream.rabbit import RabbitBroker, RabbitQueue

from benchmarks.load import Job, expect, measure, read_job, serve_forever


async def echo(n: int) -> int:
    return n


async def serve(job: Job) -> None:
    broker = RabbitBroker(job.url, logger=None)
    broker.subscriber(RabbitQueue(job.address, durable=True))(echo)
    async with broker:
        await broker.start()
        await serve_forever(job.address)


async def call(job: Job) -> None:
    async with RabbitBroker(job.url, logger=None) as broker:

        async def one(number: int) -> None:
            reply = await broker.request(number, queue=job.address, timeout=30.0)
            expect(await reply.decode(), number)

        await measure(job, one)


if __name__ == "__main__":
    job = read_job()
    asyncio.run(serve(job) if job.verb == "serve" else call(job))
