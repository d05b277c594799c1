"""Finding one call: in the hands of a worker, or in a dead queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from warren.connection.settings import Settings
from warren.control.asking import Asking
from warren.dead.queue import DeadMessage, DeadQueueError, open_dead_queue
from warren.errors import PermissionDenied
from warren.operate.asked import Told, ask
from warren.operate.told import Call, Calls
from warren.protocol.control import TO_ALL

#: Messages of one dead queue that are looked through, oldest first, and queues at a time.
MOST_LOOKED_AT, _AT_A_TIME = 10_000, 5


class Held(NamedTuple):
    """A call that a process has."""

    instance: str
    call: Call


class Dead(NamedTuple):
    """A call that was set aside."""

    service: str
    message: DeadMessage


async def held(asking: Asking, key: str, patience: float) -> tuple[list[Held], Told[Calls]]:
    """The calls that processes have, oldest first."""
    told = await ask(asking, "calls", key, Calls, patience=patience)
    found = [Held(instance, call) for instance, calls in told.said.items() for call in calls.calls]
    return sorted(found, key=lambda one: -one.call.age), told


async def running(asking: Asking, call_id: str, patience: float) -> tuple[list[Held], Told[Calls]]:
    """Who has this call: more than one, if it was delivered twice."""
    found, told = await held(asking, TO_ALL, patience)
    return [one for one in found if one.call.call_id == call_id], told


async def dead(settings: Settings, services: Iterable[str], call_id: str) -> tuple[list[Dead], list[str]]:
    """In which of these services' dead queues it is, and which the broker does not let us read.

    Messages are put back where they were, marked as redelivered.

    Raises:
        CallError: the broker cannot be reached.
    """
    turn, closed = asyncio.Semaphore(_AT_A_TIME), list[str]()

    async def one(service: str) -> list[Dead]:
        async with turn:
            try:
                return await _look_through(settings, service, call_id)
            except PermissionDenied:
                closed.append(service)
            except DeadQueueError:
                pass  # it was deleted meanwhile
            return []

    found = await asyncio.gather(*map(one, services))
    return [entry for entries in found for entry in entries], sorted(closed)


async def _look_through(settings: Settings, service: str, call_id: str) -> list[Dead]:
    async with open_dead_queue(settings, service, bodies=False) as queue:
        messages = queue.messages(MOST_LOOKED_AT)
        return [Dead(service, message) async for message in messages if _names(message, call_id)]


def _names(message: DeadMessage, call_id: str) -> bool:
    p: Any = message.properties
    return p is not None and call_id.encode() in (p.message_id, p.correlation_id)
