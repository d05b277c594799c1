"""What parallel workers (`pytest -n auto`) share out among them, and what stays together.

Each worker is a process with a RabbitMQ node and an embedded broker of its own, and takes one test after the other. A
file that sets up something costly for all its tests (a cluster, a running service, a run of the benchmark) goes to one
worker. Such files begin first and unit tests come last, so that all workers end at the same time.
"""

import functools
import os
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SHARES_A_FIXTURE = 'scope="module"'


@functools.cache
def stays_together(file: Path) -> bool:
    """Whether a file has a fixture that its tests share."""
    return SHARES_A_FIXTURE in file.read_text()


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out one test at a time, or a whole file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if stays_together(self.config.rootpath / file) else nodeid

    def remove_node(self, node: Any) -> str | None:
        """A worker has ended; where it was killed by a test, that one is not run again, and what it had left is.

        xdist gives out again all that the worker ever had. Where that is one test at a time, the others get a unit
        without a test in it for each that was done, and wait for ever: a worker runs a test when it knows the next one.
        """
        left = {scope: unit for scope, unit in self.assigned_work.pop(node).items() if not all(unit.values())}
        if not left:
            return None
        unit = next(iter(left.values()))
        killer: str = next(test for test, done in unit.items() if not done)
        unit[killer] = True
        self.workqueue.update({scope: unit for scope, unit in left.items() if not all(unit.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return killer

    def _reschedule(self, node: Any) -> None:
        super()._reschedule(node)
        while self.workqueue and self._pending_of(self.assigned_work[node]) < 2 and not node.shutting_down:
            self._assign_work_unit(node)  # as the first workers do: one that replaces another begins with two


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two for each core, as half of a worker's time is waiting; no more than eight, each with a broker in memory.

    With four for each core the suite took as long, as it needs both cores, and what waits for the other waited longer.

    One for each core with `-n logical`, for tests that hardly wait: each more would import and collect once more.
    """
    cores = os.cpu_count() or 1
    return min(cores if config.option.numprocesses == "logical" else 2 * cores, 8)
