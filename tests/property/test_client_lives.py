"""The lives of both clients: whatever is asked of one in whatever order, it ends, and an error says why."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.raw import raw_channel
from warren import AsyncClient, CallError, Client
from warren.broker import Broker

ROOT = Path(__file__).resolve().parents[2]
#: Only what hangs takes so many seconds.
PATIENCE = 30.0
#: A queue that nobody consumes.
HELD = "held"

OPERATIONS = ["connect", "call", "hold", "cast", "view", "enter", "close", "cancel", "turn", "lose"]
lives = st.lists(st.sampled_from(OPERATIONS), max_size=12)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        with raw_channel(broker.url) as channel:
            channel.exchange_declare("warren", "direct", durable=True)
            channel.queue_declare(HELD)
            channel.queue_bind(HELD, "warren", HELD)
        yield broker


def is_an_end(error: BaseException | None) -> bool:
    """A result, a typed error that says something, or the cancellation that was asked for."""
    return error is None or (isinstance(error, CallError) and bool(error.message) and bool(error.reason))


# --- AsyncClient --------------------------------------------------------------------------------------------------


class AsyncLife:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.client = AsyncClient(broker.url, timeout=10)
        self.tasks: list[asyncio.Task[Any]] = []

    async def live(self, operations: list[str]) -> None:
        for operation in operations:
            if operation == "cancel":
                for task in self.tasks[-1:]:
                    task.cancel()
            elif operation == "lose":
                self.broker.close_connections(320, "a test")
            elif operation == "turn":
                await asyncio.sleep(0)
            else:
                self.tasks.append(asyncio.create_task(getattr(self, operation)()))
        await asyncio.wait_for(self.client.close(), PATIENCE)
        if self.tasks:
            _, pending = await asyncio.wait(self.tasks, timeout=PATIENCE)
            assert not pending
        assert all(task.cancelled() or is_an_end(task.exception()) for task in self.tasks)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def connect(self) -> None:
        await self.client.connect()

    async def call(self) -> None:
        await self.client.call("nobody.here")

    async def hold(self) -> None:
        await self.client.call_bare(HELD)

    async def cast(self) -> None:
        await self.client.cast("nobody.here")

    async def view(self) -> None:
        async with self.client.options(timeout=5, fail_fast=True) as view:
            await view.call("nobody.here")

    async def enter(self) -> None:
        async with self.client:
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.client.close()


@given(operations=lives)
@example(operations=["connect", "close"])
@example(operations=["close", "connect", "close"])
@example(operations=["hold", "turn", "turn", "close", "cancel"])
@settings(max_examples=60)
def test_whatever_an_async_client_is_asked_ends(broker: Broker, operations: list[str]) -> None:
    async def run() -> None:
        await AsyncLife(broker).live(operations)

    asyncio.run(run())


# --- Client -------------------------------------------------------------------------------------------------------


class ThreadedLife:
    """Every operation in a thread of its own."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.client = Client(broker.url, timeout=10)
        self.held: list[Future[Any]] = []

    def live(self, operations: list[str]) -> None:
        with ThreadPoolExecutor(12) as threads:
            done = [threads.submit(getattr(self, operation)) for operation in operations]
            done.append(threads.submit(self.client.close))
            ended, pending = wait(done, PATIENCE)
            assert not pending
            assert all(is_an_end(future.exception()) for future in ended)
            assert not wait(self.held, PATIENCE).not_done
        thread = self.client._shared.io()._thread
        assert thread is None or not thread.is_alive()

    def connect(self) -> None:
        self.client.connect()

    def call(self) -> None:
        self.client.call("nobody.here")

    def hold(self) -> None:
        self.held.append(self.client.submit(f"{HELD}.x"))

    def cast(self) -> None:
        self.client.cast("nobody.here")

    def view(self) -> None:
        with self.client.options(timeout=5, fail_fast=True) as view:
            view.call("nobody.here")

    def enter(self) -> None:
        with self.client:
            pass

    def close(self) -> None:
        self.client.close()

    def cancel(self) -> None:
        for future in self.held[-1:]:
            future.cancel()

    def turn(self) -> None: ...

    def lose(self) -> None:
        self.broker.close_connections(320, "a test")


@given(operations=lives)
@example(operations=["connect", "close"])
@example(operations=["hold", "cancel", "cancel", "close"])
@settings(max_examples=60)
def test_whatever_a_client_is_asked_ends(broker: Broker, operations: list[str]) -> None:
    ThreadedLife(broker).live(operations)


# Forks made in C are not among them: where another thread waits for the interpreter lock in that very moment, CPython
# itself hangs in the child. `tests/faults/test_edges.py` makes them while all threads rest.
# --- forks --------------------------------------------------------------------------------------------------------

FORKS = """
import os, random, signal, sys
from warren import CallError, Client

url, seed = sys.argv[1:]
rng = random.Random(seed)

def ends(function, *args):
    try:
        function(*args)
    except CallError as error:
        assert error.message
        return error.reason
    return "done"

def live(client, depth, closed):
    for _ in range(rng.randrange(6)):
        what = rng.choice(["connect", "call", "cast", "submit", "close", "fork"])
        if what == "connect":
            assert ends(client.connect) == ("CLOSED" if closed else "done")
        elif what in ("call", "cast"):
            assert ends(getattr(client, what), "nobody.here") == ("CLOSED" if closed else "NO_ROUTE")
        elif what == "submit":
            assert ends(lambda: client.submit("nobody.here").cancel()) == ("CLOSED" if closed else "done")
        elif what == "close":
            client.close()
            closed = True
        elif depth < 2:
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # ends it by a signal if it hangs
                code = 1
                try:
                    rng.seed(rng.random() + 1)
                    live(client, depth + 1, closed)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0, what
    client.close()

for _ in range(12):
    live(Client(url, timeout=10), 0, False)
"""


@pytest.mark.parametrize("seed", range(3))
def test_whatever_clients_are_asked_in_forked_processes_ends(broker: Broker, seed: int) -> None:
    quiet = "ignore:This process:DeprecationWarning"  # of a fork with threads: that is what is tested
    command = [sys.executable, "-W", quiet, "-c", FORKS, broker.url, str(seed)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
