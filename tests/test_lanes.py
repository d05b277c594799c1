"""The suite's own tools: what parallel workers share out, seeds, reports of failures, and ports."""

import socket
import subprocess
import sys

import pytest

from rabbit import free_ports
from tests.support.serving import ROOT

pytestmark = pytest.mark.timeout(1200)  # suites of their own

CONFIGURATION = """
[pytest]
asyncio_default_fixture_loop_scope = function
addopts = -p no:cacheprovider
"""

GROUPS = """
import os
import pytest

@pytest.fixture(scope="module")
def house():
    return []

@pytest.mark.parametrize("number", range(10))
def test_together(house, number):
    house.append(number)
    assert house == list(range(number + 1))

@pytest.mark.parametrize("number", range(10))
def test_anywhere(number):
    pass
"""

KILLER = """
import os
import pytest

@pytest.mark.parametrize("number", range(40))
def test_it_may_kill(number):
    if number in (20, 39):
        os._exit(1)
"""

SEED = """
def test_chance(seed):
    assert seed == {expected}
"""

GARBAGE = """
import gc
import traceback

class Last:
    def __init__(self):
        self.me = self

    def __del__(self):
        try:
            self.fail()
        except ZeroDivisionError:
            traceback.format_exc()
        Last()  # for the next collection

    def fail(self):
        1 / 0

def test_it_fails():
    Last()
    gc.set_threshold(10)
    assert not "the reason"
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a suite that has our plugins."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # else the plugins, too, are parsed at each start
    pytester.makefile(".ini", pytest=CONFIGURATION)
    pytester.makeconftest('pytest_plugins = ["tests.support.lanes", "tests.support.reports", "tests.support.seeds"]')
    return pytester


def test_tests_that_share_a_fixture_run_in_one_worker(project: pytest.Pytester) -> None:
    project.makepyfile(GROUPS)
    project.runpytest_subprocess("-n", "3").assert_outcomes(passed=20)


def test_a_test_that_kills_its_worker_fails_and_all_others_run(project: pytest.Pytester) -> None:
    project.makepyfile(KILLER)
    outcome = project.runpytest_subprocess("-n", "2", timeout=300)
    outcome.assert_outcomes(passed=38, failed=2)
    outcome.stdout.fnmatch_lines(["*crashed while running*20*"])


def test_a_failure_tells_its_seed(project: pytest.Pytester) -> None:
    project.makepyfile(SEED.format(expected=-1))
    project.runpytest_subprocess().stdout.re_match_lines([r"again with: --seed \d+"])


def test_a_seed_can_be_given(project: pytest.Pytester) -> None:
    project.makepyfile(SEED.format(expected=7))
    project.runpytest_subprocess("--seed", "7").assert_outcomes(passed=1)


def test_a_failure_is_reported_while_garbage_formats_tracebacks(project: pytest.Pytester) -> None:
    project.makepyfile(GARBAGE)
    outcome = project.runpytest_subprocess()
    outcome.assert_outcomes(failed=1)
    outcome.stdout.fnmatch_lines(["*assert not 'the reason'"])


def test_two_processes_choose_different_ports_even_while_nothing_listens_on_them() -> None:
    program = "from rabbit import free_ports; print(*free_ports(100))"
    run = [sys.executable, "-c", program]
    ours = set(free_ports(50))
    done = subprocess.run(run, cwd=ROOT / "tools", capture_output=True, text=True, check=True, timeout=60)
    assert not ours & set(map(int, done.stdout.split()))


def test_a_port_that_somebody_listens_on_is_not_chosen() -> None:
    [port] = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        assert port not in {free_ports(1)[0] for _ in range(200)}
