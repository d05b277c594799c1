"""Run the fuzz harnesses one after the other: ``python -m tests.fuzz [SECONDS]``, 60 seconds each by default.

Each begins with messages as Warren writes them. What makes one fail is kept in ``fuzz-failures`` and its path printed;
run the harness with that path as its argument to see it again.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.seeds import SEEDS

HERE = Path(__file__).parent
FAILURES = Path("fuzz-failures")


def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run one harness to its end; its output comes as stderr."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            (Path(folder) / str(number)).write_bytes(seed)
        command = [sys.executable, "-m", f"tests.fuzz.fuzz_{name}", "-verbosity=1", *options, folder]
        return subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)


def main() -> int:
    """Fuzz; 1 when a harness failed."""
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    FAILURES.mkdir(exist_ok=True)
    failed = 0
    for name in SEEDS:
        done = run(name, f"-max_total_time={seconds}", f"-artifact_prefix={FAILURES.resolve()}/{name}-")
        print(f"{name}: {done.stderr.splitlines()[-1] if done.stderr else done.returncode}", flush=True)
        if done.returncode != 0:
            failed = 1
            print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
    if not any(FAILURES.iterdir()):
        FAILURES.rmdir()
    return failed


if __name__ == "__main__":
    sys.exit(main())
