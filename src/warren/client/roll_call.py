"""Which instances of a service there are: those that say so, and how many the broker counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.link import Link
from warren.control.asking import Questions
from warren.protocol.control import Answer, to_instance, to_service
from warren.protocol.evidence import NOT_CONNECTED, conclude

#: Seconds that the broker gets to say that there is no such instance any more.
_PROBE = 1.0


class RollCall:
    """Asks over a client's connection who is there; what that needs is opened when it is first asked for."""

    def __init__(self, link: Callable[[], Link | None]) -> None:
        self._link = link
        self._open = asyncio.Lock()
        self._questions = Questions()

    async def _ready(self) -> Questions:
        async with self._open:
            if not self._questions.is_open:
                link = self._link()
                if link is None:
                    raise conclude(NOT_CONNECTED, "there is no connection to the broker: ask again")
                questions = Questions()
                await questions.open(link)
                self._questions = questions
            return self._questions

    async def heard(self, service: str, patience: float) -> AsyncIterator[Answer]:
        """What those say who are there, each once, as it comes; of nobody where the broker knows of none.

        Raises:
            CallError: the connection is lost, or the broker does not let us ask.
        """
        known: set[str] = set()
        questions = await self._ready()
        async for answer in questions.ask("ping", to_service(service), patience=patience):
            if answer.instance and answer.instance not in known:
                known.add(answer.instance)
                yield answer

    async def is_gone(self, instance: str) -> bool:
        """Whether the broker has no control queue of this process; asked twice, as a reply may be on its way."""
        questions = await self._ready()
        if await questions.reaches(to_instance(instance), _PROBE):
            return False
        await asyncio.sleep(_PROBE / 4)
        return not await questions.reaches(to_instance(instance), _PROBE)

    async def counted(self, queue: str) -> int:
        """The consumers that a service's queue has; 0 where the broker does not say."""
        link = self._link()
        if link is None:
            return 0
        try:
            channel = await link.channel()
            try:
                _, consumers = await channel.inspect_queue(queue)
            finally:
                channel.drop()
        except (ChannelClosed, LinkLost):
            return 0
        return consumers


def consumers_of(answer: Answer, service: str) -> int:
    """How many of the consumers of this service's queue are this process's; one, if it does not say."""
    said = answer.body.get("consumers")
    count = said.get(service) if isinstance(said, dict) else None
    return count if type(count) is int and count >= 0 else 1
