"""``make demo``'s script does what the README promises."""

import subprocess
import sys

from tests.support.serving import ROOT


def test_the_demo_shows_a_result_a_mistake_and_a_killed_worker() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py")], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fib(30) = 832040\n" in done.stdout
    assert "InvalidArgument: calc.fib: Expected `int` <= 90 - at `n`" in done.stdout
    assert "WorkerLost: calc.slow_fib: a worker was lost" in done.stdout
    assert done.stdout.endswith("done, nothing is left behind\n")
