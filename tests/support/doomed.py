"""A service whose workers stop or die at a chosen point of a call's life, and which notes each run of a handler.

`make_service` is the service, for a server in the test's own process. ``python -m tests.support.doomed NAME QUEUE URL``
is a worker process of it; its environment says more:

    RUNS           the file to which each run of a handler adds a line
    POINT          one of `POINTS`, or nothing
    REACHED        at the point, make this file and do nothing more; without it, SIGKILL
    CONCURRENCY, MAX_ATTEMPTS

The points lie in methods of the worker's parts, which are replaced in that process only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from warren import Server, Service
from warren.protocol.signature import Method
from warren.server.attempt import Attempt
from warren.server.endings import Endings
from warren.server.settler import Settler

MODES = ("report", "at-least-once", "at-most-once")

BEFORE_DECODING = "before the decoding"
RUNNING = "while it runs"
BEFORE_REPLY = "before the reply"
BEFORE_ACK = "between reply and ack"  # for at-most-once, whose ack came first: after the reply
POINTS = (BEFORE_DECODING, RUNNING, BEFORE_REPLY, BEFORE_ACK)

Stop = Callable[[], None]


def note(runs: Path, line: str) -> None:
    """Add a line in one write, which no other process's can cut in two."""
    file = os.open(runs, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def make_service(
    name: str,
    queue: str,
    runs: Path,
    *,
    concurrency: int = 1,
    max_attempts: int = 3,
    while_running: Stop = lambda: None,
) -> Service:
    """One method for each delivery mode, all doing the same, and ``ping``, which nothing happens to.

    They take a key to note, seconds to run for, and a file to wait for.
    """
    kind: Literal["classic", "quorum"] = "quorum" if queue == "quorum" else "classic"
    service = Service(name, queue=kind, concurrency=concurrency)

    def run(key: str, seconds: float, gate: str) -> str:
        note(runs, key)
        while_running()
        time.sleep(seconds)
        while gate and not os.path.exists(gate):
            time.sleep(0.01)
        return f"{key} done"

    @service.method
    def report(key: str, seconds: float = 0.0, gate: str = "") -> str:
        return run(key, seconds, gate)

    @service.method(name="at-least-once", delivery="at-least-once", max_attempts=max_attempts)
    def at_least_once(key: str, seconds: float = 0.0, gate: str = "") -> str:
        return run(key, seconds, gate)

    @service.method(name="at-most-once", delivery="at-most-once", broadcast=True)
    def at_most_once(key: str, seconds: float = 0.0, gate: str = "") -> str:
        return run(key, seconds, gate)

    @service.method
    async def ping() -> int:
        return os.getpid()

    return service


def stop_at(point: str, stop: Stop) -> None:
    """Make every worker of this process stop at one of the points outside the handler."""
    if point == BEFORE_DECODING:
        _before(Method, "decode_arguments", lambda method, *_: method.name, stop)
    elif point == BEFORE_REPLY:
        _before(Endings, "finish", lambda _endings, attempt, _reply: attempt.method.name, stop)
    elif point == BEFORE_ACK:
        send: Any = Settler._send

        def stop_after(settler: Settler, attempt: Attempt, address: bytes, reply: Any) -> None:
            send(settler, attempt, address, reply)
            if attempt.method.name in MODES:
                attempt.channel.flush()
                stop()

        Settler._send = stop_after  # type: ignore[method-assign, assignment]


def _before(owner: type, name: str, method_of: Callable[..., str | None], stop: Stop) -> None:
    """Have a method of a class stop first, if what it is called for is one of `MODES`."""
    real = getattr(owner, name)

    def stop_first(*args: Any, **kwargs: Any) -> Any:
        if method_of(*args, **kwargs) in MODES:
            stop()
        return real(*args, **kwargs)

    setattr(owner, name, stop_first)


def _make_stop() -> Stop:
    reached = os.environ.get("REACHED")

    def stop() -> None:
        if reached is None:
            os.kill(os.getpid(), signal.SIGKILL)
        Path(str(reached)).touch()
        while True:
            time.sleep(60)

    return stop


async def main() -> None:
    name, queue, url = sys.argv[1:]
    point, stop = os.environ.get("POINT", ""), _make_stop()
    stop_at(point, stop)
    service = make_service(
        name,
        queue,
        Path(os.environ["RUNS"]),
        concurrency=int(os.environ.get("CONCURRENCY", "1")),
        max_attempts=int(os.environ.get("MAX_ATTEMPTS", "3")),
        while_running=stop if point == RUNNING else lambda: None,
    )
    server = Server(service, url=url)
    task = asyncio.create_task(server.serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.ready()
    print("ready", flush=True)
    await task


if __name__ == "__main__":
    asyncio.run(main())
