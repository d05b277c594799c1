"""A short run of each fuzzer; ``make fuzz`` gives them a minute."""

from pathlib import Path

import pytest

from tests.fuzz.__main__ import run
from tests.fuzz.seeds import SEEDS

#: Runs that take some seconds.
RUNS = {"frames": 30_000, "wire": 1_000, "methods": 12_000}


@pytest.mark.parametrize("name", SEEDS)
def test_a_fuzzer_finds_nothing_in_some_seconds(name: str, tmp_path: Path) -> None:
    done = run(name, f"-runs={RUNS[name]}", "-seed=1", "-max_total_time=60", f"-artifact_prefix={tmp_path}/")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done" in done.stderr
