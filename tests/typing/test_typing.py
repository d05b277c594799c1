"""mypy --strict and Pyright accept right uses of Warren and reject wrong ones, mypy each for its own reason."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from mypy import api

from tests.support.serving import ROOT

_HERE = Path(__file__).parent
_RIGHT, _WRONG = _HERE / "right_uses.py", _HERE / "wrong_uses.py"
_ERROR = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): error: .*  (?P<code>\[[a-z-]+\])$")
_EXPECTED = re.compile(r"  # E: (?P<code>\[[a-z-]+\])$")


class Complaint(NamedTuple):
    line: int
    code: str


@pytest.fixture(scope="module")
def complaints(pytestconfig: pytest.Config) -> dict[str, set[Complaint]]:
    """What mypy says of both files, by file name."""
    cache = pytestconfig.cache
    folder = str(cache.mkdir("mypy")) if cache is not None else os.devnull
    options = ["--strict", "--config-file=pyproject.toml", f"--cache-dir={folder}", "--no-pretty", "--no-error-summary"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        out, err, _status = api.run([*options, str(_RIGHT), str(_WRONG)])
    assert not err, err
    return _read(out)


def _read(out: str) -> dict[str, set[Complaint]]:
    found: dict[str, set[Complaint]] = {}
    for line in out.splitlines():
        match = _ERROR.match(line)
        assert match or ": note: " in line, line
        if match:
            found.setdefault(Path(match["file"]).name, set()).add(Complaint(int(match["line"]), match["code"]))
    return found


def test_right_uses_are_accepted(complaints: dict[str, set[Complaint]]) -> None:
    assert complaints.get(_RIGHT.name, set()) == set()


def test_wrong_uses_are_rejected_each_for_its_reason(complaints: dict[str, set[Complaint]]) -> None:
    found = complaints.get(_WRONG.name, set())
    expected = {
        Complaint(number, match["code"])
        for number, line in enumerate(_WRONG.read_text().splitlines(), start=1)
        if (match := _EXPECTED.search(line))
    }

    assert expected
    assert expected - found == set(), "accepted, or rejected for another reason"
    assert {c.line for c in found} - {c.line for c in expected} == set(), "rejected, but not marked"


def test_nothing_but_the_two_files_is_complained_about(complaints: dict[str, set[Complaint]]) -> None:
    assert complaints.keys() <= {_RIGHT.name, _WRONG.name}


@pytest.fixture(scope="module")
def rejected() -> dict[str, set[int]]:
    """The lines of both files that Pyright rejects, by file name."""
    command = [sys.executable, "-m", "basedpyright", "--level=error", "--outputjson", f"--pythonpath={sys.executable}"]
    done = subprocess.run([*command, str(_RIGHT), str(_WRONG)], cwd=ROOT, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 2, done.stderr
    found: dict[str, set[int]] = {}
    for complaint in report["generalDiagnostics"]:
        found.setdefault(Path(complaint["file"]).name, set()).add(complaint["range"]["start"]["line"] + 1)
    return found


def test_pyright_accepts_right_uses(rejected: dict[str, set[int]]) -> None:
    assert rejected.get(_RIGHT.name, set()) == set()


def test_pyright_rejects_wrong_uses(rejected: dict[str, set[int]]) -> None:
    expected = {
        number
        for number, line in enumerate(_WRONG.read_text().splitlines(), start=1)
        if (match := _EXPECTED.search(line)) and match["code"] != "[unused-coroutine]"  # of which it only warns
    }
    assert expected
    assert rejected.get(_WRONG.name, set()) == expected
