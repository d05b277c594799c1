"""gRPC's asyncio server and client on loopback TCP: no broker in between, for comparison.

Mode ``items`` takes a stream of the server's. One channel and one stub for all calls and a deadline on each, as its
guides advise. Generic handlers with JSON by msgspec stand in for generated protobuf code, which costs about the same
for one small integer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec

from benchmarks.load import Job, expect, measure, measure_items, read_job, serve_forever

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(int).decode


async def echo(n: int, _context: Any) -> int:
    return n


async def items(_n: int, _context: Any) -> AsyncIterator[int]:
    for number in itertools.count():
        yield number


async def serve(_job: Job) -> None:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(echo, request_deserializer=_decode, response_serializer=_encode)
    stream = grpc.unary_stream_rpc_method_handler(items, request_deserializer=_decode, response_serializer=_encode)
    methods = {"echo": method, "items": stream}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await serve_forever(f"127.0.0.1:{port}")


async def call(job: Job) -> None:
    async with grpc.aio.insecure_channel(job.address) as channel:
        stub = channel.unary_unary("/bench.Echo/echo", request_serializer=_encode, response_deserializer=_decode)

        async def one(number: int) -> None:
            expect(await stub(number, timeout=30.0), number)

        await measure(job, one)


async def take(job: Job) -> None:
    async with grpc.aio.insecure_channel(job.address) as channel:
        stub = channel.unary_stream("/bench.Echo/items", request_serializer=_encode, response_deserializer=_decode)

        async def stream() -> AsyncIterator[int]:
            call = stub(0, timeout=600.0)
            try:
                async for item in call:
                    yield item
            finally:
                call.cancel()

        await measure_items(job, stream, lambda number, item: expect(item, number))


if __name__ == "__main__":
    job = read_job()
    asyncio.run(serve(job) if job.verb == "serve" else take(job) if job.mode == "items" else call(job))
