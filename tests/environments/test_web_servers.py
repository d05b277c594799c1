"""Web servers that fork: the client is made, and used, in the parent, and works in every child."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from rabbit import free_ports
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("worker")

APPLICATION = """
import os
from warren import Client
import calc

client = Client(os.environ["WARREN_URL"], timeout=30)
if "PRELOAD" in os.environ:
    print("in the parent:", client.call(calc.add, 1, 1))

def application(environ, start_response):
    body = f"{client.call(calc.add, 1, 2)}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


@contextmanager
def gunicorn(place: Path, environment: dict[str, str], *options: str) -> Iterator[int]:
    """gunicorn with two workers; it has to stop in order."""
    (place / "application.py").write_text(APPLICATION)
    [port] = free_ports(1)
    command = [sys.executable, "-m", "gunicorn", f"--bind=127.0.0.1:{port}", "--workers=2", *options]
    process = subprocess.Popen(
        [*command, "application"], cwd=place, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Listening at" in line:
                break
        yield port
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, log
        assert "Traceback" not in log, log
    finally:
        process.kill()
        process.wait()


def get(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_a_client_that_was_used_before_the_fork_works_in_the_workers(
    place: Path, environment: dict[str, str], kind: str
) -> None:
    with gunicorn(place, {**environment, "PRELOAD": "1"}, "--preload", f"--worker-class={kind}") as port:
        assert [get(port) for _ in range(6)] == ["3"] * 6


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_so_does_one_under_gevent_that_is_patched_in_the_configuration(
    place: Path, environment: dict[str, str], preload: tuple[str, ...]
) -> None:
    (place / "gunicorn.conf.py").write_text("from gevent import monkey\nmonkey.patch_all()\n")
    with gunicorn(place, environment, "--worker-class=gevent", *preload) as port:
        assert [get(port) for _ in range(6)] == ["3"] * 6


def test_a_fork_that_python_does_not_see_lets_its_children_end(place: Path, environment: dict[str, str]) -> None:
    """uWSGI's way: a fork in C, after which Python's own hooks have not run."""
    program = """
import ctypes, os, sys, time
from warren import Client
import calc

client = Client(os.environ["WARREN_URL"], timeout=30)
print(client.call(calc.add, 1, 1), flush=True)
time.sleep(0.5)  # CPython itself hangs in the child if another thread waits for the interpreter lock in that moment
if ctypes.PyDLL(None).fork() == 0:
    print(client.call(calc.add, 1, 2), flush=True)
    client.close()
    sys.exit(7)  # not os._exit: what Python does at its end is the point
print(os.waitstatus_to_exitcode(os.wait()[1]))
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place,
        env={**environment, "WARREN_URL": environment["WARREN_URL"].replace("127.0.0.1", "localhost")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.split() == ["2", "3", "7"], done.stderr
