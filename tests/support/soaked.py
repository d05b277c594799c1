"""A worker process of the soak: methods of all modes that do what they are told to, odd things too.

    python -m tests.support.soaked NAME QUEUE URL FOLDER VERSION

Each run of a handler is a line in FOLDER/runs, its key and when; one that kills the worker is in FOLDER/killed, too.
Told by SIGUSR1, the worker adds what it keeps of requests to FOLDER/kept; when it is drained, to FOLDER/drained.
Version 2 of the service has no method ``new``, one more argument of ``changed``, and takes less in one message.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

from tests.support import tables
from tests.support.doomed import note
from warren import PermissionDenied, Server, Service, Unavailable

DeliveryMode = Literal["report", "at-least-once", "at-most-once"]
MODES: tuple[DeliveryMode, ...] = ("report", "at-least-once", "at-most-once")
VERSIONS = (1, 2)
MAX_ATTEMPTS = 3
#: What a worker ends with that a request has killed.
KILLED = 66
#: Characters that `large` requests carry along; version 2 takes less.
LARGE = 3000
#: The delivery mode of each method.
METHODS: dict[str, DeliveryMode] = {mode: mode for mode in MODES} | {f"{mode}-async": mode for mode in MODES}
METHODS |= {"new": "report", "changed": "at-least-once"}


class _Below(BaseException):
    """Beside `Exception`."""


class _Textless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _Argless(Exception):
    args = None  # type: ignore[assignment]


#: What a handler can be told to raise.
RAISED: dict[str, Callable[[], BaseException]] = {
    "error": lambda: ValueError("an error"),
    "below": lambda: _Below("below"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "textless": _Textless,
    "argless": _Argless,
    "wrapped": lambda: Unavailable(ConnectionError("the database is down")),  # type: ignore[arg-type]
    "surrogate": lambda: PermissionDenied("no", reason="\udcff"),
}
#: What a handler can be told to do: its work, with a large request or a small one, to raise, to return what nobody can
#: encode, or to take its process along.
ACTS = ("work", "large", *RAISED, "unencodable", "die")
FAILING = (*RAISED, "unencodable", "die")


def make_service(name: str, queue: str, folder: Path, version: int) -> Service:
    """One version of the service."""
    kind: Literal["classic", "quorum"] = "quorum" if queue == "quorum" else "classic"
    service = Service(name, queue=kind, concurrency=4, max_message_size=LARGE if version == 2 else 1_000_000)

    def end(key: str, act: str) -> Any:
        if act == "die":
            note(folder / "killed", f"{key}\t{time.monotonic()}")
            os._exit(KILLED)
        if act in RAISED:
            raise RAISED[act]()
        return object() if act == "unencodable" else f"{key} done"

    def do(key: str, seconds: float, act: str, pad: str = "") -> Any:
        note(folder / "runs", f"{key}\t{time.monotonic()}")
        time.sleep(seconds)
        return end(key, act)

    async def do_async(key: str, seconds: float, act: str, pad: str = "") -> Any:
        note(folder / "runs", f"{key}\t{time.monotonic()}")
        await asyncio.sleep(seconds)
        return end(key, act)

    def do_changed(key: str, seconds: float, act: str, pad: str, currency: str) -> Any:
        return do(key, seconds, act)

    for mode in MODES:
        service.method(name=mode, delivery=mode, max_attempts=MAX_ATTEMPTS)(_copy(do))
        service.method(name=f"{mode}-async", delivery=mode, max_attempts=MAX_ATTEMPTS)(_copy_async(do_async))
    if version == 1:
        service.method(name="new")(_copy(do))
    changed = _copy(do) if version == 1 else do_changed
    service.method(name="changed", delivery="at-least-once", max_attempts=MAX_ATTEMPTS)(changed)

    @service.method
    async def ping() -> int:
        return os.getpid()

    return service


def _copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Another function that does the same, as one function cannot be two methods."""

    def same(key: str, seconds: float, act: str, pad: str = "") -> Any:
        return function(key, seconds, act, pad)

    return same


def _copy_async(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def same(key: str, seconds: float, act: str, pad: str = "") -> Any:
        return await function(key, seconds, act, pad)

    return same


async def main() -> None:
    name, queue, url, folder, version = sys.argv[1:]
    server = Server(make_service(name, queue, Path(folder), int(version)), url=url)

    def tell(file: str) -> None:
        note(Path(folder) / file, json.dumps([os.getpid(), time.monotonic(), tables.of_server(server)]))

    task = asyncio.create_task(server.serve())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    loop.add_signal_handler(signal.SIGUSR1, tell, "kept")
    note(Path(folder) / "ready", str(os.getpid()))
    await task
    tell("drained")


if __name__ == "__main__":
    asyncio.run(main())
