"""``python -m benchmarks.growth``: how calls per second grow with workers, clients, queues and payloads.

Measured on this machine, and computed beyond it. The computed part is a model of three lines: a Python process has one
core, so a client and a worker are full at 1 / (CPU of a call); all together are full when the machine's cores are; and
a queue is one Erlang process, full when its own share of the broker's CPU fills one core. That share is read from the
broker: the reductions (its count of work) of each of its processes, during the measurement.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from benchmarks.builds import Builds
from benchmarks.procs import ROOT, Peer, cpu_seconds, peer
from benchmarks.report import table

sys.path.insert(0, str(ROOT / "tools"))  # rabbit.py is not installed

from rabbit import Node

_WINDOW = 100
_SERVER_LIMIT = 600.0
#: Reductions of all of the broker's processes, and of the services' queues among them.
_REDUCTIONS = "lists:sum([R || P <- processes(), {reductions, R} <- [process_info(P, reductions)]])."
_QUEUE_REDUCTIONS = (
    'lists:sum([R || Q <- rabbit_amqqueue:list(<<"/">>), {reductions, R} <- [process_info(amqqueue:get_pid(Q),'
    ' reductions)], binary:match(element(4, amqqueue:get_name(Q)), <<"growth">>) =/= nomatch]).'
)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: `what` is varied, the rest is as small as can be."""

    what: str
    clients: int = 1
    workers: int = 1
    queues: int = 1
    size: int = 10


@dataclass(frozen=True, slots=True)
class Result:
    """Calls per second, and the CPU of a call in microseconds: of one client, one worker, the broker; `queue` is the
    part of the broker's that the service's own queue does."""

    rate: float
    client_us: float
    server_us: float
    broker_us: float
    queue_us: float


def cases() -> list[Case]:
    some = (1, 2, 4, 8)
    return [
        *(Case("clients", clients=n) for n in some),
        *(Case("workers", workers=n) for n in some[1:]),
        *(Case("both", clients=n, workers=n) for n in (2, 4)),
        *(Case("queues", queues=n) for n in (10, 100)),
        *(Case("payload", size=n) for n in (1024, 16 * 1024, 128 * 1024, 1024 * 1024)),
    ]


def measure(case: Case, node: Node, env: dict[str, str], seconds: float) -> Result:
    """Start the processes of a case, let all clients call at once, and add up."""
    window = _WINDOW if case.size <= 128 * 1024 else 8
    with ExitStack() as stack:

        def start(verb: str) -> Peer:
            words = [verb, "--url", node.url, "--address", "growth", "--mode", str(case.queues)]
            words += ["--window", str(window), "--seconds", str(seconds), "--size", str(case.size)]
            process = stack.enter_context(
                peer((sys.executable, "-m", "benchmarks.peers.many", *words), env, _SERVER_LIMIT)
            )
            process.ready()
            return process

        workers = [start("serve") for _ in range(case.workers)]
        clients = [start("call") for _ in range(case.clients)]
        pids = [worker.pid for worker in workers]
        before = cpu_seconds(pids), cpu_seconds([node.pid]), _reductions(node)
        for client in clients:
            client.begin()
        answers = [client.answer() for client in clients]
        after = cpu_seconds(pids), cpu_seconds([node.pid]), _reductions(node)
    calls = sum(answer["calls"] for answer in answers)
    broker_us = (after[1] - before[1]) / calls * 1e6
    (queue_before, all_before), (queue_after, all_after) = before[2], after[2]
    share = (queue_after - queue_before) / max(1, all_after - all_before)
    return Result(
        sum(answer["rate"] for answer in answers),
        sum(answer["cpu_s"] for answer in answers) / calls * 1e6,
        (after[0] - before[0]) / calls * 1e6,
        broker_us,
        broker_us * share / case.queues,
    )


def _reductions(node: Node) -> tuple[int, int]:
    """Those of the services' queues, and of all processes."""
    return _number(node.eval(_QUEUE_REDUCTIONS)), _number(node.eval(_REDUCTIONS))


def _number(text: str) -> int:
    return int(re.findall(r"\d+", text)[-1])


@dataclass(frozen=True, slots=True)
class Limits:
    """Calls per second at which something is full."""

    cores: float
    clients: float
    workers: float
    queue: float

    @property
    def rate(self) -> float:
        return min(self.cores, self.clients, self.workers, self.queue)

    @property
    def what(self) -> str:
        """What is full first."""
        limits: dict[str, float] = asdict(self)
        return min(limits, key=lambda name: limits[name])


def expected(one: Result, cores: int, clients: int, workers: int, queues: int) -> Limits:
    """The model: what so many cores, processes and queues should do, from what one of each costs."""
    return Limits(
        cores=cores * 1e6 / (one.client_us + one.server_us + one.broker_us),
        clients=clients * 1e6 / one.client_us,
        workers=workers * 1e6 / one.server_us,
        queue=queues * 1e6 / one.queue_us if one.queue_us else float("inf"),
    )


_MODELLED = ((2, 1, 1, 1), (8, 2, 2, 1), (8, 4, 4, 2), (64, 8, 8, 1), (64, 16, 16, 4), (64, 24, 24, 8))


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.2)
    options = parser.parse_args()
    builds = Builds()
    builds.prepare(["shipped"])
    found: dict[Case, list[Result]] = {case: [] for case in cases()}
    with Node() as node:
        for number in range(options.rounds):
            for case in list(found)[:: 1 if number % 2 == 0 else -1]:
                result = measure(case, node, builds.environment("shipped"), options.seconds)
                found[case].append(result)
                print(f"round {number + 1} {case} {result.rate:,.0f}/s", file=sys.stderr, flush=True)
    medians = {case: _median(results) for case, results in found.items()}
    print(_measured(medians), _modelled(medians[cases()[0]]), sep="\n\n")
    path = ROOT / "benchmarks" / "results" / time.strftime("growth-%Y%m%d-%H%M%S.json", time.gmtime())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(c) | asdict(r) for c, r in medians.items()], indent=1) + "\n")
    return 0


def _median(results: list[Result]) -> Result:
    return Result(*(statistics.median(values) for values in zip(*(asdict(r).values() for r in results), strict=True)))


def _measured(medians: dict[Case, Result]) -> str:
    head = ("clients", "workers", "queues", "bytes", "calls/s", "client µs", "server µs", "broker µs", "of it queue µs")
    rows = [
        [f"{c.clients}", f"{c.workers}", f"{c.queues}", f"{c.size:,}", f"{r.rate:,.0f}"]
        + [f"{us:,.1f}" for us in (r.client_us, r.server_us, r.broker_us, r.queue_us)]
        for c, r in medians.items()
    ]
    return table(head, rows)


def _modelled(one: Result) -> str:
    rows = []
    for cores, clients, workers, queues in _MODELLED:
        limits = expected(one, cores, clients, workers, queues)
        rows.append([f"{n}" for n in (cores, clients, workers, queues)] + [f"{limits.rate:,.0f}", limits.what])
    return table(("cores", "clients", "workers", "queues", "calls/s, computed", "full first"), rows)


if __name__ == "__main__":
    sys.exit(main())
