"""NATS request/reply with nats-py, on a NATS server of its own: another broker, and a lighter promise.

`Client.request` in as many tasks as calls in flight, all answers to one inbox, and a subscription with a callback, as
its documentation has it. JSON by msgspec, as with gRPC. At most once: nothing is confirmed or acknowledged.
"""

from __future__ import annotations

import asyncio

import msgspec
import nats
from nats.aio.msg import Msg

from benchmarks.load import Job, expect, measure, read_job, serve_forever

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(int).decode


async def echo(n: int) -> int:
    return n


async def serve(job: Job) -> None:
    async with await nats.connect(job.url) as connection:

        async def on_request(message: Msg) -> None:
            await message.respond(_encode(await echo(_decode(message.data))))

        await connection.subscribe(job.address, cb=on_request)
        await connection.flush()
        await serve_forever(job.address)


async def call(job: Job) -> None:
    async with await nats.connect(job.url) as connection:

        async def one(number: int) -> None:
            reply = await connection.request(job.address, _encode(number), timeout=30.0)
            expect(_decode(reply.data), number)

        await measure(job, one)


if __name__ == "__main__":
    job = read_job()
    asyncio.run(serve(job) if job.verb == "serve" else call(job))
