"""``python -m benchmarks.pythons [PYTHON ...]``: Warren on each Python of this machine, as sources and compiled.

Each Python gets an environment of its own in build/bench/pythons, where pip installs a wheel that it builds from the
tree; a free-threaded one gets a plain wheel. Rounds interleave, client and worker run the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import readme
from benchmarks.builds import state
from benchmarks.procs import ROOT, Peer, PeerFailed, peer
from benchmarks.report import table, today
from benchmarks.together import Cost, measured, median

sys.path.insert(0, str(ROOT / "tools"))  # rabbit.py and wheels.py are not installed

import wheels
from rabbit import Node

_LIMIT = 120.0  # seconds for one process
_FOLDER = ROOT / "build" / "bench" / "pythons"
_TELL = (
    "import sys, sysconfig, warren; "
    "free = sysconfig.get_config_var('Py_GIL_DISABLED'); "
    "print(sys.version.split()[0] + (' free-threaded' if free else ''), int(warren.compiled))"
)


@dataclass(frozen=True, slots=True)
class Way:
    """A Python, and whether it runs the compiled hot path."""

    title: str
    compiled: bool

    @property
    def words(self) -> str:
        return "compiled" if self.compiled else "pure"


def environment(*, compiled: bool) -> dict[str, str]:
    """Of a process that is to run what is installed, compiled or not."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "WARREN_PURE")}
    return env if compiled else env | {"WARREN_PURE": "1"}


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


def ways(python: Path) -> list[Way]:
    """How it can run Warren, as it says itself."""
    found = []
    for compiled in (False, True):
        title, _, told = _run(str(python), "-c", _TELL, env=environment(compiled=compiled)).strip().rpartition(" ")
        if compiled == (told == "1"):
            found.append(Way(title, compiled))
    return found


def measure(python: Path, way: Way, node: Node, seconds: float) -> Cost:
    """One client and one worker, 100 calls in flight, `async def`."""

    def start(verb: str) -> AbstractContextManager[Peer]:
        words = [verb, "--mode", "async", "--url", node.url, "--address", "pythons"]
        words += ["--window", "100", "--seconds", str(seconds)]
        command = (str(python), "-m", "benchmarks.peers.warren", *words)
        return peer(command, environment(compiled=way.compiled), _LIMIT)

    return measured(start, node.pid, note=lambda: None)


def measure_all(pythons: Mapping[str, Path], rounds: int, seconds: float) -> dict[Way, list[Cost]]:
    """Each way of each Python in every round; every other round goes backwards."""
    cases = [(way, python) for python in pythons.values() for way in ways(python)]
    found: dict[Way, list[Cost]] = {way: [] for way, _python in cases}
    with Node(name="warren-pythons") as node:
        for number in range(rounds):
            for way, python in cases[:: 1 if number % 2 == 0 else -1]:
                cost = measure(python, way, node, seconds)
                found[way].append(cost)
                print(f"round {number + 1} {way.title} {way.words} {cost.rate:,.0f}/s", file=sys.stderr, flush=True)
    return found


def document(found: Mapping[Way, Sequence[Cost]], cores: int, seconds: float) -> str:
    """The part of the README."""
    first = next(iter(found.values()))
    rows = [_row(way, costs, first) for way, costs in found.items()]
    heads = ("Python", "", "calls/s", "lowest-highest", "CPU to first", "client µs", "server µs", "broker µs")
    return (
        f"{today()}, {cores} cores; 100 calls in flight, `async def`, defaults; medians of {len(first)} interleaved "
        f"round(s), {seconds:g} s each. *CPU to first*: client and worker, to those of the first row, formed within "
        f"each round.\n\n{table(heads, rows)}"
    )


def _row(way: Way, costs: Sequence[Cost], first: Sequence[Cost]) -> list[str]:
    middle, rates = median(costs), [cost.rate for cost in costs]
    return [
        way.title,
        way.words,
        f"{middle.rate:,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        f"{ratio(costs, first):.2f}",
        *(f"{us:,.1f}" for us in (middle.client_us, middle.server_us, middle.broker_us)),
    ]


def ratio(costs: Sequence[Cost], first: Sequence[Cost]) -> float:
    """The CPU of client and worker, to that of another in the same rounds."""
    parts = [(a.client_us + a.server_us) / (b.client_us + b.server_us) for a, b in zip(costs, first, strict=True)]
    return statistics.median(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure, print, and write where it was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.pythons", description=__doc__)
    parser.add_argument("pythons", nargs="*", help="commands or paths; default: those of PATH, and pyenv's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--write-readme", action="store_true", help="publish this run in benchmarks/README.md")
    options = parser.parse_args(arguments)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    commands = wheels.found(options.pythons or wheels.candidates())
    pythons = {name: prepared(name, commands[name]) for name in sorted(commands)}
    found = measure_all(pythons, options.rounds, options.seconds)
    text = document(found, len(os.sched_getaffinity(0)), options.seconds)
    print(text)
    path = ROOT / "benchmarks" / "results" / time.strftime("pythons-%Y%m%d-%H%M%S.json", time.gmtime())
    entries = [asdict(way) | {"rounds": [*map(asdict, costs)]} for way, costs in found.items()]
    path.write_text(json.dumps(entries, indent=1) + "\n")
    if options.write_readme:
        readme.write("pythons", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
