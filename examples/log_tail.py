"""Follow a log like ``tail -f``, where ``warren serve log_tail:service`` runs; here all of it is one program."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator

from warren import AsyncClient, Server, Service

URL = os.environ.get("WARREN_URL", "amqp://localhost")
service = Service("log_tail")


@service.method
async def follow(path: str) -> AsyncIterator[str]:
    """The lines of a file, and then each one that is added to it."""
    try:
        with open(path) as file:  # noqa: ASYNC230 - of a disk, which does not keep us waiting
            while True:
                while line := file.readline():
                    yield line.rstrip("\n")
                await asyncio.sleep(0.05)
    finally:  # when the caller leaves its loop
        print("nobody follows any more")


async def main() -> None:
    with tempfile.NamedTemporaryFile("w", buffering=1) as log:
        async with Server(service, url=URL), AsyncClient(URL) as client:
            log.write("started\n")
            async for line in client.options(timeout=3600, idle_timeout=10).stream(follow, log.name):
                print("got:", line)
                if line == "last line":
                    break
                log.write("last line\n")


if __name__ == "__main__":
    asyncio.run(main())
