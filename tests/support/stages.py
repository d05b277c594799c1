"""A worker process of one of the three services of a pipeline, which dies at a chosen point.

``python -m tests.support.stages NAME QUEUE URL``; its environment says more: RUNS, the file to which each run of a
handler adds a line; MODE, a delivery mode; STAGE, the number of the stage; POINT, where it dies; RUN, in which run of
its handler, if not the first.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tests.support.doomed import note
from warren import Pipeline, Server, Service
from warren.server.attempt import Attempt
from warren.server.copies import Copies, Copy
from warren.server.onward import Onward

RUNNING = "while it runs"
BEFORE = "before it hands over"
BETWEEN = "between the confirm and the ack"
POINTS = (RUNNING, BEFORE, BETWEEN)


class Stages:
    """Three services, whose methods note that they run."""

    def __init__(
        self, name: str, runs: Path, mode: Any, queue: Any = "classic", running: Callable[[int], None] = lambda _n: None
    ) -> None:
        self.services = tuple(Service(f"{name}-{n}", queue=queue) for n in (1, 2, 3))

        def declare(number: int, service: Service) -> Any:
            @service.method(name="run", delivery=mode)
            async def run(text: str) -> str:
                note(runs, f"{number}")
                running(number)
                return f"{text}{number}"

            return run

        self.one, self.two, self.three = (declare(n, s) for n, s in enumerate(self.services, 1))

        @self.services[0].method(delivery="at-least-once")
        async def undo(text: str) -> None:
            note(runs, f"undo {text}")

        self.undo = undo
        self.whole = Pipeline(self.one).then(self.two).then(self.three)
        if mode != "at-most-once":
            self.undoing = Pipeline(self.one, undo=undo).then(self.two).then(self.three)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(name: str, queue: Literal["classic", "quorum"], url: str) -> None:
    stage, point = int(os.environ.get("STAGE", "0")), os.environ.get("POINT", "")
    runs = itertools.count(1)
    last = int(os.environ.get("RUN", "1"))

    def running(number: int) -> None:
        if number == stage and point == RUNNING and next(runs) == last:
            die()

    stages = Stages(
        name,
        Path(os.environ["RUNS"]),
        os.environ["MODE"],
        queue,
        running,
    )
    send, taken = Copies.send, Onward._taken

    def on_send(copies: Any, copy: Copy) -> None:
        if point == BEFORE and copy.ways[0].routing_key == f"{name}-{stage + 1}".encode():
            die()
        send(copies, copy)

    def on_taken(onward: Onward, attempt: Attempt) -> None:
        if point == BETWEEN and attempt.service == f"{name}-{stage}":
            die()
        taken(onward, attempt)

    Copies.send = on_send  # type: ignore[method-assign,assignment]
    Onward._taken = on_taken  # type: ignore[method-assign,assignment]

    async def serve() -> None:
        async with Server(stages.services[stage - 1], url=url):
            print("ready", flush=True)
            await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
