"""The parent of the worker processes: it turns signals and changed files into orders to them.

It serves nothing itself. Each child is a new interpreter and not a fork, since threads and event loops do not survive
one; it ends up in `warren.processes.worker.work`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping

from warren.logs import get_logger
from warren.processes.crew import Crew, cancel
from warren.processes.http import Pages
from warren.processes.notify import VARIABLES, Notifier
from warren.processes.probes import Probes
from warren.processes.process import Command, signal_name
from warren.processes.worker import GRACE
from warren.server.signals import Signals, end_at_once

log = get_logger("warren.processes")


class Manager:
    """Keeps a number of worker processes running until it is told to stop."""

    def __init__(
        self,
        command: Command,
        *,
        workers: int,
        drain_timeout: float,
        environment: Mapping[str, str],
        reap: bool = False,
        has_terminal: Callable[[], bool] = lambda: False,
        http: tuple[str, int] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            command: makes the command line of a worker, from its name and the descriptor of its lifeline.
            workers: how many to keep running.
            drain_timeout: seconds that a worker allows itself for draining.
            environment: the environment variables; the workers get all but those that are for this process alone.
            reap: bury all children of this process, whoever started them: what process 1 of a container has to do.
            has_terminal: whether this process has a terminal, which may be taken from it.
            http: host and port for ``/livez``, ``/readyz`` and ``/metrics``; None for none.
        """
        self._crew = Crew(
            command,
            count=workers,
            stop_timeout=drain_timeout + GRACE,
            environment={name: value for name, value in environment.items() if name not in VARIABLES},
            rng=random.Random(),
            reap=reap,
        )
        self._has_terminal = has_terminal
        self._http = http
        self._pages = Pages(Probes(self._crew).pages)
        self._notifier = Notifier(environment)
        self._crew.on_serving = lambda: self._notifier.once("READY")
        self._restarting: asyncio.Task[None] | None = None
        self._told_to_stop: float | None = None

    async def run(self, changes: AsyncIterator[Collection[str]] | None = None) -> int:
        """Keep the workers running until SIGTERM or Ctrl-C, then drain them; a second signal ends all at once.

        SIGHUP is `restart`, except that it is a stop when it says that the terminal is gone.

        Args:
            changes: yields the files that changed, each time that the workers shall start again.

        Returns:
            The exit code: 0 after a clean drain, 1 when the workers cannot serve, or had to be killed in the end,
            2 when they were started wrongly.

        Raises:
            RuntimeError: this is not the main thread, the only one that signals reach.
            CannotListen: the address for HTTP cannot be had; no worker was started.
        """
        if self._http is not None:
            log.info("probes and metrics are at %s/livez, /readyz and /metrics", await self._pages.start(*self._http))
        with Signals(self._on_signal, hurry=self._on_second_signal, others=self._other_signals()):
            watching = None if changes is None else asyncio.create_task(self._reload(changes))
            self._crew.patient = watching is not None
            try:
                self._notifier.start()
                exit_code = await self._crew.run()
            finally:
                self._notifier.close()
                await self._pages.close()
                await cancel(watching, self._restarting)
        if self._told_to_stop is not None:
            log.info("all workers have ended, %.1f s after they were told to", time.monotonic() - self._told_to_stop)
        return exit_code

    def stop(self) -> None:
        """Drain all workers; `run` then returns. For the loop's own thread."""
        self._told_to_stop = time.monotonic()
        self._notifier.once("STOPPING")
        if self._restarting is not None:
            self._restarting.cancel()
        self._crew.stop()

    def restart(self) -> None:
        """Replace all workers, one after the other, each once its successor serves. Again: begin again with the first.

        For the loop's own thread.
        """
        if self._restarting is not None:
            self._restarting.cancel()
        if not self._crew.stopping:
            self._restarting = asyncio.create_task(self._crew.replace_all())

    def _on_signal(self, number: int) -> None:
        log.info("%s: finishing what is running; once more to end at once", signal_name(number))
        self.stop()

    def _on_second_signal(self, number: int) -> None:
        self._crew.kill()
        end_at_once(number)

    def _other_signals(self) -> dict[int, Callable[[], None]]:
        had_terminal = self._has_terminal()
        return {
            signal.SIGHUP: lambda: self._on_hangup(had_terminal),
            signal.SIGCHLD: self._crew.reap_strangers,
        }

    def _on_hangup(self, had_terminal: bool) -> None:
        if had_terminal and not self._has_terminal():
            log.info("the terminal is gone: finishing what is running")
            self.stop()
        else:
            log.info("SIGHUP: restarting the workers, one after the other")
            self.restart()

    async def _reload(self, changes: AsyncIterator[Collection[str]]) -> None:
        try:
            async for files in changes:
                log.warning("changed: %s; restarting", ", ".join(sorted(files)))
                self._crew.renew()
        except Exception:  # the watcher's own failure must not take the workers along
            log.exception("changed files are not noticed any more")


def has_terminal() -> bool:
    """Whether this process has a controlling terminal; one whose window was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
