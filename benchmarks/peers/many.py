"""Warren with several services in one process: ``--mode 10`` serves ten, named ADDRESS.0 and so on, and calls them in
turn; ``--size`` bytes of text are echoed.
"""

from __future__ import annotations

import asyncio

from benchmarks.load import Job, expect, measure, read_job, serve_forever
from benchmarks.peers.warren import make_service
from warren import AsyncClient, Server


async def serve(job: Job) -> None:
    services = [make_service(f"{job.address}.{number}", "text")[0] for number in range(int(job.mode))]
    async with Server(*services, url=job.url, drain_timeout=0.5):
        await serve_forever(job.address)


async def call(job: Job) -> None:
    targets = [f"{job.address}.{number}.text" for number in range(int(job.mode))]
    data = "x" * job.size
    async with AsyncClient(job.url) as client:

        async def one(number: int) -> None:
            expect(len(await client.call(targets[number % len(targets)], data)), job.size)

        await measure(job, one)


if __name__ == "__main__":
    the_job = read_job()
    asyncio.run(serve(the_job) if the_job.verb == "serve" else call(the_job))
