"""A client and a worker, with all that they are made of, on one loop and one wire, for tests that play with both.

Time is the test's, threads take turns (`turns`), and what is published comes when it is let through (`model_wire`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from tests.support.model_wire import Wire, WireLink, WireSupervisor
from tests.support.turns import ThreadsInTurn, WorkersThreads
from tests.support.virtual_time import Clock, SteppedLoop
from warren import Service
from warren.client import core, inlet, prepared, sending, streams, waiters
from warren.client.core import ClientCore
from warren.client.core_loop import CoreLoop
from warren.client.io_thread import IOThread
from warren.client.options import Limits
from warren.connection.settings import make_settings
from warren.protocol.streaming import Window, together, window_fields
from warren.server import inflow, post, repair, streaming
from warren.server.control import answering
from warren.server.inflow import Inflow
from warren.server.post import Post
from warren.server.streaming import Outlet
from warren.server.worker import Worker

#: Bytes that travel together.
TOGETHER = 24
#: Timers, one behind the other, that may ring at one time.
_MOST_AT_ONCE = 1000


class Gate:
    """Lets so many pass, one by one; or all."""

    def __init__(self, ends: BothEnds) -> None:
        self._ends = ends
        self._places = 0
        self._open = False
        self._waiting: list[asyncio.Future[None]] = []
        ends.gates.append(self)

    def let(self, count: int) -> None:
        self._places += count
        self._wake()

    def open(self) -> None:
        self._open = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @property
    def _lets(self) -> bool:
        return self._open or self._places > 0

    async def passed(self) -> None:
        while not self._lets:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        self._places -= not self._open

    def passed_in_thread(self) -> None:
        self._ends.threads.wait(lambda: self._lets)
        self._places -= not self._open


class BothEnds:
    """See the module.

    Attributes:
        core: the client.
        io: the same, as a blocking client has it.
        worker, post: the worker.
    """

    def __init__(self, service: Service, window: Window, *, durable: bool) -> None:
        self.clock = Clock()
        self.loop = SteppedLoop(self.clock)
        self.threads = ThreadsInTurn(self.clock)
        self.wire = Wire()
        self.gates: list[Gate] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._patches = contextlib.ExitStack()
        try:
            self._put_in_place(window)
            self.loop.turn(lambda: self._make(service, durable))
            self._io()
            self.connect_client()
            self.connect_worker()
        except BaseException:
            self.close()
            raise

    def _put_in_place(self, window: Window) -> None:
        for module in [m for n, m in sys.modules.items() if n.startswith("warren.") and m is not None]:
            if getattr(module, "time", None) is time:
                self._put(module, "time", self.clock)
        for module in (streaming, inflow, sending, streams, waiters):
            self._put(module, "threading", self.threads.stand_in)
        for module in (streaming, sending):
            self._put(module, "together", partial(together, most=TOGETHER))
        for module in (inlet, inflow):
            self._put(module, "DEFAULT_WINDOW", window)
        self._put(prepared, "_WINDOW", window_fields(window))
        self._put(core, "Supervisor", self._supervised)
        self._put(post, "declare", _declared)
        self._put(repair, "random", SimpleNamespace(Random=lambda: random.Random(1)))

    def _put(self, module: ModuleType, name: str, value: object) -> None:
        self._patches.enter_context(patch.object(module, name, value))

    def _supervised(self, _settings: Any, **callbacks: Any) -> WireSupervisor:
        self.supervisor = WireSupervisor(self.wire, **callbacks)
        return self.supervisor

    # --- the ends -----------------------------------------------------------------------------------------------

    def _make(self, service: Service, durable: bool) -> None:
        for queue in ("any", "any.dead"):
            self.wire.declare(queue, "requests", None)
        limits = Limits(50, 1_000_000, 1_000_000, send_user=False, reply="durable" if durable else "exclusive")
        self.core = ClientCore(make_settings("amqp://model"), limits)
        self.core.open()
        self.worker = Worker(service, 20, "server", "a process")
        cast(Any, self.worker)._runner.threads = WorkersThreads(self.threads, self.loop)
        self.post = Post(self.worker, self._spawn)
        self.answering = cast(Any, answering)("look", SimpleNamespace(posts=[self.post]))
        self.workers_link: WireLink | None = None

    def _io(self) -> None:
        self.io = IOThread(cast(Any, None), cast(Any, None))
        calls = CoreLoop(cast(Any, None), cast(Any, None))
        inside = cast(Any, calls)
        inside._loop, inside._core, inside.is_open = self.loop, self.core, True
        cast(Any, self.io)._calls = calls
        cast(Any, self.io)._thread = SimpleNamespace(is_alive=lambda: True)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self.tasks.append(task)
        return task

    def connect_client(self) -> None:
        if self.supervisor.link is None:
            self._do(self.supervisor.connect)

    def cut_client(self) -> None:
        self.loop.turn(self.supervisor.lose)
        self.settle()

    def connect_worker(self) -> None:
        if self.workers_link is None:
            self._do(self._connect_worker)

    async def _connect_worker(self) -> None:
        link = WireLink(self.wire, self._lose_worker)
        self.workers_link = link
        await self.answering.open(cast(Any, link))
        await self.post.set_up(cast(Any, link))

    def cut_worker(self) -> None:
        self.loop.turn(self._lose_worker)
        self.settle()

    def _lose_worker(self) -> None:
        link, self.workers_link = self.workers_link, None
        if link is not None:
            link.break_off()
            self.post.lost()

    def _do(self, work: Callable[[], Any]) -> None:
        task: list[asyncio.Task[Any]] = []
        self.loop.turn(lambda: task.append(self._spawn(work())))
        self.settle()
        task[0].result()

    # --- turns and time -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """All that can happen now, without time."""
        self.loop.turn()
        for _ in range(20_000):
            if self.loop.ready:
                self.loop.turn()
            elif not (self._in_a_turn(self.wire.step) or self.threads.step()):
                return
        raise AssertionError("it does not come to rest")

    def _in_a_turn(self, step: Callable[[], bool]) -> bool:
        """What comes from outside comes in a turn of the loop."""
        done: list[bool] = []
        self.loop.turn(lambda: done.append(step()))
        return done[0]

    def pass_time(self, seconds: float) -> None:
        end = self.clock.now + seconds
        self.settle()
        stands = 0
        while (due := self._due()) is not None and due <= end:
            stands = 0 if due > self.clock.now else stands + 1
            assert stands < _MOST_AT_ONCE, "timers ring again and again, and no time passes"
            self.clock.now = max(self.clock.now, due)
            self.settle()
        self.clock.now = end
        self.settle()

    def _due(self) -> float | None:
        timers = [t.when() for t in self._timers()]
        times = [*timers, *([] if self.threads.due is None else [self.threads.due])]
        return min(times, default=None)

    def _timers(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in cast(Any, self.loop)._scheduled if not timer.cancelled()]

    def failures(self) -> list[BaseException]:
        """What the worker's own tasks have raised."""
        done = [task for task in self.tasks if task.done() and not task.cancelled()]
        return [error for task in done if (error := task.exception()) is not None]

    # --- afterwards ---------------------------------------------------------------------------------------------

    def left_over(self) -> list[str]:
        """What is still registered, though all calls have ended."""
        client, worker = cast(Any, self.core), cast(Any, self.worker)
        places = {
            "outlets": self.post.streams._open,
            "inflows": self.post.uploads._open,
            "calls": list(client._calls),
            "cancels": client.cancels._given_up,
            "credits": client.cancels._credits,
            "senders": client.cancels.uplink._senders,
            "attempts": worker._places.taken,
            "threads": range(self.threads.alive),
        }
        found = [f"{name}: {list(place)}" for name, place in places.items() if place]
        return found + [f"a timer of {owner}" for owner in self._owners_of_timers()]

    def _owners_of_timers(self) -> Iterator[object]:
        for timer in self._timers():
            owner = getattr(timer._callback, "__self__", None)  # type: ignore[attr-defined]
            if isinstance(owner, (Outlet, Inflow, inlet.Inlet, sending.Sending)):
                yield owner

    def close(self) -> None:
        """End the threads and put everything back."""
        try:
            self.threads.stop()
        finally:
            self._patches.close()
            for task in asyncio.all_tasks(self.loop):
                cast(Any, task)._log_destroy_pending = False
                task.cancel()
            with contextlib.suppress(BaseException):
                self.loop.settle()
            self.loop.close()


async def _declared(_link: Any, _service: Any) -> bool:
    """What a service needs is there."""
    return True
