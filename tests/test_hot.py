"""The list of the hot path's modules is true, and a compiler can take them. `make compiled` does compile them."""

import subprocess
import sys
from pathlib import Path

from hot import HOT, INTERPRETED, ROOT, build


def test_the_list_names_what_runs_for_every_message_and_nothing_else() -> None:
    command = [sys.executable, "-m", "benchmarks.micro.traced"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert sorted([*HOT, *INTERPRETED]) == run.stdout.split()


def test_mypyc_takes_every_hot_module(tmp_path: Path) -> None:
    built = build(tmp_path, "check")
    assert built.returncode == 0, built.stdout + built.stderr
