"""`warren demo`: the main job in one sitting. Two workers, a call, a mistake, a killed worker.

The broker is an embedded one in this process, or the RabbitMQ of a URL. The workers import the service from here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from msgspec import Meta

from warren import Client, Service
from warren.broker import Broker
from warren.cli import demo_shop
from warren.cli.output import OTHER, USAGE, complain, fail, say
from warren.cli.parser import Parser, number
from warren.cli.terminal import fail_call
from warren.connection.declare import remove_queues
from warren.connection.settings import make_settings
from warren.errors import CallError

service = Service("warren-demo")


@service.method(default=True)  # also answers the clients of RabbitMQ's tutorial six
def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
    """The n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@service.method
def slow_fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
    """The same, after a second of hard thinking."""
    time.sleep(1)
    return fib(n)


def add_demo(parser: Parser) -> None:
    """The arguments of `demo`."""
    parser.add_argument("--url", help="RabbitMQ's AMQP URL (default: an embedded broker).")
    parser.flag("--operate", help="A shop that is busy, and the dashboard over it, until Ctrl-C (in a checkout).")
    parser.add_argument("--seconds", type=number(float, 0), help="With --operate: end after so many seconds.")
    parser.set_defaults(run=demo)


COMMANDS = {"demo": add_demo}


def demo(url: str | None, operate: bool, seconds: float | None) -> None:
    """See calls, a mistake and a killed worker; needs no RabbitMQ."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what ends it is said once, by its error
    if operate:
        demo_shop.run(url, seconds)
        return
    try:
        with _broker(url) as where:
            _run(where)
    except CallError as error:
        fail_call(error, as_json=False)
    except ValueError as error:
        fail(str(error), USAGE)
    _say("done, nothing is left behind")


@contextmanager
def _broker(url: str | None) -> Iterator[str]:
    """The URL of a broker, which has no queue of ours any more afterwards."""
    if url is None:
        with Broker() as broker:
            _say(f"an embedded broker listens on {broker.url}: for development, all in memory")
            yield broker.url
        return
    settings = make_settings(url)
    _say(f"the broker is {settings!r}")
    try:
        yield url
    finally:
        asyncio.run(remove_queues(settings, service.name))


def _run(url: str) -> None:
    with Client(url, name="warren demo") as client:
        client.connect()  # a broker out of reach is told here, and once
        _say("warren serve warren.cli.demo:service --workers 2")
        with _Workers(url) as workers:
            _show(client, workers)
    _say("the workers have drained")


def _show(client: Client, workers: _Workers) -> None:
    """Make the calls and print what their caller gets."""
    say(f"\nfib(30) = {client.call(fib, 30)}")
    say(f"the same as a bare request of tutorial six: {client.call_bare(service.name, '30').decode()}")

    say("\nfib(91) does not fit the signature; the handler does not run:")
    _show_outcome(lambda: client.call(fib, 91))

    say("\ntwo slow calls, one on each worker; one worker is killed (SIGKILL) meanwhile:")
    slow = [client.submit(slow_fib, 30) for _ in range(2)]
    for _ in range(2):
        client.call(fib, 1)  # served by each worker in turn, behind the slow ones: so those have begun
    workers.kill_one()
    for future in slow:
        _show_outcome(future.result)

    say(f"\nthe service goes on: fib(10) = {client.call(fib, 10)}\n")


def _show_outcome(call: Callable[[], Any]) -> None:
    """Print a result, or the error that came instead."""
    try:
        say(f"  result: {call()}")
    except CallError as error:
        say(f"  {type(error).__name__}: {error}")


class _Workers:
    """``warren serve`` with two worker processes; their log goes to our terminal."""

    def __init__(self, url: str) -> None:
        self._command = [sys.executable, "-m", "warren", "serve", "warren.cli.demo:service", "--workers", "2"]
        self._environment = os.environ | {"WARREN_URL": url}  # it may hold a password
        self._pids: list[int] = []

    def __enter__(self) -> _Workers:
        self._process = subprocess.Popen(  # noqa: S603 - the command is our own
            self._command, env=self._environment, stderr=subprocess.PIPE, text=True
        )
        try:
            self._await_ready(count=2)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        _out, rest = self._process.communicate(timeout=60)
        complain(rest, end="")

    def kill_one(self) -> None:
        """Kill the first worker where it stands."""
        say(f"  kill -9 {self._pids[0]}")
        os.kill(self._pids[0], signal.SIGKILL)

    def _await_ready(self, count: int) -> None:
        """Show the log until `count` workers serve."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            complain(f"    {line}", end="")
            if found := re.search(r"is ready: process (\d+)", line):
                self._pids.append(int(found[1]))
            if len(self._pids) == count:
                return
        fail(f"the workers ended with exit code {self._process.wait()}", OTHER)


def _say(text: str) -> None:
    """A line about what the demo does itself."""
    say(f"[{time.strftime('%H:%M:%S')}] {text}")
