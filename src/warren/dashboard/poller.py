"""The one that asks, for all browsers together: every two seconds, whoever looks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from warren.connection.errors import LinkLost
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.control.asking import Asking
from warren.dashboard.picture import Picture
from warren.dashboard.reading import MOST_INSTANCES, read
from warren.errors import CallError
from warren.logs import get_logger
from warren.operate.queues import look
from warren.operate.told import Calls, Health, Info, Stats
from warren.printable import printable
from warren.protocol import topology
from warren.protocol.control import TO_ALL
from warren.protocol.request import check_name

log = get_logger("warren.dashboard")

#: Looks between two in which all processes are asked what they are, and how their queues stand.
_INFO_EVERY, _QUEUES_EVERY = 15, 3
#: Seconds in which the broker has to say how a queue stands.
_QUEUE_PATIENCE = 5.0
#: Seconds in which processes have to answer, at least.
_PATIENCE = 0.4
#: Processes heard of one question, at most: beyond those that are shown, so that a crowd is noticed.
_MOST_HEARD = 2 * MOST_INSTANCES


class Poller:
    """Looks again and again, and keeps what it saw.

    Attributes:
        picture: what is known.
        trouble: why nothing can be seen now; None while all is well.
        ended: whether browsers are to be let go.
    """

    def __init__(self, settings: Settings, *, acting: bool, every: float = 2.0) -> None:
        """It looks each `every` seconds; `acting` is what browsers are told of it."""
        self._settings = settings
        self._acting = acting
        self._every = every
        self.picture = Picture()
        self.trouble: str | None = None
        self.ended = False
        self._look = 0
        self._changed = asyncio.Condition()
        self._events: dict[bool, bytes] = {}  # of this look, without and with what was before

    async def run(self) -> None:
        """Look for ever; a broker that is gone is tried again."""
        while True:
            try:
                async with Asking(self._settings) as asking:
                    await self._look_on(asking)
            except (CallError, LinkLost) as error:
                await self._tell(printable(str(error)))
            except Exception as error:  # a mistake of ours: pages that stand still would hide it
                log.exception("the dashboard could not look")
                await self._tell(f"the dashboard failed with {type(error).__name__}; its log says more; trying again")
            await asyncio.sleep(self._every)

    async def _look_on(self, asking: Asking) -> None:
        while True:
            began = time.monotonic()
            await self._once(asking)
            await self._tell(None)
            # At least half of the time is left to browsers, however much there is to read.
            await asyncio.sleep(max(self._every / 2, self._every - (time.monotonic() - began)))

    async def end(self) -> None:
        """Let all browsers go."""
        self.ended = True
        await self._tell(self.trouble)

    async def _tell(self, trouble: str | None) -> None:
        async with self._changed:
            self._look += 1
            self._events.clear()
            self.trouble = trouble
            self._changed.notify_all()

    async def _once(self, asking: Asking) -> None:
        stats, calls, health = await asyncio.gather(
            self._ask(asking, "stats", Stats), self._ask(asking, "calls", Calls), self._ask(asking, "health", Health)
        )
        now = time.monotonic()
        for name in stats.keys() | calls.keys() | health.keys():
            one = self.picture.heard(name, now)
            if one is not None:
                one.calls = calls.get(name, Calls())
                one.health = health.get(name, one.health)
        if self._look % _INFO_EVERY == 0 or any(not one.info.name for one in self.picture.instances.values()):
            await self._ask_who(asking)
        self.picture.looked(now, stats)
        if self._look % _QUEUES_EVERY == 0:
            await self._ask_queues(asking.link)

    async def _ask_who(self, asking: Asking) -> None:
        for name, info in (await self._ask(asking, "info", Info)).items():
            one = self.picture.heard(name, time.monotonic())
            if one is not None:
                one.info = info

    async def _ask(self, asking: Asking, verb: str, kind: type[Any]) -> dict[str, Any]:
        """What all processes say; who refuses, or makes no sense, says nothing."""
        said: dict[str, Any] = {}
        async for answer in asking.ask(verb, TO_ALL, patience=max(_PATIENCE, self._every / 3)):
            with contextlib.suppress(ValueError, RecursionError):
                if answer.error is None and not answer.trouble and len(said) < _MOST_HEARD:
                    said[printable(answer.instance)[:40]] = read(kind, answer.body)
        return said

    async def _ask_queues(self, link: Link) -> None:
        names = [name for name in self.picture.services() if _can_be_a_queue(name)]
        self.picture.queues = {one.service: one for one in await look(link, names, _QUEUE_PATIENCE)}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """What a browser is sent: all there is, with what was before, and then each look; a slow one misses some."""
        sent = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.ended or self._look != sent)  # noqa: B023 - awaited here
            if self.ended:
                return
            with_history, sent = sent == 0 or sent != self._look - 1, self._look
            if with_history not in self._events:
                self._events[with_history] = self._event(with_history=with_history)
            yield self._events[with_history]

    def _event(self, *, with_history: bool) -> bytes:
        history = self.picture.history
        said = {
            "look": self._look,
            "every": self._every,
            "acting": self._acting,
            "trouble": self.trouble,
            **self.picture.as_object(time.monotonic()),
            "all": with_history,
            "points": history.series() if with_history else history.points(),
        }
        return b"data: %b\n\n" % msgspec.json.encode(said)


def _can_be_a_queue(service: str) -> bool:
    try:
        check_name(topology.dead_queue(service))
    except ValueError:  # too long for AMQP
        return False
    return True
