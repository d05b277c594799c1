"""A service that calls another one: the nested calls inherit the time that is left, so nobody works for nothing.

Run it as it is; or, in two terminals, ``warren serve nested:shop`` and ``warren serve nested:prices``.
"""

import asyncio
import os
import time

from warren import AsyncClient, Server, Service, current_call

URL = os.environ.get("WARREN_URL", "amqp://localhost")
client = AsyncClient(URL)  # calls may take 30 seconds, the default
prices, shop = Service("prices"), Service("shop")


@prices.method
async def price(item: str) -> int:
    deadline = current_call().deadline  # None: the caller has set no limit
    print(f"{item}: {deadline - time.monotonic():.0f} s left" if deadline else f"{item}: no hurry")
    return 100 * len(item)


@shop.method
async def total(items: list[str]) -> int:
    return sum(await asyncio.gather(*(client.call(price, item) for item in items)))


async def main() -> None:
    server = Server(shop, prices, url=URL)
    async with asyncio.TaskGroup() as group, client:
        group.create_task(server.serve())
        await server.ready()
        print("total:", await client.options(timeout=5).call(total, ["tea", "cake"]))
        server.stop()


if __name__ == "__main__":
    asyncio.run(main())
