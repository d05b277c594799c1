"""Tests of compiled modules: with ``WARREN_COMPILED`` in the environment, what needs plain Python is left out.

That variable names the folder that the compiled package is in; `tests/compiled.py`, run first, holds that it is tested.
"""

import os
from pathlib import Path

import pytest

_CHANNEL = "its channel is a model's, and compiled code takes nothing but a HotChannel"
#: Below tests: what runs on plain Python only, and why.
PURE_ONLY = {
    "property/test_client_machine.py": _CHANNEL,
    "property/test_client_machine_finds.py": _CHANNEL,
    "property/test_worker.py": _CHANNEL,
    "property/test_worker_machine.py": _CHANNEL,
    "property/test_worker_machine_finds.py": _CHANNEL,
    "property/test_worker_stories.py": _CHANNEL,
    "unit/server/test_worker.py": _CHANNEL,
    "unit/server/test_statistics.py": "its attempts are no Attempts, and end at a time of its own",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if "WARREN_COMPILED" not in os.environ:
        return None
    tests = config.rootpath / "tests"
    return True if collection_path in {tests / name for name in PURE_ONLY} else None
