"""A worker process for one example: ``python worker.py MODULE URL`` serves ``MODULE.service``."""

import asyncio
import importlib
import sys

from warren import Server


async def main(module: str, url: str) -> None:
    server = Server(importlib.import_module(module).service, url=url)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        await server.ready()
        print("ready", flush=True)


asyncio.run(main(*sys.argv[1:]))
