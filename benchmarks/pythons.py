"""``python -m benchmarks.pythons [PYTHON ...]``: Warren on each Python of this machine, as sources and compiled.

Each Python gets an environment of its own in build/bench/pythons, where pip installs a wheel that it builds from the
tree; a free-threaded one gets a plain wheel. Rounds interleave, client and worker run the same; the C program, where it
can be built, is measured in every round too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks import plan, readme
from benchmarks.builds import build_c, state
from benchmarks.procs import ROOT, Peer, PeerFailed, peer
from benchmarks.report import table, today
from benchmarks.together import Cost, measured, median

sys.path.insert(0, str(ROOT / "tools"))  # rabbit.py and wheels.py are not installed

import wheels
from rabbit import Node, version

_LIMIT = 120.0  # seconds for one process
_FOLDER = ROOT / "build" / "bench" / "pythons"
#: What a Python says of itself, with Warren and all that it needs imported: some modules bring the lock back.
TELL = (
    "import sys, sysconfig, warren; "
    "free = sysconfig.get_config_var('Py_GIL_DISABLED'); "
    "lock = free and sys._is_gil_enabled(); "
    "kind = ' free-threaded' + (', lock on' if lock else '') if free else ''; "
    "maker = ' of the system' if sys.base_prefix == '/usr' else ''; "
    "print(sys.version.split()[0] + kind + maker, 'compiled' if warren.compiled else 'pure', sep='|')"
)


@dataclass(frozen=True, slots=True)
class Way:
    """What client and worker run: a Python, with Warren's sources or its compiled hot path, or something else."""

    title: str
    words: str = ""


C = Way("C, librabbitmq")
_PURE, _COMPILED = "pure", "compiled"
#: Gives the command of a process that is to ``serve`` or to ``call``.
Command = Callable[[str, Node, float], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Runs:
    """How its processes are started."""

    command: Command
    env: Mapping[str, str]


def environment(*, compiled: bool) -> dict[str, str]:
    """Of a process that is to run what is installed, compiled or not."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "WARREN_PURE")}
    return env if compiled else env | {"WARREN_PURE": "1"}


def commands(named: Sequence[str]) -> dict[str, str]:
    """Pythons by the names of their environments: those that are named, two builds of one version too, or what is here.

    Raises:
        ValueError: one that is named does not run, or is too old.
    """
    if not named:
        return dict(sorted(wheels.found(wheels.candidates()).items()))
    found = {}
    for command in named:
        tags = wheels.found([command]) if shutil.which(command) else {}
        if not tags:
            raise ValueError(f"{command} is no Python that runs, or one older than 3.11: name another")
        found[f"{next(iter(tags))}-{hashlib.sha256(command.encode()).hexdigest()[:8]}"] = command
    return found


def prepared(name: str, command: str) -> Path:
    """The Python of an environment in which the tree is installed, made if it is not there or the tree has changed.

    Raises:
        PeerFailed: it cannot be made; the text says why.
    """
    folder, stamp = _FOLDER / name, state(command)
    python = folder / "bin" / "python"
    if (folder / "stamp").exists() and (folder / "stamp").read_text() == stamp:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run(os.path.abspath(shutil.which(command) or command), "-m", "venv", str(folder))
    _run(str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(ROOT))
    (folder / "stamp").write_text(stamp)
    return python


def _run(*command: str, env: Mapping[str, str] | None = None) -> str:
    # in the folder of builds, where no source of the tree is found in the place of what is installed
    given = env or environment(compiled=True)
    done = subprocess.run(command, cwd=_FOLDER, env=given, capture_output=True, text=True)
    if done.returncode:
        raise PeerFailed(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def ways(python: Path) -> dict[Way, Runs]:
    """How a Python can run Warren, as it says itself."""
    found = {}
    for words in (_PURE, _COMPILED):
        env = environment(compiled=words == _COMPILED)
        title, told = _run(str(python), "-c", TELL, env=env).strip().split("|")
        if told == words:
            found[Way(title, words)] = Runs(partial(_command, python), env)
    return found


def _command(python: Path, verb: str, node: Node, seconds: float) -> Sequence[str]:
    words = [verb, "--mode", "async", "--url", node.url, "--address", "pythons"]
    return [str(python), "-m", "benchmarks.peers.warren", *words, "--window", "100", "--seconds", str(seconds)]


def in_c() -> dict[Way, Runs]:
    """The C program, or nothing where it cannot be built."""
    build_c()
    return {C: Runs(_c_command, os.environ)} if plan.ECHO.exists() else {}


def _c_command(verb: str, node: Node, seconds: float) -> Sequence[str]:
    return [str(plan.ECHO), verb, "-p", str(node.port), "-q", "pythons.c", "-w", "100", "-s", str(seconds)]


def measure(runs: Runs, node: Node, seconds: float) -> Cost:
    """One client and one worker, 100 calls in flight, `async def`."""

    def start(verb: str) -> AbstractContextManager[Peer]:
        return peer(runs.command(verb, node, seconds), runs.env, _LIMIT)

    return measured(start, node.pid, note=lambda: None)


def measure_all(cases: Mapping[Way, Runs], rounds: int, seconds: float) -> dict[Way, list[Cost]]:
    """Each of them in every round; every other round goes backwards."""
    found: dict[Way, list[Cost]] = {way: [] for way in cases}
    with Node(name="warren-pythons") as node:
        for number in range(rounds):
            for way, runs in [*cases.items()][:: 1 if number % 2 == 0 else -1]:
                cost = measure(runs, node, seconds)
                found[way].append(cost)
                print(f"round {number + 1} {way.title} {way.words} {cost.rate:,.0f}/s", file=sys.stderr, flush=True)
    return found


def document(found: Mapping[Way, Sequence[Cost]], cores: int, seconds: float, rabbitmq: str) -> str:
    """The part of the README."""
    rounds = len(next(iter(found.values())))
    first = next(costs for way, costs in found.items() if way.words)
    rows = [_row(way, costs, found.get(C), first) for way, costs in found.items()]
    heads = ("", "", "calls/s", "lowest-highest", "to C", "CPU to first", "client µs", "server µs", "broker µs")
    return (
        f"{today()}, {cores} cores, RabbitMQ {rabbitmq}; 100 calls in flight, `async def`, defaults; medians of "
        f"{rounds} interleaved round(s), {seconds:g} s each. *CPU to first*: client and worker, to those of the first "
        f"Python; it and *to C* are formed within each round.\n\n{table(heads, rows)}"
    )


def _row(way: Way, costs: Sequence[Cost], c: Sequence[Cost] | None, first: Sequence[Cost]) -> list[str]:
    middle, rates = median(costs), [cost.rate for cost in costs]
    return [
        way.title,
        way.words,
        f"{middle.rate:,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        f"{ratio(costs, c, _rate):.2f}" if c else "",
        f"{ratio(costs, first, _cpu):.2f}",
        *(f"{us:,.1f}" for us in (middle.client_us, middle.server_us, middle.broker_us)),
    ]


def _rate(cost: Cost) -> float:
    return cost.rate


def _cpu(cost: Cost) -> float:
    return cost.client_us + cost.server_us


def ratio(costs: Sequence[Cost], others: Sequence[Cost], figure: Callable[[Cost], float]) -> float:
    """A figure, to that of another in the same rounds."""
    return statistics.median(figure(a) / figure(b) for a, b in zip(costs, others, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure, print, and write where it was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.pythons", description=__doc__)
    parser.add_argument("pythons", nargs="*", help="commands or paths; default: one of each version on PATH or pyenv's")
    parser.add_argument("--prepare", action="store_true", help="only make the environments, for a run that is quiet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--write-readme", action="store_true", help="publish this run in benchmarks/README.md")
    options = parser.parse_args(arguments)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        chosen = commands(options.pythons)
    except ValueError as error:
        parser.error(str(error))
    cases = in_c()
    for name, command in chosen.items():
        cases |= ways(prepared(name, command))
    if options.prepare:
        return 0
    found = measure_all(cases, options.rounds, options.seconds)
    text = document(found, len(os.sched_getaffinity(0)), options.seconds, version())
    print(text)
    path = ROOT / "benchmarks" / "results" / time.strftime("pythons-%Y%m%d-%H%M%S.json", time.gmtime())
    entries = [asdict(way) | {"rounds": [*map(asdict, costs)]} for way, costs in found.items()]
    path.write_text(json.dumps(entries, indent=1) + "\n")
    if options.write_readme:
        readme.write("pythons", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
