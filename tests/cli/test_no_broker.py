"""Without a broker on the default port, a free one here: it is said, and the embedded one offered, not taken."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rabbit import free_ports
from tests.cli.running import PATIENCE, Running, environment
from warren.cli.terminal import offer_broker

#: ``warren`` with another default URL.
_PROGRAM = """
import sys
from warren.connection import settings

settings.DEFAULT_URL = sys.argv.pop(1)

from warren.cli import main

main()
"""


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def command(port: int) -> list[str]:
    return ["-c", _PROGRAM, f"amqp://127.0.0.1:{port}"]


@pytest.fixture
def started(folder: Path) -> Iterator[list[Running]]:
    """Processes that end with the test."""
    running: list[Running] = []
    yield running
    for process in reversed(running):
        process.close()


def _call(command: list[str], folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command, *args],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_serve_says_that_there_is_none_and_serves_once_it_is_started(
    started: list[Running], command: list[str], folder: Path, port: int, service_name: str
) -> None:
    serve = Running(*command, "serve", "calc:service", cwd=folder, env=environment(), program=(sys.executable,))
    started.append(serve)
    serve.wait_for(f"nothing listens on 127.0.0.1:{port}: start RabbitMQ, or .* in another terminal: warren broker")
    started.append(Running("broker", "--port", str(port), cwd=folder, env=environment()))
    serve.wait_worker(1)
    assert _call(command, folder, "call", f"{service_name}.fib", "30").stdout == "832040\n"
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


@pytest.mark.parametrize("verb", [("call", "calc.fib", "30"), ("bench",)])
def test_a_call_says_so_too(command: list[str], folder: Path, port: int, verb: tuple[str, ...]) -> None:
    done = _call(command, folder, *verb)
    assert done.returncode == 3
    assert done.stderr.count("in another terminal: warren broker") == 1
    assert "connection refused" in done.stderr
    assert done.stdout == ""


def test_a_broker_that_was_named_is_not_replaced(port: int) -> None:
    assert offer_broker(f"amqp://127.0.0.1:{port}") is None
