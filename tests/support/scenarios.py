"""The list of fault scenarios: what each promises, which test proves it, and how the last run ended.

A test says ``@pytest.mark.scenario(8, "one sentence")``; ``pytest --scenario-table FILE`` writes them all as a
Markdown table. Numbers from 1 to 58 are those of the original list, from 100 on they are additions.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pika
import pytest

import rabbit

_INTRO = """\
# Fault scenarios

Written by `make faults`: do not edit. Each row is a test on a real RabbitMQ, or on the embedded broker where it says
so; the number counts its variants. Numbers from 100 on are additions to the original list.

"""


@dataclass
class Row:
    """One scenario as one test proves it; parametrized variants are counted."""

    number: int
    promise: str
    test: str
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def outcome(self) -> str:
        """``passed``, or how often what happened."""
        if len(self.outcomes) == 1:
            [(outcome, count)] = self.outcomes.items()
            return outcome if count == 1 else f"{outcome} ({count})"
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))


def table(rows: Iterable[Row], versions: str) -> str:
    """The rows as a Markdown table, in the order of their numbers."""
    lines = [
        f"| {row.number} | {row.promise} | `{row.test}` | {row.outcome} |"
        for row in sorted(rows, key=lambda row: (row.number, row.test))
    ]
    return "\n".join([f"{_INTRO}{versions}\n", "| | promise | test | outcome |", "|---|---|---|---|", *lines, ""])


class Scenarios:
    """Collects what the tests of a run promise and how they ended, from reports: parallel workers send theirs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            outcome = report.outcome if report.when == "call" else f"{report.outcome} in {report.when}"
            for name, told in report.user_properties:
                if name == "scenario":
                    number, promise, test = cast(tuple[int, str, str], told)
                    row = self._rows.setdefault(f"{number} {test}", Row(number, promise, test))
                    row.outcomes[outcome] += 1

    def pytest_sessionfinish(self) -> None:
        versions = f"RabbitMQ {rabbit.version()}, Python {platform.python_version()}, Pika {pika.__version__}."
        self._file.write_text(table(self._rows.values(), versions))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scenario-table", metavar="FILE", help="write the fault scenarios that ran as Markdown")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        test = item.nodeid.partition("[")[0].removeprefix("tests/")
        item.user_properties += [("scenario", (*mark.args, test)) for mark in item.iter_markers("scenario")]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(number, promise): the fault scenario that a test proves")
    if file := config.getoption("--scenario-table"):
        config.pluginmanager.register(Scenarios(Path(file)), "scenarios")
