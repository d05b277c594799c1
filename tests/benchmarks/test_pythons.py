"""Warren on several Pythons: the table. The Pythons themselves are for the benchmark."""

from __future__ import annotations

import sys

import pytest
from benchmarks import pythons
from benchmarks.pythons import Way
from benchmarks.together import Cost

import wheels

PURE, COMPILED = Way("3.11.7", False), Way("3.11.7", True)


def test_cpu_is_compared_within_rounds_and_without_the_broker() -> None:
    ours, first = [Cost(1, 10, 10, 99), Cost(1, 30, 30, 1)], [Cost(1, 20, 20, 1), Cost(1, 60, 60, 1)]
    assert pythons.ratio(ours, first) == 0.5


def test_each_way_of_each_python_has_a_row() -> None:
    text = pythons.document({PURE: [Cost(1000, 40, 40, 50)], COMPILED: [Cost(2000, 20, 20, 50)]}, 2, 1.2)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "3.11.7" in line]
    assert [row[:5] for row in rows] == [
        ["3.11.7", "pure", "1,000", "1,000-1,000", "1.00"],
        ["3.11.7", "compiled", "2,000", "2,000-2,000", "0.50"],
    ]


def test_the_sources_run_where_compiled_modules_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_PURE", "1")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert pythons.environment(compiled=False)["WARREN_PURE"] == "1"
    assert {"WARREN_PURE", "PYTHONPATH"} & pythons.environment(compiled=True).keys() == set()


def test_a_python_without_the_lock_is_another_one_and_is_not_compiled_for() -> None:
    assert wheels.free_threaded("cpython-313t-x86_64-linux-gnu")
    (tag,) = wheels.found([sys.executable, sys.executable])
    assert wheels.free_threaded(tag) == ("t-" in tag)
