"""aio-pika's RPC pattern, set up as its documentation shows it, with JSON instead of pickle.

Its defaults stay on: publisher confirms on both sides, mandatory requests. The documented example sets no prefetch
and passes no expiration; queues are durable, as newer brokers want them.
"""

from __future__ import annotations

import asyncio

from aio_pika import connect_robust
from aio_pika.patterns import JsonRPC

from benchmarks.load import Job, expect, measure, read_job, serve_forever


async def echo(*, n: int) -> int:
    return n


async def serve(job: Job) -> None:
    connection = await connect_robust(job.url)
    async with connection:
        rpc = await JsonRPC.create(await connection.channel(), durable=True)
        await rpc.register(job.address, echo, auto_delete=True, durable=True)
        await serve_forever(job.address)


async def call(job: Job) -> None:
    connection = await connect_robust(job.url)
    async with connection:
        rpc = await JsonRPC.create(await connection.channel(), durable=True)

        async def one(number: int) -> None:
            expect(await rpc.call(job.address, {"n": number}), number)

        await measure(job, one)


if __name__ == "__main__":
    job = read_job()
    asyncio.run(serve(job) if job.verb == "serve" else call(job))
