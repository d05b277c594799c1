"""Worker processes: started, watched, restarted when they die, drained when they shall end.

Both ends are here. `Manager` runs in the parent and serves nothing itself; `work` runs in each child, which is a new
interpreter and not a fork, since threads and event loops do not survive one. Between the two is the lifeline, a
socket pair that the child gets as its standard input: the child says "ready" on it, and its end tells each side,
however it comes about, that the other one is gone.

The first worker goes ahead and the others follow once it serves. So a wrong password or a module that cannot be
imported is said once, and ends it all; after that, whatever ends a worker, it gets a successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Self

from warren.connection.supervisor import Backoff
from warren.logs import get_logger
from warren.server.server import Server

log = get_logger("warren.processes")

#: A worker ends with one of these when a successor would end the same way; the manager's own exit code for it.
WRONG_USAGE = 2
CANNOT_SERVE = 78  # EX_CONFIG of sysexits.h: not 1, which is how Python ends on any uncaught exception
_EXIT_CODES = {WRONG_USAGE: 2, CANNOT_SERVE: 1}

#: Seconds beyond its own drain timeout after which a worker that was told to stop is killed.
_GRACE = 10.0
_READY = b"ready"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


# --- the parent -------------------------------------------------------------------------------------------------------


class Manager:
    """Keeps a number of worker processes running until it is told to stop."""

    def __init__(
        self,
        command: Callable[[str], Sequence[str]],
        *,
        workers: int,
        drain_timeout: float,
        environment: Mapping[str, str],
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            command: the command line that starts the worker of a given name; it ends up in `work`.
            workers: how many to keep running.
            drain_timeout: seconds that a worker allows itself for draining.
            environment: the workers' environment variables.
            rng: for the jitter of pauses.
        """
        self._command = command
        self._count = workers
        self._stop_timeout = drain_timeout + _GRACE
        self._environment = environment
        self._rng = rng or random.Random()
        self._running: set[_Process] = set()
        self._serving = asyncio.Event()  # the first worker serves, so the others may start
        self._woken = asyncio.Event()  # ends all pauses; each use makes a new one
        self._stopping = False
        self._reloading = False
        self._exit_code = 0

    async def run(self, changes: AsyncIterator[Collection[str]] | None = None) -> int:
        """Keep the workers running until SIGTERM or Ctrl-C, then drain them; a second signal ends all at once.

        Args:
            changes: yields the files that changed, each time that the workers shall start anew.

        Returns:
            The exit code: 0 after a clean drain, 1 when the workers cannot serve, or had to be killed in the end,
            2 when they were started wrongly.
        """
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        watching = None if changes is None else asyncio.create_task(self._reload(changes))
        self._reloading = watching is not None
        try:
            await asyncio.gather(*(self._keep(number) for number in range(1, self._count + 1)))
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait([watching])
        return self._exit_code

    def stop(self, exit_code: int = 0) -> None:
        """Drain all workers; `run` then returns `exit_code`, if nothing worse happens. For the loop's own thread."""
        self._exit_code = exit_code
        self._stopping = True
        self._serving.set()
        self._stop_all()

    # --- one worker after the other in one place --------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        name = f"worker-{number}"
        backoff = Backoff(self._rng)
        while await self._may_start(number):
            try:
                process = await _Process.start(name, self._command(name), self._environment)
            except OSError as error:  # no memory, too many processes: may pass
                await self._pause(f"{name} cannot be started: {error}", backoff)
            else:
                await self._attend(process)
                await self._follow(process, backoff)

    async def _may_start(self, number: int) -> bool:
        if number > 1 and not self._stopping:
            await self._serving.wait()
        return not self._stopping

    async def _attend(self, process: _Process) -> None:
        """Stay with a process until it ends."""
        self._running.add(process)
        if self._stopping:  # while it was being started
            process.stop(self._stop_timeout)
        if await process.ready() and not process.told_to_stop:
            log.info("%s is ready: process %d", process.name, process.pid)
            self._serving.set()
        await process.wait()
        self._running.discard(process)

    async def _follow(self, process: _Process, backoff: Backoff) -> None:
        """Decide what comes after a process that has ended."""
        if self._stopping:
            if not process.ended_well:
                log.error("%s %s while it drained", process.name, process.ending)
                self._exit_code = self._exit_code or 1
        elif process.told_to_stop:  # for a reload: its successor starts at once
            return
        elif process.returncode in _EXIT_CODES and not self._serving.is_set():
            await self._give_up(_EXIT_CODES[process.returncode])
        else:
            await self._pause(f"{process.name} (process {process.pid}) {process.ending}", backoff)

    async def _give_up(self, exit_code: int) -> None:
        """The worker has said why it cannot serve. A change of its files may help; nothing else does."""
        if self._reloading:
            log.warning("waiting for a file to change")
            await self._woken.wait()
        else:
            self.stop(exit_code)

    async def _pause(self, why: str, backoff: Backoff) -> None:
        pause = backoff.next(time.monotonic())
        log.warning("%s; starting another in %.1f s", why, pause)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), pause)

    # --- all of them --------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if self._stopping:
            log.warning("second signal: ending at once")
            for process in self._running:
                process.kill()
            os._exit(128 + number)
        log.info("%s: finishing what is running; once more to end at once", signal.Signals(number).name)
        self.stop()

    def _stop_all(self) -> None:
        self._woken.set()
        self._woken = asyncio.Event()
        for process in self._running:
            process.stop(self._stop_timeout)

    async def _reload(self, changes: AsyncIterator[Collection[str]]) -> None:
        try:
            async for files in changes:
                log.warning("changed: %s; restarting", ", ".join(sorted(files)))
                self._serving.clear()  # it is new code: the first worker goes ahead again
                self._stop_all()
        except Exception:  # the watcher's own failure must not take the workers along
            log.exception("changed files are not noticed any more")


class _Process:
    """One worker process and our end of its lifeline."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, lifeline: socket.socket) -> None:
        self.name = name
        self.told_to_stop = False
        self._process = process
        self._lifeline = lifeline
        self._killer: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Self:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                # A session of its own: the terminal sends Ctrl-C to the parent's, and we pass it on, once.
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=theirs.fileno(), env=environment, start_new_session=True
                )
            except BaseException:
                ours.close()
                raise
        return cls(name, process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def ending(self) -> str:
        """How it ended, for the log."""
        code = self.returncode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    @property
    def ended_well(self) -> bool:
        """Whether it ended as a process does that is told to stop; SIGTERM kills only what does not serve yet."""
        return self.returncode in (0, -signal.SIGTERM)

    async def ready(self) -> bool:
        """Wait until it serves (True) or has ended (False)."""
        with contextlib.suppress(ConnectionError):
            return bool(await asyncio.get_running_loop().sock_recv(self._lifeline, len(_READY)))
        return False

    async def wait(self) -> None:
        await self._process.wait()
        self._lifeline.close()
        if self._killer is not None:
            self._killer.cancel()

    def stop(self, timeout: float) -> None:
        """Tell it to drain, once: it takes a second signal for an order to end at once. Kill it after `timeout`."""
        if not self.told_to_stop:
            self.told_to_stop = True
            self._signal(signal.SIGTERM)
            self._killer = asyncio.get_running_loop().call_later(timeout, self._lose_patience)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _lose_patience(self) -> None:
        log.error("%s (process %d) does not stop; killing it", self.name, self.pid)
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and that is what we wanted
            self._process.send_signal(number)


# --- the child --------------------------------------------------------------------------------------------------------


async def work(server: Server, drain_timeout: float) -> None:
    """Serve as a manager's child: until SIGTERM, or until the manager is gone. A second SIGTERM ends at once.

    Args:
        server: what to serve.
        drain_timeout: the server's, in seconds.

    Raises:
        CallError: as for `Server.serve`.
    """
    loop = asyncio.get_running_loop()
    lifeline = _take_lifeline()
    signals: list[int] = []

    def on_signal(number: int) -> None:
        signals.append(number)
        if len(signals) > 1:
            os._exit(128 + number)
        server.stop()

    def on_manager_gone() -> None:
        loop.remove_reader(lifeline)
        log.warning("the parent process is gone: finishing what is running")
        signal.alarm(math.ceil(drain_timeout + _GRACE))  # nobody is left to kill us, should we not come to an end
        server.stop()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    loop.add_reader(lifeline, on_manager_gone)  # nothing is ever sent this way, so it is the end of the stream
    announcing = asyncio.create_task(_announce(server, lifeline))
    try:
        await server.serve()
    finally:
        announcing.cancel()
        loop.remove_reader(lifeline)


async def _announce(server: Server, lifeline: socket.socket) -> None:
    await server.ready()
    with contextlib.suppress(OSError):  # the manager is gone, as `work` learns by itself
        lifeline.send(_READY)


def _take_lifeline() -> socket.socket:
    """Move the lifeline away from standard input, where handlers and the processes they start would find it."""
    lifeline = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return lifeline
