"""The list of fault scenarios: what each promises, and which test proves it.

A test says ``@pytest.mark.scenario(8, "one sentence")``; ``pytest --scenario-table FILE`` writes all that were
collected as a Markdown table. Numbers from 1 to 58 are those of the original list, from 100 on they are additions.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

_INTRO = """\
# Fault scenarios

Written by `make scenarios` from the tests' marks: do not edit. Each row is a test on a real RabbitMQ, or on the
embedded broker where it says so, with the number of its variants. All of them pass on each change, or it is not taken.
Numbers from 100 on are additions to the original list.

| | promise | test | variants |
|---|---|---|---|
"""

#: A scenario's number, its promise, and the test that proves it.
Row = tuple[int, str, str]


def rows(items: list[pytest.Item]) -> Counter[Row]:
    """What the tests say that they prove, and how many variants of each there are."""
    return Counter(
        (*mark.args, item.nodeid.partition("[")[0].removeprefix("tests/"))
        for item in items
        for mark in item.iter_markers("scenario")
    )


def table(found: Counter[Row]) -> str:
    """The rows as a Markdown table, in the order of their numbers."""
    ordered = sorted(found.items(), key=lambda row: (row[0][0], row[0][2], row[0][1]))
    return _INTRO + "".join(
        f"| {number} | {promise} | `{test}` | {count} |\n" for (number, promise, test), count in ordered
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scenario-table", metavar="FILE", help="write the collected fault scenarios as Markdown")


def pytest_collection_finish(session: pytest.Session) -> None:
    if file := session.config.getoption("--scenario-table"):
        Path(file).write_text(table(rows(session.items)))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenario(number, promise): the fault scenario that a test proves")
