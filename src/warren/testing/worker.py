"""A worker process of a test; see `warren.testing`.

``python -m warren.testing.worker MODULE VARIABLE FILE LIFELINE COUNTER``
The lifeline is the descriptor that leads to the test session, the counter that of a file in which this process keeps
the number of handlers that it runs.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import mmap
import os
import sys
from types import ModuleType
from typing import Any

from warren import CurrentCall, Server, Service
from warren.middleware import Proceed
from warren.processes.worker import take_lifeline, work
from warren.testing.kit import COUNTER_SIZE, DRAIN_TIMEOUT


def main(module: str, variable: str, file: str, lifeline: str, counter: str) -> None:
    """Serve until told to stop, or until the test session is gone."""
    parent = take_lifeline(int(lifeline))
    service = getattr(_import(module, file), variable)
    assert isinstance(service, Service)
    service.middleware = (Counter(int(counter)), *service.middleware)
    server = Server(service, url=os.environ["WARREN_URL"], drain_timeout=DRAIN_TIMEOUT, name="worker of a test")
    asyncio.run(work(server, DRAIN_TIMEOUT, parent))


class Counter:
    """Middleware that tells the test how many handlers run."""

    def __init__(self, descriptor: int) -> None:
        self._shared = mmap.mmap(descriptor, COUNTER_SIZE)
        self._running = 0

    async def __call__(self, _call: CurrentCall, proceed: Proceed) -> Any:
        self._count(1)
        try:
            return await proceed()
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._running += change
        self._shared[:] = self._running.to_bytes(COUNTER_SIZE)


def _import(name: str, file: str) -> ModuleType:
    """Import a module by its name, or from its file where the name leads elsewhere: pytest has ways of its own."""
    if _leads_to(name, file):
        return importlib.import_module(name)
    name = "__mp_main__" if name == "__main__" else name  # as multiprocessing does: what is for a script is not for us
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _leads_to(name: str, file: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
