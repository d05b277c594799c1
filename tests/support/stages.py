"""Pipelines of three stages in each delivery mode, on classic and quorum queues, and a worker process of one stage of
all of them, which stands at a chosen point: then a test kills it.

``python -m tests.support.stages NAME QUEUE URL`` serves both kinds of queues, whatever QUEUE says; its environment says
more: RUNS, the folder in which each run of a handler adds a line to its pipeline's file, and where it stands there one
to `REACHED`; STAGE, the number of the stage; POINT, where it stands; RUN, in which run of each handler.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from tests.support.doomed import note
from tests.support.serving import lines
from warren import Pipeline, Server, Service
from warren.server.attempt import Attempt
from warren.server.copies import Copies, Copy
from warren.server.onward import Onward

RUNNING = "while it runs"
BEFORE = "before it hands over"
BETWEEN = "between the confirm and the ack"
POINTS = (RUNNING, BEFORE, BETWEEN)
REACHED = "reached"

Mode = Literal["report", "at-least-once", "at-most-once"]
Queue = Literal["classic", "quorum"]
MODES: tuple[Mode, ...] = ("report", "at-least-once", "at-most-once")
QUEUES: tuple[Queue, ...] = ("classic", "quorum")

#: What the handler of a stage does, given its number, when it has noted that it runs.
Running = Callable[["Stages", int], Awaitable[None]]


async def goes_on(_stages: Stages, _number: int) -> None:
    """Nothing."""


class Stages:
    """Three services, whose methods note that they run in a file of this folder."""

    def __init__(
        self, name: str, folder: Path, mode: Mode, queue: Queue = "classic", running: Running = goes_on
    ) -> None:
        self.name, self.mode = f"{name}-{mode}-{queue}", mode
        self._runs = folder / self.name
        self.services = tuple(Service(f"{self.name}-{n}", queue=queue) for n in (1, 2, 3))

        def declare(number: int, service: Service) -> Any:
            @service.method(name="run", delivery=mode)
            async def run(text: str) -> str:
                note(self._runs, f"{number}")
                await running(self, number)
                return f"{text}{number}"

            return run

        self.one, self.two, self.three = (declare(n, s) for n, s in enumerate(self.services, 1))

        @self.services[0].method(delivery="at-least-once")
        async def undo(text: str) -> None:
            note(self._runs, f"undo {text}")

        self.undo = undo
        self.whole = Pipeline(self.one).then(self.two).then(self.three)
        if mode != "at-most-once":
            self.undoing = Pipeline(self.one, undo=undo).then(self.two).then(self.three)

    @property
    def ran(self) -> Counter[str]:
        """What has run, and how often."""
        return Counter(lines(self._runs))


def every(name: str, folder: Path, modes: tuple[Mode, ...] = MODES, running: Running = goes_on) -> list[Stages]:
    """One of each of these modes on each kind of queue."""
    return [Stages(name, folder, mode, queue, running) for mode, queue in itertools.product(modes, QUEUES)]


class Standing:
    """A worker whose stage does nothing more for a request once it has come to its point."""

    def __init__(self, stage: int, point: str, run: int, folder: Path) -> None:
        self.stage, self._point, self._run = stage, point, run
        self._reached = folder / REACHED
        self._runs: Counter[str] = Counter()

    async def running(self, stages: Stages, number: int) -> None:
        self._runs[stages.name] += number == self.stage
        if number == self.stage and self._point == RUNNING and self._runs[stages.name] == self._run:
            note(self._reached, stages.name)
            await asyncio.Event().wait()

    def patch(self) -> None:
        """For the points that are no handler's."""
        send, taken = Copies.send, Onward._taken

        def on_send(copies: Any, copy: Copy) -> None:
            key = copy.ways[0].routing_key.decode()
            if self._point == BEFORE and key.endswith(f"-{self.stage + 1}"):
                note(self._reached, key)
            else:
                send(copies, copy)

        def on_taken(onward: Onward, attempt: Attempt) -> None:
            if self._point == BETWEEN and attempt.service.endswith(f"-{self.stage}"):
                note(self._reached, attempt.service)
            else:
                taken(onward, attempt)

        Copies.send = on_send  # type: ignore[method-assign,assignment]
        Onward._taken = on_taken  # type: ignore[method-assign,assignment]


async def main(name: str, url: str) -> None:
    folder = Path(os.environ["RUNS"])
    standing = Standing(int(os.environ["STAGE"]), os.environ["POINT"], int(os.environ["RUN"]), folder)
    standing.patch()
    services = [stages.services[standing.stage - 1] for stages in every(name, folder, running=standing.running)]
    async with Server(*services, url=url):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[3]))
