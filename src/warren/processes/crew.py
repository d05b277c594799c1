"""The worker processes: started, watched, started again when they die, replaced one by one, told to stop.

The first worker goes ahead and the others follow once it serves. So a wrong password or a module that cannot be
imported is said once, and ends it all; after that, whatever ends a worker, it gets a successor.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from warren.connection.backoff import Backoff
from warren.logs import get_logger
from warren.processes.process import Command, Process, reap_strangers

log = get_logger("warren.processes")

#: A worker ends with one of these when a successor would end the same way; the exit code that it means for all.
WRONG_USAGE = 2
CANNOT_SERVE = 78  # EX_CONFIG of sysexits.h: not 1, which is how Python ends on any uncaught exception
_EXIT_CODES = {WRONG_USAGE: 2, CANNOT_SERVE: 1}


class _Place:
    """Where one worker after the other runs.

    Attributes:
        process: the worker that runs here now.
        successor: one that serves already and takes the place.
    """

    def __init__(self, number: int, rng: random.Random) -> None:
        self.name = f"worker-{number}"
        self.goes_ahead = number == 1
        self.backoff = Backoff(rng)
        self.process: Process | None = None
        self.successor: asyncio.Future[Process] = asyncio.get_running_loop().create_future()

    def hand_over(self, successor: Process, stop_timeout: float) -> None:
        """Give the place to one that serves already; one too many has to go."""
        if self.successor.done():
            successor.stop(stop_timeout)
        else:
            self.successor.set_result(successor)

    def take_successor(self) -> Process | None:
        """The successor, if there is one; the place is open for the next one then."""
        if not self.successor.done():
            return None
        successor, self.successor = self.successor.result(), asyncio.get_running_loop().create_future()
        return successor


class Crew:
    """A number of workers, each in its place.

    Attributes:
        patient: a worker that cannot serve does not end them all: `renew` may help.
        stopping: they have been told to stop for good.
        on_serving: called whenever a worker begins to serve.
    """

    def __init__(
        self,
        command: Command,
        *,
        count: int,
        stop_timeout: float,
        environment: Mapping[str, str],
        rng: random.Random,
        reap: bool,
    ) -> None:
        """Prepare; nothing is started yet. `stop_timeout`: seconds after which a worker that shall end is killed."""
        self._command = command
        self._count = count
        self._stop_timeout = stop_timeout
        self._environment = environment
        self._rng = rng
        self._reap, self._starting = reap, 0
        self._places: list[_Place] = []
        self._running: set[Process] = set()
        self._serving = asyncio.Event()  # the first worker serves, so the others may start
        self.on_serving: Callable[[], None] = lambda: None
        self._woken = asyncio.Event()  # ends all pauses; each use makes a new one
        self._exit_code = 0
        self.stopping = False
        self.patient = False

    @property
    def processes(self) -> list[Process]:
        """All that run, those included that are about to be replaced."""
        return list(self._running)

    def ready(self) -> dict[str, Process | None]:
        """By place: the worker that serves there; None where none does, or one is being told to stop."""
        serves = {p.name: p.process for p in self._places if p.process is not None and p.process.serves}
        names = [f"worker-{number}" for number in range(1, self._count + 1)]
        return {name: None if self.stopping else serves.get(name) for name in names}

    async def run(self) -> int:
        """Keep them running until `stop`; returns the exit code, see `Manager.run`."""
        self._places = [_Place(number, self._rng) for number in range(1, self._count + 1)]
        await asyncio.gather(*(self._keep(place) for place in self._places))
        await asyncio.gather(*(process.ended for process in self._running))
        return self._exit_code

    def stop(self, exit_code: int = 0) -> None:
        """Drain all; `run` then returns `exit_code`, if nothing worse happens."""
        self._exit_code = exit_code
        self.stopping = True
        self._serving.set()
        self._stop_all()

    def renew(self) -> None:
        """Drain all at once and start others, the first one ahead: the services have changed."""
        self._serving.clear()
        self._stop_all()

    def kill(self) -> None:
        """End all at once."""
        for process in self._running.copy():
            process.kill()

    def reap_strangers(self) -> None:
        """Bury the children of this process that are no workers, if that is up to us."""
        if self._reap and not self._starting:
            reap_strangers({process.pid for process in self._running})

    async def replace_all(self) -> None:
        """Replace one worker after the other, each once its successor serves."""
        for place in self._places:
            if not await self._replace(place):
                log.error("%s: its successor does not serve, so the other workers stay as they are", place.name)
                return
        log.info("all workers have been restarted")

    # --- one worker after the other in one place ----------------------------------------------------------------

    async def _keep(self, place: _Place) -> None:
        while await self._may_start(place):
            process = place.take_successor() or await self._start(place)
            if process is not None and await self._attend(place, process):
                await self._follow(place, process)

    async def _may_start(self, place: _Place) -> bool:
        if not place.goes_ahead and not self.stopping:
            await self._serving.wait()
        return not self.stopping

    async def _start(self, place: _Place) -> Process | None:
        """Start a worker; None, after a pause, if there cannot be one."""
        self._starting += 1
        try:
            process = await Process.start(place.name, self._command, self._environment)
        except OSError as error:  # no memory, too many processes: may pass
            await self._pause(place, f"{place.name} cannot be started: {error}")
            return None
        finally:
            self._starting -= 1
        self._running.add(process)
        process.ended.add_done_callback(lambda _task: self._on_ended(process))
        if self.stopping:  # while it was being started
            process.stop(self._stop_timeout)
        return process

    async def _attend(self, place: _Place, process: Process) -> bool:
        """Stay with a process until it ends (True) or has a successor (False)."""
        place.process = process
        if await self._is_ready(process):
            self._serving.set()
            self.on_serving()
        await _first_of(process.ended, place.successor)
        if process.ended.done():
            place.process = None
            return True
        process.stop(self._stop_timeout)
        return False

    async def _is_ready(self, process: Process) -> bool:
        if not await process.ready() or process.told_to_stop:
            return False
        log.info("%s is ready: process %d", process.name, process.pid)
        return True

    async def _follow(self, place: _Place, process: Process) -> None:
        """Decide what comes after a process that has ended."""
        if self.stopping or process.told_to_stop:  # if it was for a restart, its successor starts at once
            return
        if process.returncode in _EXIT_CODES and not self._serving.is_set():
            await self._give_up(_EXIT_CODES[process.returncode])
        else:
            await self._pause(place, f"{process.name} (process {process.pid}) {process.ending}")

    async def _give_up(self, exit_code: int) -> None:
        """The worker has said why it cannot serve. A change of its files may help; nothing else does."""
        if self.patient:
            log.warning("waiting for a file to change")
            await self._woken.wait()
        else:
            self.stop(exit_code)

    async def _pause(self, place: _Place, why: str) -> None:
        pause = place.backoff.next(time.monotonic())
        log.warning("%s; starting another in %.1f s", why, pause)
        woken = asyncio.create_task(self._woken.wait())
        await _first_of(woken, place.successor, timeout=pause)
        await cancel(woken)

    def _on_ended(self, process: Process) -> None:
        self._running.discard(process)
        self.reap_strangers()
        gave_up = process.returncode in _EXIT_CODES and not process.serves  # by itself, and has said why
        if process.told_to_stop and not process.ended_well and not gave_up:
            log.error("%s (process %d) %s while it drained", process.name, process.pid, process.ending)
            if self.stopping:
                self._exit_code = self._exit_code or 1

    # --- one instead of another ---------------------------------------------------------------------------------

    async def _replace(self, place: _Place) -> bool:
        """Put a new worker in a place; False if it does not serve."""
        if place.process is None or not place.process.serves:
            if place.process is not None:
                place.process.stop(self._stop_timeout)  # it does nothing yet; the next one starts at once
            return True
        successor = await self._start(place)
        if successor is None or not await self._prove(successor):
            return False
        old = place.process
        place.hand_over(successor, self._stop_timeout)
        if old is not None:
            await asyncio.wait({old.ended})
        return True

    async def _prove(self, successor: Process) -> bool:
        """Wait until a successor serves; end it if it does not, or if nobody waits for it any more."""
        serves = False
        try:
            serves = await successor.ready() and not successor.told_to_stop
        finally:
            if not serves:
                successor.stop(self._stop_timeout)
        return serves

    def _stop_all(self) -> None:
        self._woken.set()
        self._woken = asyncio.Event()
        for process in self._running:
            process.stop(self._stop_timeout)


async def _first_of(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def cancel(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait for their end."""
    if running := [task for task in tasks if task is not None and task.cancel()]:
        await asyncio.wait(running)
