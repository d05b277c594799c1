"""Calls without end while things break, and every one of them accounted for.

    python -m tests.faults.soak --minutes 10 --seed 7

A private node, four worker processes of two services (one on a classic, one on a quorum queue) and three clients,
with a fault proxy in front of the workers and one in front of the clients. A schedule drawn from the seed cuts and
silences connections, kills, freezes and drains workers, deletes queues and freezes the broker. Each ending of a call
and each run of a handler is a line in a file; `judge` holds one against the other. In the end everything has to be
whole again, and nothing may be left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rabbit import Node
from tests.support.doomed import MODES, note
from tests.support.evidence import LATE, reply_queues, sockets, threads
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel, take
from tests.support.serving import ROOT, lines
from tests.support.waiting import until
from warren import AsyncClient, CallError, Client, wire

#: Seconds that each call may take.
TIMEOUT = 8.0
#: Queue kind of each service, by the end of its name.
KINDS = ("classic", "quorum")
WORKERS = 2
CALLERS, CALLING_THREADS = 8, 4
#: Longest pause between two faults, in seconds.
PAUSE = 3.0
#: Bytes by which the memory may grow from the first third of the time to the last.
GROWTH = 24_000_000

#: All that a call may end in besides its result.
REASONS = frozenset(
    {"CONNECTION_LOST", "NOT_CONNECTED", "NO_ROUTE", "CLIENT_TIMER", "QUEUE_TTL", "ON_ARRIVAL", "WORKER_LOST", "POISON"}
    | {"CHANNEL_CLOSED"}
)


# --- the books --------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """How one call or cast ended; `reason` is ``result`` where it did well, ``wrong`` if it got another's."""

    key: str
    mode: str
    kind: str
    resend: bool
    begun: float
    seconds: float
    reason: str
    execution: str

    def line(self) -> str:
        return "\t".join(str(value) for value in self)

    @classmethod
    def parse(cls, line: str) -> Entry:
        key, mode, kind, resend, begun, seconds, reason, execution = line.split("\t")
        return cls(key, mode, kind, resend == "True", float(begun), float(seconds), reason, execution)


def judge(
    entries: Iterable[Entry], begun: set[str], runs: Counter[str], dead: set[str], lost_before: float
) -> list[str]:
    """What is wrong with the books; empty when every call is accounted for exactly once.

    Args:
        entries: how each call ended.
        begun: the keys of all calls that were begun.
        runs: how often the handler ran for each key.
        dead: the keys of what was set aside.
        lost_before: casts begun before this moment may have been lost with a queue that was deleted.
    """
    entries = list(entries)
    ended = Counter(entry.key for entry in entries)
    wrong = [f"{key}: ended {ended[key]} times" for key in begun | ended.keys() if ended[key] != 1]
    wrong += [f"{key}: ran, but nobody called it" for key in runs if key not in begun]
    for entry in entries:
        wrong += [
            f"{entry}: {what}, ran {runs[entry.key]} times" for what in _faults_of(entry, runs, dead, lost_before)
        ]
    return wrong


def _faults_of(entry: Entry, runs: Counter[str], dead: set[str], lost_before: float) -> Iterator[str]:
    ran = runs[entry.key]
    if entry.reason == "result":
        if entry.kind == "call" and not ran:
            yield "a result, but no handler ran"
        if entry.kind == "cast" and not ran and not _may_be_lost(entry, dead, lost_before):
            yield "a confirmed cast is lost"
    elif entry.reason not in REASONS:
        yield "an ending that no fault of the schedule explains"
    if entry.execution in ("NOT_SENT", "NOT_EXECUTED") and ran:
        yield "evidence that it did not run"
    if entry.execution == "EXECUTED" and not ran:
        yield "evidence that it ran"
    if entry.mode != "at-least-once" and ran > 1:
        yield "ran more than once"
    if entry.seconds > TIMEOUT + LATE:
        yield "outlived its deadline"


def _may_be_lost(cast: Entry, dead: set[str], lost_before: float) -> bool:
    return cast.key in dead or cast.mode == "at-most-once" or cast.begun < lost_before


# --- workers ----------------------------------------------------------------------------------------------------------


class Workers:
    """The worker processes; one that ends is replaced."""

    def __init__(self, url: str, prefix: str, folder: Path) -> None:
        self.services = [f"{prefix}-{kind}" for kind in KINDS]
        self.exit_codes: list[int] = []
        self._url = url
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, service: str) -> None:
        """Start one; it serves in its own time."""
        command = [sys.executable, "-m", "tests.support.doomed", service, service.rpartition("-")[2], self._url]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "RUNS": str(self._folder / "runs"),
            "CONCURRENCY": "4",
        }
        with (self._folder / "workers.log").open("ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment)
        self._running.append((service, process))

    def kill(self, rng: random.Random) -> None:
        service, process = self._take(rng)
        process.kill()
        process.wait()
        self.start(service)

    async def freeze(self, rng: random.Random) -> None:
        _service, process = rng.choice(self._running)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.2, 4.0))
        process.send_signal(signal.SIGCONT)

    async def replace(self, rng: random.Random) -> None:
        """As a rolling restart does: first another one, then SIGTERM."""
        service, process = self._take(rng)
        self.start(service)
        await self._drain(process)

    async def drain(self) -> None:
        """Stop all of them in good order."""
        running, self._running = self._running, []
        await asyncio.gather(*(self._drain(process) for _service, process in running))

    def end(self) -> None:
        for _service, process in self._running:
            process.kill()
            process.wait()

    def _take(self, rng: random.Random) -> tuple[str, subprocess.Popen[bytes]]:
        return self._running.pop(rng.randrange(len(self._running)))

    async def _drain(self, process: subprocess.Popen[bytes]) -> None:
        await asyncio.sleep(1.0)  # a process that has not set its signal handler yet would just end
        process.terminate()
        try:
            await until(lambda: process.poll() is not None, seconds=60)
        except TimeoutError:
            process.kill()
        self.exit_codes.append(process.wait())


# --- the load ---------------------------------------------------------------------------------------------------------


class Load:
    """Calls and casts from three clients, in all modes, to both services."""

    def __init__(self, services: list[str], folder: Path, seed: int) -> None:
        self.begun = 0
        self.stopped = threading.Event()
        self._services = services
        self._entries = folder / "entries"
        self._seed = seed
        self._keys = itertools.count()

    async def call(self, client: AsyncClient, name: str) -> None:
        """Call, one after the other, until stopped."""
        rng = random.Random(f"{self._seed} {name}")
        while not self.stopped.is_set():
            mode, service, view, resend = self._draw(client, rng)
            kind = rng.choices(["call", "cast"], [9, 1])[0]
            ask: Callable[..., Awaitable[Any]] = getattr(view, kind)
            key, begun = self._begin(), time.monotonic()
            try:
                value = await ask(f"{service}.{mode}", key, rng.uniform(0, 0.02))
            except Exception as error:  # whatever it is belongs into the books
                self._end(key, mode, kind, resend, begun, error)
            else:
                self._end(key, mode, kind, resend, begun, None if kind == "cast" else value)
            await asyncio.sleep(rng.uniform(0, 0.05))

    def call_from_a_thread(self, client: Client, name: str) -> None:
        """The same for the blocking client."""
        rng = random.Random(f"{self._seed} {name}")
        while not self.stopped.is_set():
            mode, service, view, resend = self._draw(client, rng)
            key, begun = self._begin(), time.monotonic()
            try:
                value = view.call(f"{service}.{mode}", key, rng.uniform(0, 0.02))
            except Exception as error:
                self._end(key, mode, "call", resend, begun, error)
            else:
                self._end(key, mode, "call", resend, begun, value)
            self.stopped.wait(rng.uniform(0, 0.05))

    def _draw(self, client: Any, rng: random.Random) -> tuple[str, str, Any, bool]:
        mode = rng.choice(MODES)
        resend = mode == "at-least-once" and rng.random() < 0.5
        return mode, rng.choice(self._services), client.options(resend=resend), resend

    def _begin(self) -> str:
        self.begun = next(self._keys)
        return str(self.begun)

    def _end(self, key: str, mode: str, kind: str, resend: bool, begun: float, outcome: Any) -> None:
        reason, execution = "result", ""
        if isinstance(outcome, CallError):
            reason, execution = outcome.reason, outcome.execution.value
        elif isinstance(outcome, Exception):
            reason = repr(outcome)
        elif outcome != (None if kind == "cast" else f"{key} done"):
            reason = f"wrong: {outcome!r}"
        entry = Entry(key, mode, kind, resend, begun, time.monotonic() - begun, reason, execution)
        note(self._entries, entry.line())


# --- the faults -------------------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """What goes wrong, drawn from the seed."""

    node: Node
    workers: Workers
    proxies: tuple[Proxy, Proxy]
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    last_deletion: float = 0.0

    async def strike(self) -> None:
        """Let one thing go wrong; what lasts is over when this returns."""
        kinds: dict[str, tuple[int, Callable[[], Any]]] = {
            "reset": (3, lambda: self._proxy().cut("rst")),
            "end": (2, lambda: self._proxy().cut("fin")),
            "half-open": (1, lambda: self._proxy().half_open()),
            "silence": (2, lambda: self._proxy().abandon("up", "down")),
            "slow": (1, self._slow),
            "kill a worker": (3, lambda: self.workers.kill(self.rng)),
            "freeze a worker": (2, lambda: self.workers.freeze(self.rng)),
            "replace a worker": (3, lambda: self.workers.replace(self.rng)),
            "close all connections": (1, self._close_all),
            "delete a reply queue": (1, lambda: self._delete("reply")),
            "delete a service queue": (1, lambda: self._delete("service")),
            "freeze the broker": (1, self._freeze),
        }
        name = self.rng.choices(list(kinds), [weight for weight, _act in kinds.values()])[0]
        self.counts[name] += 1
        done = kinds[name][1]()
        if isinstance(done, Awaitable):
            await done

    def _proxy(self) -> Proxy:
        return self.rng.choice(self.proxies)

    async def _slow(self) -> None:
        line = self.rng.choice([self.proxies[0].up, self.proxies[0].down, self.proxies[1].up, self.proxies[1].down])
        line.delay = 0.2
        await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        line.delay = 0.0

    async def _freeze(self) -> None:
        self.node.freeze()
        await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        self.node.thaw()

    def _close_all(self) -> None:
        self.node.eval('[rabbit_networking:close_connection(P, "soak") || P <- rabbit_networking:connections()], ok')

    def _delete(self, what: str) -> None:
        if what == "service":
            pattern = self.rng.choice(self.workers.services)
            self.last_deletion = time.monotonic() + 1.0
        else:
            pattern = self.rng.choice(["amq.gen", wire.reply_queue("")])
        self.node.eval(
            '[rabbit_amqqueue:delete(Q, false, false, <<"soak">>) || Q <- rabbit_amqqueue:list(<<"/">>),'
            f' binary:match(element(4, amqqueue:get_name(Q)), <<"{pattern}">>) =/= nomatch,'
            ' binary:match(element(4, amqqueue:get_name(Q)), <<".dead">>) =:= nomatch], ok'
        )


# --- what is left behind ----------------------------------------------------------------------------------------------


class Belongings(NamedTuple):
    """What the soak may not leave behind, here and at the broker."""

    tasks: int
    threads: int
    sockets: int
    queues: int
    channels: int
    connections: int

    @classmethod
    def now(cls, node: Node) -> Belongings:
        at_broker = [
            int(node.eval(f"length({expression})"))
            for expression in (
                'rabbit_amqqueue:list(<<"/">>)',
                "rabbit_channel:list()",
                "rabbit_networking:connections()",
            )
        ]
        return cls(len(asyncio.all_tasks()), len(threads()), sockets(), *at_broker)


def resident() -> int:
    """Bytes of memory that this process has in use."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(samples: list[int]) -> int:
    """Bytes from the first third's median to the last third's."""
    third = max(1, len(samples) // 3)
    return int(statistics.median(samples[-third:]) - statistics.median(samples[:third]))


# --- all together -----------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of it; `wrong` is empty when all went well."""

    seed: int
    faults: Counter[str]
    endings: Counter[str]
    runs: int
    growth: int
    wrong: list[str]

    def __str__(self) -> str:
        def table(counts: Counter[str]) -> str:
            return "".join(f"\n  {count:7} {what}" for what, count in counts.most_common())

        return (
            f"seed {self.seed}: {self.endings.total()} calls ended, handlers ran {self.runs} times,"
            f" memory grew by {self.growth / 1e6:.1f} MB\nendings:{table(self.endings)}\nfaults:{table(self.faults)}"
            + "".join(f"\nWRONG: {what}" for what in self.wrong[:50])
        )


class Soak:
    """One soak on a node, for so many seconds."""

    def __init__(self, node: Node, prefix: str, folder: Path, seconds: float, seed: int) -> None:
        self._node = node
        self._folder = folder
        self._seconds = seconds
        self._seed = seed
        self._prefix = prefix
        self._memory: list[int] = []
        self._wrong: list[str] = []
        self._dead: set[str] = set()

    async def run(self) -> Report:
        before = Belongings.now(self._node)
        with self._processes() as (proxies, workers):
            faults = Faults(self._node, workers, proxies, random.Random(self._seed))
            load = Load(workers.services, self._folder, self._seed)
            await self._under_load(faults, load, proxies[0].url)
            await workers.drain()
        self._check_codes(workers)
        await self._check_left(before, workers)
        return self._account(faults, load)

    @contextmanager
    def _processes(self) -> Iterator[tuple[tuple[Proxy, Proxy], Workers]]:
        with ExitStack() as stack:
            proxies = stack.enter_context(Proxy(self._node.port)), stack.enter_context(Proxy(self._node.port))
            url = f"{proxies[1].url}?heartbeat=2&liveness_timeout=2"
            workers = Workers(url, self._prefix, self._folder)
            stack.callback(workers.end)
            for service in workers.services * WORKERS:
                workers.start(service)
            yield proxies, workers

    async def _under_load(self, faults: Faults, load: Load, url: str) -> None:
        quick: dict[str, Any] = {"timeout": TIMEOUT, "heartbeat": 2, "liveness_timeout": 2.0}
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(AsyncClient(url, reply=reply, **quick))
                for reply in ("exclusive", "durable")
            ]
            blocking = Client(url, **quick)
            stack.push_async_callback(asyncio.to_thread, blocking.close)
            await self._whole(clients, faults.workers.services)
            callers = [
                asyncio.create_task(load.call(client, f"{n} {c}"))
                for n, client in enumerate(clients)
                for c in range(CALLERS)
            ]
            callers += [
                asyncio.create_task(_in_thread(load.call_from_a_thread, blocking, f"thread {n}"))
                for n in range(CALLING_THREADS)
            ]
            try:
                await self._break_things(faults)
            finally:
                load.stopped.set()
                _done, late = await asyncio.wait(callers, timeout=TIMEOUT + 3 * LATE)
            self._wrong += [f"{len(late)} callers hang"] if late else []
            for task in callers:
                task.cancel()
            await self._whole(clients, faults.workers.services)

    async def _break_things(self, faults: Faults) -> None:
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            await asyncio.sleep(faults.rng.uniform(0, PAUSE))
            await faults.strike()
            self._memory.append(resident())

    async def _whole(self, clients: list[AsyncClient], services: list[str]) -> None:
        """Wait until everybody can be reached by everybody; from then on nothing may fail."""
        for client, service in itertools.product(clients, services):
            async with asyncio.timeout(60):
                while True:
                    with suppress(CallError):
                        await client.options(timeout=2).call(f"{service}.ping")
                        break
                    await asyncio.sleep(0.1)
            await asyncio.gather(*(client.options(timeout=30).call(f"{service}.ping") for _ in range(50)))

    def _check_codes(self, workers: Workers) -> None:
        if any(workers.exit_codes):
            self._wrong.append(f"draining workers ended with {workers.exit_codes}, not 0")

    async def _check_left(self, before: Belongings, workers: Workers) -> None:
        with raw_channel(self._node.url) as raw:
            waiting = {service: depth(raw, service) for service in workers.services}
            self._dead = {key for service in workers.services for key in _keys(raw, wire.dead_queue(service))}
        self._wrong += [f"{count} messages are left in {queue}" for queue, count in waiting.items() if count]
        expected = before._replace(queues=before.queues + 2 * len(KINDS))
        with suppress(TimeoutError):
            await until(lambda: Belongings.now(self._node) == expected, seconds=10)
        left = Belongings.now(self._node)
        if left != expected:
            self._wrong.append(f"left behind: {left}, expected {expected}; {reply_queues(self._node)} reply queues")
        if growth(self._memory) > GROWTH:
            self._wrong.append(f"memory grew by {growth(self._memory)} bytes: {self._memory}")

    def _account(self, faults: Faults, load: Load) -> Report:
        entries = [Entry.parse(line) for line in lines(self._folder / "entries")]
        runs = Counter(lines(self._folder / "runs"))
        begun = {str(number) for number in range(load.begun + 1)}
        wrong = self._wrong + judge(entries, begun, runs, self._dead, faults.last_deletion)
        endings = Counter(f"{entry.kind}: {entry.reason} {entry.execution}".strip() for entry in entries)
        return Report(self._seed, faults.counts, endings, runs.total(), growth(self._memory), wrong)


def _keys(raw: Any, queue: str) -> Iterator[str]:
    """Take what was set aside out of the queue."""
    while (message := take(raw, queue)) is not None:
        yield json.loads(message[1])[0]


async def _in_thread(work: Callable[..., None], *args: Any) -> None:
    """`asyncio.to_thread` with a thread of its own, as the pool may be smaller than what it has to hold."""
    done, loop = asyncio.Event(), asyncio.get_running_loop()

    def run() -> None:
        work(*args)
        loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name=f"soak {args[-1]}", daemon=True).start()
    await done.wait()


def main() -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Calls under random faults, all of them accounted for.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    chosen = parser.parse_args()
    logging.getLogger("warren").addHandler(logging.NullHandler())  # what breaks is in the report
    print(f"soak: {chosen.minutes:g} minutes, seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="warren-soak-") as folder, Node(name="warren-soak") as node:
        soak = Soak(node, "soak", Path(folder), chosen.minutes * 60, chosen.seed)
        report = asyncio.run(soak.run())
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
