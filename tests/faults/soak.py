"""Calls without end while things break, and every one of them accounted for.

    python -m tests.faults.soak --minutes 10 --seed 7

A private node, four worker processes of two services (one on a classic, one on a quorum queue) in two versions, as
during a deployment, and three clients, with a fault proxy in front of the workers and one in front of the clients. A
schedule drawn from the seed cuts and silences connections, kills, freezes, poisons and drains workers, deletes queues,
and freezes, kills and restarts the broker. Calls have long and short deadlines or are given up, and handlers raise odd
exceptions (`load`). Each ending of a call and each run of a handler is a line in a file; `books` holds one against the
other, and both against what was set aside. In the end everything has to be whole again, each client and each worker by
itself, nothing may be left behind, and no table of a client or a worker may hold anything.
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
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rabbit import Node
from tests.faults.books import TIMEOUT, Books, Break, Deletion, Entry, SetAside, parse_runs
from tests.faults.load import Load
from tests.support import tables
from tests.support.evidence import LATE, messages, reply_queues, sockets, threads
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel, take
from tests.support.serving import ROOT, lines
from tests.support.soaked import KILLED, VERSIONS
from tests.support.waiting import in_thread, until
from warren import AsyncClient, Client
from warren.protocol import topology
from warren.protocol.dead_message import Death

#: Queue kind of each service, by the end of its name.
KINDS = ("classic", "quorum")
WORKERS = 2
CALLERS, CALLING_THREADS = 8, 4
#: Longest pause between two faults, in seconds.
PAUSE = 3.0
#: Bytes by which the memory may grow from the first third of the time to the last.
GROWTH = 24_000_000

#: Calls a method by its name.
Ask = Callable[[str], Awaitable[Any]]


# --- workers ----------------------------------------------------------------------------------------------------------


class Workers:
    """The worker processes, of both versions by turns; one that ends, by whatever, is replaced.

    Attributes:
        services: the names of the services.
        exit_codes: of those that were drained.
        fallen: of those that ended by themselves.
    """

    def __init__(self, url: str, prefix: str, folder: Path) -> None:
        self.services = [f"{prefix}-{kind}" for kind in KINDS]
        self.exit_codes: list[int] = []
        self.fallen: list[int] = []
        self._url = url
        self._folder = folder
        self._versions = {service: itertools.cycle(VERSIONS) for service in self.services}
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, service: str) -> None:
        """Start one; it serves in its own time."""
        kind, version = service.rpartition("-")[2], str(next(self._versions[service]))
        command = [sys.executable, "-m", "tests.support.soaked", service, kind, self._url, str(self._folder), version]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        with (self._folder / "workers.log").open("ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment)
        self._running.append((service, process))

    async def watch(self) -> None:
        """Replace those that end by themselves, for as long as this runs."""
        while True:
            for service, process in list(self._running):
                if process.poll() is not None:
                    self._running.remove((service, process))
                    self._look_at(process)
                    self.start(service)
            await asyncio.sleep(0.1)

    async def kept(self) -> dict[int, dict[str, int]]:
        """What each of them keeps of requests, by its own account; they may be busy with their last."""
        processes = {process.pid: process for _service, process in self._running}
        asked = time.monotonic()
        for process in processes.values():
            process.send_signal(signal.SIGUSR1)
        while not processes.keys() <= (told := self._told("kept", asked)).keys():
            await asyncio.sleep(0.1)
        return {pid: tables.left(told[pid]) for pid in processes}

    def drained(self) -> list[dict[str, int]]:
        """What each of those that were drained still kept then."""
        return [tables.left(kept) for kept in self._told("drained", 0.0).values()]

    def _told(self, file: str, since: float) -> dict[int, dict[str, int]]:
        accounts = [json.loads(line) for line in lines(self._folder / file)]
        return {pid: kept for pid, at, kept in accounts if at >= since}

    def pids(self, service: str) -> set[int]:
        """The processes that serve it, or will."""
        return {process.pid for name, process in self._running if name == service}

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
        for _service, process in running:
            self._look_at(process)
        await asyncio.gather(*(self._drain(process) for _service, process in running))

    def end(self) -> None:
        for _service, process in self._running:
            process.kill()
            process.wait()

    def _take(self, rng: random.Random) -> tuple[str, subprocess.Popen[bytes]]:
        taken = self._running.pop(rng.randrange(len(self._running)))
        self._look_at(taken[1])
        return taken

    def _look_at(self, process: subprocess.Popen[bytes]) -> None:
        if (code := process.poll()) not in (None, KILLED):
            self.fallen.append(code)

    async def _drain(self, process: subprocess.Popen[bytes]) -> None:
        ready = self._folder / "ready"  # before it has set its signal handler, a process would just end
        await until(lambda: str(process.pid) in lines(ready) or process.poll() is not None, seconds=60)
        process.terminate()
        try:
            await until(lambda: process.poll() is not None, seconds=60)
        except TimeoutError:
            process.kill()
        if process.wait() != KILLED:
            self.exit_codes.append(process.returncode)


# --- the faults -------------------------------------------------------------------------------------------------------


#: How often each fault is in the pack of cards, besides the one of the broker's end.
CARDS = {
    "reset": 3,
    "end": 2,
    "half-open": 1,
    "silence": 2,
    "slow": 1,
    "kill a worker": 3,
    "freeze a worker": 2,
    "replace a worker": 3,
    "close all connections": 1,
    "delete a reply queue": 1,
    "delete a service queue": 1,
    "freeze the broker": 1,
    "poison": 3,
}
#: Those over which no link breaks.
HARMLESS = frozenset({"slow", "replace a worker", "delete a reply queue", "delete a service queue", "poison"})
KILL, RESTART = "kill the broker", "restart the broker"


def schedule(rng: random.Random) -> Iterator[str]:
    """What goes wrong, without end. A pack, which takes about a minute, is played to its last card: each has its turn.

    The broker ends once in each pack, by turns killed and stopped in good order; early, so that the shortest soak has
    a kill and the time to see what comes of it.
    """
    for end in itertools.cycle([KILL, RESTART]):
        pack = list(Counter(CARDS).elements())
        rng.shuffle(pack)
        pack.insert(rng.randrange(len(pack) // 3), end)
        yield from pack


class Faults:
    """What goes wrong, drawn from the seed.

    Attributes:
        counts: how often each fault has struck.
        deletions: of services' queues.
        breaks: of links.
        poison: sends a request that kills who runs it.
    """

    def __init__(self, node: Node, workers: Workers, proxies: tuple[Proxy, Proxy], seed: int) -> None:
        self.node = node
        self.workers = workers
        self.poison: Callable[[], Any] = lambda: None
        self.proxies = proxies
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.deletions: list[Deletion] = []
        self.breaks: list[Break] = []
        self._schedule = schedule(self.rng)
        self._acts: dict[str, Callable[[], Any]] = {
            "reset": lambda: self._proxy().cut("rst"),
            "end": lambda: self._proxy().cut("fin"),
            "half-open": lambda: self._proxy().half_open(),
            "silence": lambda: self._proxy().abandon("up", "down"),
            "slow": self._slow,
            "kill a worker": lambda: self.workers.kill(self.rng),
            "freeze a worker": lambda: self.workers.freeze(self.rng),
            "replace a worker": lambda: self.workers.replace(self.rng),
            "close all connections": self._close_all,
            "delete a reply queue": lambda: self._delete(self.rng.choice(["amq.gen", topology.reply_queue("")])),
            "delete a service queue": self._delete_service_queue,
            "freeze the broker": self._freeze,
            "poison": lambda: self.poison(),
            KILL: self._kill_broker,
            RESTART: lambda: asyncio.to_thread(self.node.restart),
        }

    async def strike(self) -> None:
        """Let one thing go wrong; what lasts is over when this returns."""
        name, begun = next(self._schedule), time.monotonic()
        self.counts[name] += 1
        done = self._acts[name]()
        if isinstance(done, Awaitable):
            await done
        if name not in HARMLESS:
            self.breaks.append(Break(begun, time.monotonic()))

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

    async def _kill_broker(self) -> None:
        self.node.register_queues()
        await asyncio.to_thread(self.node.kill)
        await asyncio.sleep(self.rng.uniform(0, 2.0))
        await asyncio.to_thread(self.node.start)

    def _delete_service_queue(self) -> None:
        service = self.rng.choice(self.workers.services)
        self._delete(service)
        self.deletions.append(Deletion(service, time.monotonic()))

    def _delete(self, pattern: str) -> None:
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

    def within(self, most: Belongings) -> bool:
        """Whether there is no more of anything than this: what others had left before may go meanwhile."""
        return all(count <= allowed for count, allowed in zip(self, most, strict=True))

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
    excused: int
    wrong: list[str]

    def __str__(self) -> str:
        def table(counts: Counter[str]) -> str:
            return "".join(f"\n  {count:7} {what}" for what, count in counts.most_common())

        return (
            f"seed {self.seed}: {self.endings.total()} calls ended, handlers ran {self.runs} times,"
            f" memory grew by {self.growth / 1e6:.1f} MB\nendings:{table(self.endings)}\nfaults:{table(self.faults)}"
            f"\n{self.excused} casts went with a deleted queue"
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
        self._dead: dict[str, list[SetAside]] = {}

    async def run(self) -> Report:
        before = Belongings.now(self._node)
        with self._processes() as (proxies, workers):
            faults = Faults(self._node, workers, proxies, self._seed)
            load = Load(workers.services, self._folder, self._seed)
            watching = asyncio.create_task(workers.watch())
            try:
                await self._under_load(faults, load, proxies[0].url)
            finally:
                watching.cancel()
            await workers.drain()
        self._check_workers(workers)
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
            await self._whole(clients, blocking, faults.workers)
            callers = [
                asyncio.create_task(load.call(client, f"{n} {c}", durable=client is clients[1]))
                for n, client in enumerate(clients)
                for c in range(CALLERS)
            ]
            callers += [
                asyncio.create_task(in_thread(partial(load.call_from_a_thread, blocking, f"thread {n}")))
                for n in range(CALLING_THREADS)
            ]
            poisons = random.Random(f"{self._seed} poison")
            faults.poison = lambda: callers.append(asyncio.create_task(load.poison(poisons.choice(clients), poisons)))
            try:
                await self._break_things(faults)
            finally:
                load.stopped.set()
                _done, late = await asyncio.wait(callers, timeout=TIMEOUT + 3 * LATE)
            self._wrong += [f"{len(late)} callers hang"] if late else []
            for task in callers:
                task.cancel()
            callers.clear()
            await self._all_done(faults.workers)
            await self._whole(clients, blocking, faults.workers)
            await self._check_tables(faults.workers)

    async def _all_done(self, workers: Workers) -> None:
        """Wait until no request is left: a poisonous cast may have some workers to kill yet."""
        for service in workers.services:
            with suppress(TimeoutError):
                await until(partial(self._is_empty, service), seconds=60)

    def _is_empty(self, queue: str) -> bool:
        return messages(self._node, queue) == 0

    async def _check_tables(self, workers: Workers) -> None:
        """With no call under way, nobody keeps anything of one; a few turns after the last is soon enough."""
        kept: dict[int, dict[str, int]] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                while any((kept := await workers.kept()).values()) or tables.left(tables.of_clients()):
                    await asyncio.sleep(0.2)
                return
        self._wrong.append(f"still kept: {kept} by workers, {tables.left(tables.of_clients())} by clients")

    async def _break_things(self, faults: Faults) -> None:
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            await asyncio.sleep(faults.rng.uniform(0, PAUSE))
            await faults.strike()
            self._memory.append(resident())

    async def _whole(self, clients: list[AsyncClient], blocking: Client, workers: Workers) -> None:
        """Wait until everybody can be reached by everybody; from then on nothing may fail."""
        hasty: list[Ask] = [client.options(timeout=2).call for client in clients]
        calm: list[Ask] = [client.options(timeout=30).call for client in clients]
        hasty.append(partial(_call_in_thread, blocking.options(timeout=2)))
        calm.append(partial(_call_in_thread, blocking.options(timeout=30)))
        for (soon, late), service in itertools.product(zip(hasty, calm, strict=True), workers.services):
            async with asyncio.timeout(60):
                while await _who_answers(soon, service) != workers.pids(service):
                    await asyncio.sleep(0.1)
            if (answers := await _who_answers(late, service)) != workers.pids(service):
                self._wrong.append(f"{service} was whole, and then answered {answers}")

    def _check_workers(self, workers: Workers) -> None:
        self._wrong += [f"a worker was drained, and still kept {kept}" for kept in workers.drained() if kept]
        if any(workers.exit_codes):
            self._wrong.append(f"draining workers ended with {workers.exit_codes}, not 0")
        if workers.fallen:
            self._wrong.append(f"workers ended by themselves, with {workers.fallen}")

    async def _check_left(self, before: Belongings, workers: Workers) -> None:
        with raw_channel(self._node.url) as raw:
            waiting = {service: depth(raw, service) for service in workers.services}
            for service in workers.services:
                for key, aside in _deaths(raw, topology.dead_queue(service)):
                    self._dead.setdefault(key, []).append(aside)
        self._wrong += [f"{count} messages are left in {queue}" for queue, count in waiting.items() if count]
        expected = before._replace(queues=before.queues + 2 * len(KINDS))
        with suppress(TimeoutError):
            await until(lambda: Belongings.now(self._node).within(expected))
        left = Belongings.now(self._node)
        if not left.within(expected):
            self._wrong.append(f"left behind: {left}, expected {expected}; {reply_queues(self._node)} reply queues")
        if growth(self._memory) > GROWTH:
            self._wrong.append(f"memory grew by {growth(self._memory)} bytes: {self._memory}")

    def _account(self, faults: Faults, load: Load) -> Report:
        entries = [Entry.parse(line) for line in lines(self._folder / "entries")]
        runs = parse_runs(lines(self._folder / "runs"))
        killed = [Break(run.at, run.at, run.key) for run in parse_runs(lines(self._folder / "killed"))]
        books = Books(entries, load.begun, runs, self._dead, faults.deletions, [*faults.breaks, *killed])
        wrong, excused = books.judge()
        endings = Counter(f"{entry.kind}: {entry.reason} {entry.execution}".strip() for entry in entries)
        return Report(self._seed, faults.counts, endings, len(runs), growth(self._memory), excused, self._wrong + wrong)


async def _call_in_thread(client: Client, method: str) -> Any:
    return await asyncio.to_thread(lambda: client.call(method))


async def _who_answers(ask: Ask, service: str) -> set[object]:
    """The workers that answer fifty calls at a time, and what else these end in."""
    return set(await asyncio.gather(*(ask(f"{service}.ping") for _ in range(50)), return_exceptions=True))


def _deaths(raw: Any, queue: str) -> Iterator[tuple[str, SetAside]]:
    """Take what was set aside out of the queue: the key of each, why it is there, and since when."""
    ago = time.time() - time.monotonic()
    while (message := take(raw, queue)) is not None:
        properties, body = message
        death = Death.read(properties.headers or {})
        yield json.loads(body)[0], SetAside(death.reason, death.at.timestamp() - ago if death.at else None)


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
