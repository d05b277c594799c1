"""How the queues of services stand, from AMQP alone: what anybody may ask who may use them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from warren.connection.errors import ACCESS_REFUSED, NOT_FOUND, ChannelClosed
from warren.connection.link import Link
from warren.protocol import topology

#: Queues that are asked about at a time: each has a channel.
_AT_A_TIME = 20
#: What it means that the broker closes the channel instead; see docs/broker-facts.md for who may look.
_WHY = {NOT_FOUND: "it has no queue", ACCESS_REFUSED: "this user may not see how it stands: give it a right on it"}


@dataclass(frozen=True)
class Standing:
    """How a service's queues stand; None is what is not known.

    Attributes:
        ready: requests that wait.
        consumers: how many take them: one for each worker, and more for one that holds some aside.
        dead: messages in its dead queue.
        unacked, published, delivered: from the management plugin only: what workers have, and rates per second.
        trouble: why it cannot be said.
    """

    service: str
    ready: int | None = None
    consumers: int | None = None
    dead: int | None = None
    unacked: int | None = None
    published: float | None = None
    delivered: float | None = None
    trouble: str | None = None

    def as_object(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return asdict(self)


async def look(link: Link, services: Iterable[str], patience: float) -> list[Standing]:
    """How the queues of these services stand, in their order, as far as the broker says so within `patience` seconds.

    Raises:
        LinkLost: the connection is lost.
    """
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def one(service: str) -> Standing:
        async with turn:
            try:
                async with asyncio.timeout(patience):
                    return await _look(link, service)
            except TimeoutError:
                return Standing(service, trouble="the broker does not say how its queue stands")

    return await asyncio.gather(*map(one, services))


async def _look(link: Link, service: str) -> Standing:
    queue, trouble = await _inspect(link, topology.service_queue(service))
    dead, _ = await _inspect(link, topology.dead_queue(service))
    ready, consumers = queue or (None, None)
    return Standing(service, ready, consumers, dead[0] if dead else None, trouble=trouble)


async def _inspect(link: Link, queue: str) -> tuple[tuple[int, int] | None, str | None]:
    channel = await link.channel()
    try:
        found = await channel.inspect_queue(queue)
        await channel.close()
    except ChannelClosed as error:
        return None, _WHY.get(error.code, error.text)
    return found, None
