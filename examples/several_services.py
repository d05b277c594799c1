"""Two services in one process, each with its own queue and its own concurrency; a call, and a cast nobody awaits.

Run it as it is, or ``warren serve fib:service several_services:audit``.
"""

import asyncio
import os

from fib import fib
from fib import service as calc
from warren import AsyncClient, Server, Service

URL = os.environ.get("WARREN_URL", "amqp://localhost")
audit = Service("audit", concurrency=1)
noted = asyncio.Event()


@audit.method
async def note(text: str) -> None:
    print("noted:", text)
    noted.set()


async def main() -> None:
    server = Server(calc, audit, url=URL)
    async with asyncio.TaskGroup() as group, AsyncClient(URL) as client:
        group.create_task(server.serve())
        await server.ready()
        print("fib(30) =", await client.call(fib, 30))
        await client.cast(note, "somebody wanted fib(30)")  # returns once the broker has it
        await noted.wait()
        server.stop()


if __name__ == "__main__":
    asyncio.run(main())
