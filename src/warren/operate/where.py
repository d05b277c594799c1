"""Finding one call: in the hands of a worker, or in a dead queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from warren.connection.settings import Settings
from warren.control.asking import Asking
from warren.dead.queue import DeadMessage, DeadQueueError, open_dead_queue
from warren.errors import PermissionDenied
from warren.operate import queues, silent
from warren.operate.asked import Told, ask, services_of
from warren.operate.queues import Standing
from warren.operate.told import Call, Calls, Process
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


def held(told: Told[Calls]) -> list[Held]:
    """The calls that processes have, oldest first."""
    found = [Held(instance, call) for instance, calls in told.said.items() for call in calls.calls]
    return sorted(found, key=lambda one: -one.call.age)


def left_out(told: Told[Calls]) -> int:
    """Calls that busy processes have and did not list."""
    return sum(one.left_out for one in told.said.values())


class Sought(NamedTuple):
    """What was found out about a call.

    Attributes:
        held: who has it: more than one, if it was delivered twice.
        dead: where it was set aside.
        closed: services whose dead queues the broker does not let us read.
        unseen: where nobody has looked, and it may be; in words.
    """

    held: list[Held]
    dead: list[Dead]
    closed: list[str]
    unseen: list[str]


async def find(asking: Asking, settings: Settings, call_id: str, more: Iterable[str], patience: float) -> Sought:
    """Look for a call in all processes that answer, and in the dead queues of their services and of some more.

    Raises:
        CallError: the connection is lost, or the broker does not let us ask.
    """
    calls, processes = await asyncio.gather(
        ask(asking, "calls", TO_ALL, Calls, patience=patience), silent.roll_call(asking, patience)
    )
    services = dict.fromkeys([*services_of(processes), *more])
    standings = await queues.look(asking.link, services, max(patience, 1.0))
    dead_, closed = await dead(settings, [one.service for one in standings if one.dead], call_id)
    unseen = _unseen(calls, processes, standings, closed)
    return Sought([one for one in held(calls) if one.call.call_id == call_id], dead_, closed, unseen)


def _unseen(
    calls: Told[Calls], processes: Mapping[str, Process], standings: Sequence[Standing], closed: Sequence[str]
) -> list[str]:
    """Where it may be though it was not found."""
    quiet = silent.find(standings, processes, calls.said)
    long = [one.service for one in standings if (one.dead or 0) > MOST_LOOKED_AT and one.service not in closed]
    unknown = [one.service for one in standings if one.trouble is not None]
    queued = sum(one.ready or 0 for one in standings)
    parts = {
        "no process has answered": not calls.said,
        f"not all workers have answered ({silent.in_words(quiet)})": quiet,
        "; ".join(calls.complaints()): calls.complaints(),
        f"{left_out(calls):,} calls that busy processes did not list": left_out(calls),
        f"{queued:,} that wait in queues, into which nobody can look": queued,
        f"queues of which nothing is known ({', '.join(unknown)})": unknown,
        f"dead queues that this user may not read ({', '.join(closed)})": closed,
        f"beyond the first {MOST_LOOKED_AT:,} in the dead queues of {', '.join(long)}": long,
    }
    return [text for text, there in parts.items() if there]


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
