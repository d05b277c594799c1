"""``python -m benchmarks.growth``: how calls per second grow with workers, clients, queues and payloads.

Measured on this machine, and computed beyond it (`expected`). The model: a thing is full at 1 / (what a call costs it).
A Python process has one core; each of the broker's Erlang processes (a queue, a channel, a connection's reader) has
one, too; and all together have the machine's. What a call costs an Erlang process is its share of the broker's
reductions, Erlang's count of work, during the measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace

from benchmarks import readme
from benchmarks.builds import Builds
from benchmarks.procs import ROOT, Peer, peer
from benchmarks.report import table, today
from benchmarks.together import Cost, measured, median

sys.path.insert(0, str(ROOT / "tools"))  # rabbit.py is not installed

from rabbit import Node

_LIMIT = 120.0  # seconds for one process
_LARGE = 128 * 1024  # bytes, above which fewer calls are kept in flight
#: The reductions of the services' queues, and of each other process of the broker.
_REDUCTIONS = (
    'Q = [amqqueue:get_pid(A) || A <- rabbit_amqqueue:list(<<"/">>), '
    'binary:match(element(4, amqqueue:get_name(A)), <<"growth">>) =/= nomatch], '
    "[{pid_to_list(P), lists:member(P, Q), R} || P <- processes(), {reductions, R} <- [process_info(P, reductions)]]."
)
_ONE = re.compile(r'\{\s*"([<>\d.]+)",\s*(true|false),\s*(\d+)\s*\}')


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: what is varied, the rest is as small as can be."""

    clients: int = 1
    workers: int = 1
    queues: int = 1
    size: int = 10

    @property
    def window(self) -> int:
        return 100 if self.size <= _LARGE else 8


BASE = Case()
CASES = (
    BASE,
    *(Case(clients=n) for n in (2, 4, 8)),
    *(Case(workers=n) for n in (2, 4, 8)),
    *(Case(clients=n, workers=n) for n in (2, 4)),
    *(Case(queues=n) for n in (10, 100)),
    *(Case(size=n) for n in (1024, 16 * 1024, 128 * 1024, 1024 * 1024)),
)

#: Reductions of Erlang processes by their names, with whether each is a service's queue.
Work = Mapping[str, tuple[bool, int]]


def work(text: str) -> dict[str, tuple[bool, int]]:
    """What `_REDUCTIONS` answers, read.

    Raises:
        ValueError: there is nothing to read in it.
    """
    found = {name: (queue == "true", int(count)) for name, queue, count in _ONE.findall(text)}
    if not found:
        raise ValueError(f"no reductions in the broker's answer: {text[:200]!r}")
    return found


@dataclass(frozen=True, slots=True)
class Shares:
    """Of all that the broker did: the part of all service queues, and of the busiest process beside them."""

    queues: float
    busiest: float


def shares(before: Work, after: Work) -> Shares:
    """Who did the broker's work between two looks; of a process that has ended meanwhile nothing is known."""
    done = {name: (queue, count - before.get(name, (queue, 0))[1]) for name, (queue, count) in after.items()}
    total = sum(count for _queue, count in done.values()) or 1
    others = [count for queue, count in done.values() if not queue]
    return Shares(sum(count for queue, count in done.values() if queue) / total, max(others, default=0) / total)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of a case, in calls per second and microseconds of CPU for each call."""

    cost: Cost
    queue_us: float  # of the broker's, what the service's queue does
    line_us: float  # of the broker's, what the busiest of all other processes does: a channel, or a connection's reader


def measure(case: Case, node: Node, env: dict[str, str], seconds: float) -> Result:
    """Start the processes of a case, let all clients call at once, and add up."""
    looks: list[Work] = []

    def start(verb: str) -> AbstractContextManager[Peer]:
        words = [verb, "--url", node.url, "--address", "growth", "--mode", str(case.queues)]
        words += ["--window", str(case.window), "--seconds", str(seconds), "--size", str(case.size)]
        return peer((sys.executable, "-m", "benchmarks.peers.many", *words), env, _LIMIT)

    cost = measured(
        start,
        node.pid,
        workers=case.workers,
        clients=case.clients,
        note=lambda: looks.append(work(node.eval(_REDUCTIONS))),
    )
    part = shares(*looks)
    return Result(cost, cost.broker_us * part.queues, cost.broker_us * part.busiest)


# --- the model ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """What calls run on. With nodes of their own, the brokers share no core with clients and workers."""

    what: str
    cores: int
    clients: int
    workers: int
    queues: int
    nodes: int = 0  # of a cluster, `cores` each; clients and workers have enough of their own. 0: one machine for all


#: What is full, and what helps then.
REMEDIES = {
    "cores": "more cores, or brokers on machines of their own",
    "nodes": "more nodes, or clients and workers at the node of their queue",
    "clients": "more client processes",
    "workers": "more worker processes",
    "queues": "several queues for the service: the same handlers under several names, callers spread over them",
    "lines": "more client and worker processes: each has its own connection",
}


def hop_us(one: Result) -> float:
    """What it costs the brokers to hand a message to another node: computed, as is said in the README.

    A call passes four connections (client in, worker out, worker in, client out), and that is what the broker's CPU
    goes into beside the queue. A hop to another node is written and read like one of these.
    """
    return (one.cost.broker_us - one.queue_us) / 4


def clustered_us(one: Result, nodes: int) -> float:
    """The brokers' CPU for a call in a cluster whose clients, workers and queues are anywhere.

    Three times a message may have to go elsewhere (client to queue, queue to worker, worker to the client's reply
    queue), each time with the chance that it is another node.
    """
    return one.cost.broker_us + 3 * (1 - 1 / nodes) * hop_us(one)


def expected(one: Result, place: Place) -> dict[str, float]:
    """Calls per second at which each thing is full; the lowest of them is what is to be had at most."""
    if place.nodes:
        machine = {"nodes": place.nodes * place.cores * 1e6 / clustered_us(one, place.nodes)}
    else:
        machine = {"cores": place.cores * 1e6 / one.cost.all_us}
    return machine | {
        "clients": place.clients * 1e6 / one.cost.client_us,
        "workers": place.workers * 1e6 / one.cost.server_us,
        "queues": place.queues * 1e6 / one.queue_us if one.queue_us else float("inf"),
        "lines": min(place.clients, place.workers) * 1e6 / one.line_us if one.line_us else float("inf"),
    }


def full(limits: Mapping[str, float]) -> str:
    """What is full first."""
    return min(limits, key=lambda name: limits[name])


def here(case: Case, cores: int) -> Place:
    """The machine that a case was measured on."""
    return Place("", cores, case.clients, case.workers, case.queues)


PLACES = (
    Place("8 cores", 8, 1, 1, 1),
    Place("8 cores", 8, 4, 4, 1),
    Place("8 cores", 8, 4, 4, 4),
    Place("64 cores", 64, 8, 8, 1),
    Place("64 cores", 64, 24, 24, 1),
    Place("64 cores", 64, 24, 24, 16),
    Place("3 nodes, 8 cores each", 8, 16, 16, 1, nodes=3),
    Place("3 nodes, 8 cores each", 8, 16, 16, 12, nodes=3),
)


def loaded(found: Mapping[Case, Result]) -> Result:
    """What one of each costs; but of the queue's work the most that it was with small bodies.

    A queue in which requests wait does more for each than one that is empty, and one that is full has some waiting.
    """
    one = found[BASE]
    most = max(result.queue_us for case, result in found.items() if (case.queues, case.size) == (1, BASE.size))
    return replace(one, queue_us=most)


# --- the report ---------------------------------------------------------------------------------------------------


def measured_table(found: Mapping[Case, Result], cores: int) -> str:
    """What was measured, and what the model says of the same, from the first case alone."""
    heads = ("clients", "workers", "queues", "bytes", "calls/s", "at most", "client µs", "server µs", "broker µs")
    rows = []
    for case, result in found.items():
        cost = result.cost
        rows.append([f"{case.clients}", f"{case.workers}", f"{case.queues}", f"{case.size:,}", f"{cost.rate:,.0f}"])
        computed = min(expected(loaded(found), here(case, cores)).values())
        rows[-1] += [f"{computed:,.0f}" if case.size == BASE.size else ""]
        rows[-1] += [f"{us:,.1f}" for us in (cost.client_us, cost.server_us, cost.broker_us)]
        rows[-1] += [f"{us:,.1f}" for us in (result.queue_us, result.line_us)]
    return table((*heads, "of it queue", "of it busiest"), rows)


def modelled_table(one: Result) -> str:
    """What is to be expected elsewhere."""
    rows = []
    for place in PLACES:
        limits = expected(one, place)
        first = full(limits)
        counts = [f"{n}" for n in (place.clients, place.workers, place.queues)]
        rows.append([place.what, *counts, f"{limits[first]:,.0f}", first, REMEDIES[first]])
    return table(("on", "clients", "workers", "queues", "calls/s at most", "full first", "what helps"), rows)


def trust(found: Mapping[Case, Result], cores: int) -> tuple[float, float, float]:
    """Measured rates as parts of the computed ones, of all cases with small bodies: lowest, median, highest."""
    parts = [
        result.cost.rate / min(expected(loaded(found), here(case, cores)).values())
        for case, result in found.items()
        if case.size == BASE.size
    ]
    return min(parts), statistics.median(parts), max(parts)


def document(found: Mapping[Case, Result], cores: int, rounds: int, seconds: float) -> str:
    """The part of the README."""
    low, half, high = trust(found, cores)
    return (
        f"{today()}, {cores} cores; medians of {rounds} interleaved round(s), {seconds:g} s each; 100 calls in flight "
        f"for each client, 8 of 1 MiB.\n\n{measured_table(found, cores)}\n\n"
        "Computed for other places, from the first row, and the queue's work where it is most. Where both are known, "
        f"what was measured is {half:.2f} of what is computed ({low:.2f} to {high:.2f}):\n\n"
        f"{modelled_table(loaded(found))}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write where it was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--write-readme", action="store_true", help="publish this run in benchmarks/README.md")
    options = parser.parse_args(arguments)
    rounds = measure_all(options.rounds, options.seconds)
    found = {case: middle([results[case] for results in rounds]) for case in CASES}
    text = document(found, len(os.sched_getaffinity(0)), options.rounds, options.seconds)
    print(text)
    path = ROOT / "benchmarks" / "results" / time.strftime("growth-%Y%m%d-%H%M%S.json", time.gmtime())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([asdict(case) | asdict(result) for case, result in found.items()], indent=1) + "\n")
    if options.write_readme:
        readme.write("growth", text)
    return 0


def measure_all(rounds: int, seconds: float) -> list[dict[Case, Result]]:
    """Every case in every round; every other round goes backwards."""
    builds = Builds()
    builds.prepare(["shipped"])
    found: list[dict[Case, Result]] = []
    with Node(name="warren-growth") as node:
        for number in range(rounds):
            found.append({})
            for case in CASES[:: 1 if number % 2 == 0 else -1]:
                found[-1][case] = measure(case, node, builds.environment("shipped"), seconds)
                rate = found[-1][case].cost.rate
                print(f"round {number + 1} {case} {rate:,.0f}/s", file=sys.stderr, flush=True)
    return found


def middle(results: Sequence[Result]) -> Result:
    """The median of each figure."""
    return Result(
        median([result.cost for result in results]),
        statistics.median(result.queue_us for result in results),
        statistics.median(result.line_us for result in results),
    )


if __name__ == "__main__":
    sys.exit(main())
