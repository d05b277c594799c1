"""``python -m benchmarks.micro``: wall time of each step, or with ``--instructions`` what valgrind counts.

Wall time on a shared machine varies by tens of per cent; the number of instructions hardly varies at all, so a change
of one per cent shows. They are counted twice, with the tree as it is and compiled; ``--pure`` leaves out the latter.
All further options go to pytest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.builds import Builds
from benchmarks.micro.cases import CASES
from benchmarks.procs import ROOT
from benchmarks.report import table

#: Messages that a step is run for, about.
_MESSAGES = 4_000
_COUNTED = re.compile(r"Collected\s*:\s*(\d+)")
_RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    arguments = sys.argv[1:]
    if "--instructions" in arguments:
        names = [name for name in arguments if not name.startswith("-")] or list(CASES)
        return count_all(names, ["pure"] if "--pure" in arguments else ["pure", "compiled"])
    return wall_times(arguments)


def wall_times(arguments: list[str]) -> int:
    """Run the benchmarks under pytest."""
    command = [sys.executable, "-m", "pytest", "benchmarks/micro/bench_steps.py", "-q", "--timeout=300"]
    columns = ["--benchmark-columns=median,iqr,min,rounds", "--benchmark-sort=name", "--benchmark-disable-gc"]
    # Not errors, as in the tests: pytest-benchmark warns where a timer is coarse.
    return subprocess.run([*command, *columns, "-W", "default", *arguments], cwd=ROOT).returncode


def count_all(names: list[str], ways: list[str]) -> int:
    """Print and save the instructions of each step, per message, with each build of Warren."""
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is missing; run: sudo apt-get install valgrind")
    builds = Builds()
    builds.prepare(ways)
    if builds.missing:
        sys.exit(f"benchmarks: {builds.missing}; or say --pure")
    each = {way: count(names, builds.environment(way)) for way in ways}
    rows = [[name, *(f"{each[way][name]:,.0f}" for way in ways)] for name in names]
    print(table(("instructions per message", *ways), rows))
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / time.strftime("run-%Y%m%d-%H%M%S-instructions.json", time.gmtime())
    path.write_text(json.dumps(each, indent=1) + "\n")
    return 0


def count(names: list[str], env: Mapping[str, str]) -> dict[str, float]:
    """Instructions per message of each step; what starting Python takes is counted apart and taken off."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(["", *names], pool.map(lambda name: instructions(name, env), ["", *names]), strict=True))
    nothing = counts.pop("")
    return {name: (counts[name] - nothing) / _loops(name) / CASES[name].each for name in names}


def _loops(name: str) -> int:
    return max(50, _MESSAGES // CASES[name].each)


def instructions(name: str, env: Mapping[str, str]) -> int:
    """Instructions of a process that runs the step in a loop; without a name, of one that runs none."""
    counter = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--error-exitcode=3"]
    command = [*counter, sys.executable, "-m", "benchmarks.micro.loop", *([name, str(_loops(name))] if name else [])]
    run = subprocess.run(
        command, cwd=ROOT, env={**env, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False
    )
    counted = _COUNTED.search(run.stderr)
    if run.returncode or counted is None:
        sys.exit(f"valgrind failed for {name!r}:\n{run.stderr[-2000:]}")
    return int(counted[1])


if __name__ == "__main__":
    sys.exit(main())
