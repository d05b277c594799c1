"""Windows, as far as it can be had here: without what it lacks, and on an event loop that can what its own can."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments.conftest import Run
from tests.support.serving import ROOT

AS_ON_WINDOWS = """
import asyncio, concurrent.futures, logging, os, signal, socket, ssl, subprocess, sys, threading
import msgspec, pika, pika.adapters.asyncio_connection  # their own business

class Proactor(asyncio.SelectorEventLoop):
    "What Windows' own loop has not; that one lets signals wake it by itself."

    def __init__(self):
        super().__init__()
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._csock.fileno())

    def close(self):
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        super().close()

    def missing(self, *_args):
        raise NotImplementedError

    add_reader = add_writer = add_signal_handler = missing  # nor the others, which asyncio itself calls here

class Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = Proactor

asyncio.set_event_loop_policy(Policy())
sys.platform = "win32"
for name in ("fcntl", "termios", "pwd", "grp", "resource"):
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "waitid", "getuid", "kill"):
    delattr(os, name)
for name in ("SIGALRM", "alarm", "SIGHUP", "SIGCHLD", "SIGKILL", "pthread_sigmask"):
    delattr(signal, name)
signal.SIGBREAK = signal.SIGUSR1
"""

PROGRAM = """
import time
from warren import AsyncClient, Client, Server, Unavailable
from warren.broker import Broker
import calc

def use(url, server):
    with Client(url, timeout=30) as client:
        while True:
            try:
                client.call(calc.add, 0, 0)
            except Unavailable:  # it does not serve yet
                time.sleep(0.05)
            else:
                break
        print(client.call(calc.add, 1, 2), client.call(calc.slow_add, 3, 4), client.submit(calc.add, 5, 6).result())
    async def main():
        async with AsyncClient(url, timeout=30) as client:
            print(await client.call(calc.add, 7, 8))
    asyncio.run(main())
    signal.raise_signal(signal.SIGBREAK)

with Broker() as broker:
    server = Server(calc.service, url=broker.url)
    using = threading.Thread(target=use, args=(broker.url, server))
    using.start()
    server.run()
    using.join()
print("drained")
"""


def test_clients_servers_and_the_embedded_broker_run_there(run: Run) -> None:
    assert run(AS_ON_WINDOWS + PROGRAM).splitlines() == ["3 7 11", "15", "drained"]


def test_the_command_that_does_not_says_what_to_do_instead(run: Run) -> None:
    serve = "from warren.cli import run\nsys.stderr = sys.stdout\nprint(run(['serve', 'calc:service']))"
    said = run(AS_ON_WINDOWS + serve)
    assert "service.run()" in said
    assert said.splitlines()[-1] == "2"


@pytest.mark.timeout(1200)
def test_the_library_names_nothing_that_windows_does_not_have(tmp_path: Path) -> None:
    rooms = [f"-pwarren.{room}" for room in ("amqp", "protocol", "connection", "client", "server")]
    # Not the cache of the checkout, which another mypy may be writing to, for another platform.
    command = [sys.executable, "-m", "mypy", "--platform", "win32", "--cache-dir", str(tmp_path), *rooms]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    errors = [
        line for line in done.stdout.splitlines() if ": error:" in line and "AF_UNIX" not in line
    ]  # of `warren broker --socket`
    assert errors == []
    assert "source files" in done.stdout
