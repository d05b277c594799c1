"""A test that hangs fails alone and says what it waits for; Ctrl-C ends what tests start, whoever has started them."""

import signal
import subprocess
import sys

import pytest

from tests.support.serving import ROOT

CONFIGURATION = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
addopts = -p no:cacheprovider
"""

HANGS = """
import asyncio
import os
import threading
import time
import pytest

async def other():
    await asyncio.sleep(3600)

async def test_a_coroutine():
    task = asyncio.create_task(other())
    never = asyncio.Event()
    await never.wait()

async def test_one_that_is_not_cancelled():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

def test_a_function():
    threading.Event().wait()

async def test_a_blocked_loop():
    time.sleep(3600)

@pytest.fixture
async def never_ready():
    await asyncio.Event().wait()

def test_a_fixture(never_ready):
    pass

@pytest.fixture
async def never_over():
    yield
    await asyncio.Event().wait()

async def test_a_teardown(never_over):
    pass

def test_nothing():
    pass
"""

IGNORES = "import os, signal, sys; signal.signal(signal.{0}, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
ASKS = """
import signal, subprocess, sys

def test_a_child():
    ask = "import signal; print(signal.getsignal(signal.{0}) == signal.SIG_IGN)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert done.stdout == "False\\n"
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a suite that has our plugins."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makefile(".ini", pytest=CONFIGURATION)
    pytester.makeconftest(
        'pytest_plugins = ["tests.support.hangs", "tests.support.heeded"]\n'
        "from tests.support import hangs\nhangs._GRACE = 0.5"
    )
    return pytester


def test_what_hangs_fails_alone_and_says_where(project: pytest.Pytester) -> None:
    project.makepyfile(HANGS)
    outcome = project.runpytest_subprocess("--timeout", "4", timeout=300)
    outcome.assert_outcomes(passed=2, failed=4, errors=3)
    said = outcome.stdout
    said.fnmatch_lines(["*await never.wait()*", "*CancelledError*", "*it hangs: after 2 s these wait:*", "*other()*"])
    said.fnmatch_lines(["*test_one_that_is_not_cancelled*", "*it hangs: these wait:*"])
    said.fnmatch_lines(["*threading.Event().wait()*", "*it hangs: these wait:*"])
    said.fnmatch_lines(["*time.sleep(3600)*", "*it hangs: these wait:*"])


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_tests_start_heeds_signals_that_the_tests_were_started_to_ignore(
    project: pytest.Pytester, name: str
) -> None:
    project.makepyfile(ASKS.format(name))
    command = [sys.executable, "-m", "pytest"]
    ignoring = [sys.executable, "-c", IGNORES.format(signal.Signals[name].name), *command]
    done = subprocess.run(ignoring, cwd=project.path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
