"""RabbitMQ's tutorial six, both ways: a service that its clients call, in any language, and a call to its servers.

The queue has the service's name, so the tutorial's rpc_client.py finds this one at ``rpc_queue``. Run it as it is,
or ``warren serve tutorial_six:service``.
"""

import asyncio
import os

from warren import AsyncClient, CallError, Server, Service

URL = os.environ.get("WARREN_URL", "amqp://localhost")
service = Service("rpc_queue", concurrency=1)  # one at a time: the tutorial's fair dispatch


@service.method(default=True)  # it answers requests without a method name: text in, text out
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


async def main() -> None:
    server = Server(service, url=URL)
    async with asyncio.TaskGroup() as group, AsyncClient(URL) as client:
        group.create_task(server.serve())
        await server.ready()
        print("fib(20) =", (await client.call_bare("rpc_queue", b"20")).decode())
        try:
            await client.call_bare("rpc_queue", b"abc")
        except CallError as error:
            print("fib(abc):", error.message)
        server.stop()


if __name__ == "__main__":
    asyncio.run(main())
