"""Who has said nothing: workers that the broker counts, and that are not among those that have answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from warren.control.asking import Asking
from warren.operate.asked import ask
from warren.operate.queues import Standing, look
from warren.operate.told import Process
from warren.protocol.control import TO_ALL


class Silent(NamedTuple):
    """A service of which fewer processes have answered than take its requests."""

    service: str
    workers: int
    answered: int


def find(standings: Iterable[Standing], processes: Mapping[str, Process], heard: Iterable[str]) -> list[Silent]:
    """The services that have workers of which nothing was heard.

    Args:
        standings: how their queues stand.
        processes: what processes say to ``ping``, by instance.
        heard: the instances that have answered what is to be known.
    """
    heard = set(heard)
    there = [one for key, one in processes.items() if key in heard]
    counted = [
        Silent(one.service, one.consumers or 0, sum(_consumers(of, one.service) for of in there)) for one in standings
    ]
    return [one for one in counted if one.workers > one.answered]


def _consumers(process: Process, service: str) -> int:
    """How many of the consumers of this service's queue are this process's; one, if it does not say."""
    return process.consumers.get(service, int(service in process.services))


async def roll_call(asking: Asking, patience: float, key: str = TO_ALL) -> Mapping[str, Process]:
    """All processes that are there, by instance."""
    return (await ask(asking, "ping", key, Process, patience=patience)).said


async def among(
    asking: Asking, services: Iterable[str], processes: Mapping[str, Process], heard: Iterable[str], patience: float
) -> list[Silent]:
    """The same of these services, with a look at their queues.

    Raises:
        LinkLost: the connection is lost.
    """
    return find(await look(asking.link, services, max(patience, 1.0)), processes, heard)


def in_words(silent: Iterable[Silent]) -> str:
    """How many workers of which service were heard."""
    return ", ".join(f"{one.service}: {one.answered} of {one.workers}" for one in silent)
