"""``warren demo``, which is ``make demo``, does what the README promises; on the embedded broker and on RabbitMQ."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.support.raw import depth, raw_channel
from tests.support.serving import ROOT
from warren.cli.demo import service


def _demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "warren", "demo", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def _check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fib(30) = 832040\n" in done.stdout
    assert "tutorial six: 832040\n" in done.stdout
    assert "InvalidArgument: warren-demo.fib: n must be at most 90; the signature is fib(n: int)" in done.stdout
    assert done.stdout.count("result: 832040\n") == 1
    assert "WorkerLost: warren-demo.slow_fib: the request was delivered before, and the worker" in done.stdout
    assert "fib(10) = 55\n" in done.stdout
    assert done.stdout.endswith("done, nothing is left behind\n")


def test_the_demo_shows_a_result_a_mistake_and_a_killed_worker_with_nothing_installed() -> None:
    done = _demo()
    _check(done)
    assert "an embedded broker listens on amqp://guest:guest@127.0.0.1:" in done.stdout


def test_the_demo_shows_the_same_on_rabbitmq_and_leaves_nothing_there(url: str) -> None:
    _check(_demo("--url", url))
    with raw_channel(url) as channel, pytest.raises(Exception, match="NOT_FOUND"):
        depth(channel, service.name)


def test_a_demo_without_its_broker_says_so_at_once() -> None:
    done = _demo("--url", "amqp://127.0.0.1:1")
    assert done.returncode == 3
    assert done.stderr.startswith("error: cannot connect to 127.0.0.1:1: connection refused")


def test_the_demo_of_operating_shows_a_busy_shop_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "warren", "demo", "--operate"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    found = next(filter(None, (re.search(r"the dashboard: (\S+)\?token=(\S+)", line) for line in demo.stdout)))
    headers = {"Authorization": f"Bearer {found[2]}"}
    with urlopen(Request(f"{found[1]}events", headers=headers), timeout=60) as events:
        ends = time.monotonic() + 60
        while b'"caller":"orders"' not in events.readline():  # the shop's own nested calls
            assert time.monotonic() < ends
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (0, "")
    assert out.endswith("the shop is closed, nothing is left behind\n")


def test_the_demo_of_operating_ends_after_so_many_seconds() -> None:
    done = _demo("--operate", "--seconds", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "What to look at" in done.stdout


def test_make_demo_is_the_same_command() -> None:
    assert "$(PY) -m warren demo $(ARGS)" in Path(ROOT / "Makefile").read_text()
