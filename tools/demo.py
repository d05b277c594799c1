"""The main job in one sitting: two workers, a call, a mistake, a killed worker. ``make demo`` runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rabbit import Node, find_or_install

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from fib import fib, slow_fib  # noqa: E402 - the folder of examples is not installed
from warren import CallError, Client  # noqa: E402


def main() -> None:
    """Start everything, show it, clean up."""
    find_or_install()
    say("starting a private RabbitMQ on a free port of 127.0.0.1")
    with Node(name="warren-demo") as node:
        say("warren serve fib:service --workers 2")
        with Workers(node.url) as workers, Client(node.url, name="demo") as client:
            show(client, workers)
        say("the workers have drained; stopping RabbitMQ")
    say("done, nothing is left behind")


def show(client: Client, workers: Workers) -> None:
    """Make the calls and print what their caller gets."""
    print(f"\nfib(30) = {client.call(fib, 30)}")
    print(f"the same as a bare request of tutorial six: {client.call_bare('calc', '30').decode()}")

    print("\nfib(91) does not fit the signature; the handler does not run:")
    print_outcome(lambda: client.call(fib, 91))

    print("\ntwo slow calls, one on each worker; one worker is killed (SIGKILL) meanwhile:")
    slow = [client.submit(slow_fib, 30) for _ in range(2)]
    for _ in range(2):
        client.call(fib, 1)  # served by each worker in turn, behind the slow ones: so those have begun
    workers.kill_one()
    for future in slow:
        print_outcome(future.result)

    print(f"\nthe service goes on: fib(10) = {client.call(fib, 10)}\n")


def print_outcome(call: Callable[[], Any]) -> None:
    """Print a result, or the error that came instead."""
    try:
        print(f"  result: {call()}")
    except CallError as error:
        print(f"  {type(error).__name__}: {error}")


class Workers:
    """``warren serve`` with two worker processes; their log goes to our terminal."""

    def __init__(self, url: str) -> None:
        self._command = [sys.executable, "-m", "warren", "serve", "fib:service", "--workers", "2", "--url", url]
        self._pids: list[int] = []

    def __enter__(self) -> Workers:
        self._process = subprocess.Popen(self._command, cwd=EXAMPLES, stderr=subprocess.PIPE, text=True)
        self._await_ready(count=2)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        _out, rest = self._process.communicate(timeout=60)
        print(rest, end="", file=sys.stderr)

    def kill_one(self) -> None:
        """Kill the first worker where it stands."""
        print(f"  kill -9 {self._pids[0]}")
        os.kill(self._pids[0], signal.SIGKILL)

    def _await_ready(self, count: int) -> None:
        """Show the log until so many workers serve."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            print(f"    {line}", end="", file=sys.stderr)
            if found := re.search(r"is ready: process (\d+)", line):
                self._pids.append(int(found[1]))
            if len(self._pids) == count:
                return
        raise SystemExit(f"the workers ended with exit code {self._process.wait()}")


def say(text: str) -> None:
    """A line about what the demo does itself."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


if __name__ == "__main__":
    main()
