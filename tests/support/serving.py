"""Running services in tests: in this process, or in processes that may be killed."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE
from warren import Server, Service

ROOT = Path(__file__).resolve().parents[2]


def serving(*services: Service, url: str, **options: Any) -> Server:
    """A server for ``async with``, in this event loop; the drain at its end is short."""
    return Server(*services, url=url, **{"drain_timeout": 5.0, **options})


@contextmanager
def serving_in_thread(service: Service, url: str) -> Iterator[None]:
    """Serve in a loop of another thread, for a client that blocks this one."""
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(service, url=url):
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        stop.set()
        thread.join()


class Victim:
    """A worker process of `tests.support.victim` that a test may kill."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> None:
        """Wait for the line that says it consumes."""
        assert self.process.stdout is not None
        late = threading.Timer(PATIENCE, self.process.kill)
        late.start()
        try:
            for line in self.process.stdout:
                if line.strip() == "ready":
                    return
        finally:
            late.cancel()
        raise AssertionError(f"the worker ended with {self.process.wait()} before it was ready")

    def end(self) -> None:
        """Kill it if it still lives, and reap it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def victims(
    count: int,
    name: str,
    url: str,
    *,
    queue: str = "classic",
    module: str = "tests.support.victim",
    **env: str,
) -> Iterator[list[Victim]]:
    """So many worker processes of the service in a module, all ready."""
    command = [sys.executable, "-m", module, name, queue, url]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **env}
    workers = [
        Victim(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment))
        for _ in range(count)
    ]
    try:
        for worker in workers:
            worker.wait_ready()
        yield workers
    finally:
        for worker in workers:
            worker.end()


def doomed(count: int, name: str, url: str, runs: Path, **options: str) -> AbstractContextManager[list[Victim]]:
    """So many worker processes of `tests.support.doomed`, see there for the options."""
    return victims(count, name, url, module="tests.support.doomed", RUNS=str(runs), **options)


def lines(path: Path) -> list[str]:
    """What the handlers wrote, one line for each time one began."""
    return path.read_text().splitlines() if path.exists() else []
