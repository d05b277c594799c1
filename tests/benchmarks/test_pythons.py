"""Warren on several Pythons: the table. The Pythons themselves are for the benchmark."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from benchmarks import pythons
from benchmarks.pythons import Way
from benchmarks.together import Cost

import wheels

PURE, COMPILED = Way("3.11.7", "pure"), Way("3.11.7", "compiled")
FOUND = {PURE: [Cost(1000, 40, 40, 50)], COMPILED: [Cost(2000, 20, 20, 50)]}


def _rows(text: str) -> list[list[str]]:
    lines = text.partition("\n\n")[2].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_figures_are_compared_within_rounds_and_cpu_without_the_broker() -> None:
    ours, first = [Cost(5, 10, 10, 99), Cost(3, 30, 30, 1)], [Cost(10, 20, 20, 1), Cost(6, 60, 60, 1)]
    costs = dict(zip((PURE, COMPILED, pythons.C), (first, ours, [Cost(20, 4, 4, 1), Cost(12, 4, 4, 1)]), strict=True))
    assert [row[4:6] for row in _rows(pythons.document(costs, 2, 1.2, "3.10.8"))][:2] == [
        ["0.50", "1.00"],
        ["0.25", "0.50"],
    ]


def test_each_way_of_each_python_has_a_row() -> None:
    assert [row[:6] for row in _rows(pythons.document(FOUND, 2, 1.2, "3.10.8"))] == [
        ["3.11.7", "pure", "1,000", "1,000-1,000", "", "1.00"],
        ["3.11.7", "compiled", "2,000", "2,000-2,000", "", "0.50"],
    ]


def test_c_stands_above_them_and_is_not_what_their_cpu_is_compared_with() -> None:
    text = pythons.document({pythons.C: [Cost(4000, 4, 4, 30)]} | FOUND, 2, 1.2, "3.10.8")
    assert [row[:1] + row[4:6] for row in _rows(text)] == [
        ["C, librabbitmq", "1.00", "0.10"],
        ["3.11.7", "0.25", "1.00"],
        ["3.11.7", "0.50", "0.50"],
    ]


def test_a_python_says_which_way_it_runs_warren(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythons, "_FOLDER", tmp_path)
    (way, *_others) = pythons.ways(Path(sys.executable))
    assert way.title.split(" ")[0] == sys.version.split(" ")[0]
    assert way.words == "pure"
    assert ("free-threaded" in way.title) == wheels.free_threaded(sysconfig.get_config_var("SOABI"))


@pytest.mark.parametrize(("lock", "words"), [(False, " free-threaded"), (True, " free-threaded, lock on")])
def test_a_free_threaded_python_says_whether_the_lock_is_on(lock: bool, words: str) -> None:
    claim = "import sys, sysconfig; sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get; "
    claim += f"sys._is_gil_enabled = lambda: {lock}; "
    done = subprocess.run([sys.executable, "-c", claim + pythons.TELL], capture_output=True, text=True, check=True)
    assert words == done.stdout.split("|")[0].removeprefix(sys.version.split()[0]).removesuffix(" of the system")


def test_pythons_that_are_named_have_environments_of_their_own(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    named = pythons.commands([sys.executable, str(other)])
    assert sorted(named.values()) == sorted([sys.executable, str(other)])


@pytest.mark.parametrize("command", ["no-such-python", "/bin/false"])
def test_a_python_that_does_not_run_is_an_error(command: str) -> None:
    with pytest.raises(ValueError, match=f"{command} is no Python that runs"):
        pythons.commands([command])


def test_a_free_threaded_python_is_found_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python3.14t").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(tmp_path / "python3.14t") in wheels.candidates()


def test_the_sources_run_where_compiled_modules_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_PURE", "1")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert pythons.environment(compiled=False)["WARREN_PURE"] == "1"
    assert {"WARREN_PURE", "PYTHONPATH"} & pythons.environment(compiled=True).keys() == set()


def test_a_python_without_the_lock_is_another_one_and_is_not_compiled_for() -> None:
    assert wheels.free_threaded("cpython-313t-x86_64-linux-gnu")
    (tag,) = wheels.found([sys.executable, sys.executable])
    assert wheels.free_threaded(tag) == ("t-" in tag)
