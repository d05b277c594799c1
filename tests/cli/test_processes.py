"""The manager of worker processes, with workers of a few lines: no broker, no services."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest

from warren.processes import manager as processes
from warren.processes.manager import CANNOT_SERVE, Manager

BEGIN = """
import os, socket, sys, time
lifeline = socket.socket(fileno=os.dup(0))
with open(sys.argv[1], "a") as file:
    file.write(f"{sys.argv[2]} {os.getpid()}\\n")
"""
READY = BEGIN + "lifeline.send(b'ready')\n"
WAIT = READY + "lifeline.recv(1)\n"

Make = Callable[..., Manager]


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """Where each worker notes its name and pid when it starts."""
    return tmp_path / "started"


@pytest.fixture
def make(started: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a manager of workers that run a given program."""
    monkeypatch.setattr(processes, "_GRACE", 0.3)

    def make(program: str, workers: int = 1) -> Manager:
        return Manager(
            lambda name: [sys.executable, "-S", "-c", program, str(started), name],
            workers=workers,
            drain_timeout=0.0,
            environment=os.environ,
        )

    return make


def noted(started: Path) -> list[str]:
    return started.read_text().splitlines() if started.exists() else []


async def lines(started: Path, count: int) -> list[str]:
    """The workers started, once there are `count` of them."""
    async with asyncio.timeout(20):
        while len(noted(started)) < count:
            await asyncio.sleep(0.01)
    return noted(started)


async def test_it_keeps_the_wanted_number_and_ends_them_all(make: Make, started: Path) -> None:
    manager = make(WAIT, workers=3)
    running = asyncio.create_task(manager.run())
    names = {line.split()[0] for line in await lines(started, 3)}
    manager.stop()
    assert await running == 0
    assert names == {"worker-1", "worker-2", "worker-3"}


async def test_the_others_start_only_once_the_first_is_ready(make: Make, started: Path) -> None:
    manager = make(BEGIN + "sys.exit(3)", workers=3)  # a failure that may pass, before it serves
    running = asyncio.create_task(manager.run())
    names = {line.split()[0] for line in await lines(started, 3)}
    manager.stop()
    await running
    assert names == {"worker-1"}


async def test_a_worker_that_cannot_serve_ends_it_all(make: Make, started: Path) -> None:
    assert await make(BEGIN + f"sys.exit({CANNOT_SERVE})", workers=3).run() == 1
    assert len(noted(started)) == 1


async def test_wrong_usage_passes_through(make: Make) -> None:
    assert await make(BEGIN + "sys.exit(2)").run() == 2


async def test_workers_that_die_soon_are_replaced_after_growing_pauses(
    make: Make, started: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make(READY)
    running = asyncio.create_task(manager.run())
    await lines(started, 4)
    manager.stop()
    await running
    pauses = [float(pause) for pause in re.findall(r"starting another in (\S+) s", caplog.text)]
    assert pauses[:3] == sorted(pauses[:3])  # 0.05 to 0.1, 0.1 to 0.2, 0.2 to 0.4
    assert pauses[2] > pauses[0]


async def test_a_worker_that_does_not_stop_is_killed_and_the_exit_code_tells(make: Make, started: Path) -> None:
    manager = make("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(60)")
    running = asyncio.create_task(manager.run())
    await lines(started, 1)
    manager.stop()
    assert await running == 1


async def test_stopping_ends_a_pause(make: Make, started: Path) -> None:
    manager = make(READY)
    running = asyncio.create_task(manager.run())
    await lines(started, 5)  # the next pause takes most of a second
    manager.stop()
    async with asyncio.timeout(20):
        await running


async def test_a_command_that_cannot_be_started_is_tried_again(started: Path, caplog: pytest.LogCaptureFixture) -> None:
    commands = iter([["/nowhere/python"]])
    good = [sys.executable, "-S", "-c", WAIT, str(started), "worker-1"]
    manager = Manager(lambda _name: next(commands, good), workers=1, drain_timeout=0.0, environment=os.environ)
    running = asyncio.create_task(manager.run())
    await lines(started, 1)
    manager.stop()
    assert await running == 0
    assert "worker-1 cannot be started: " in caplog.text


async def test_each_change_replaces_all_workers(make: Make, started: Path) -> None:
    changed = asyncio.Event()

    async def changes() -> AsyncIterator[Collection[str]]:
        await changed.wait()
        yield {"calc.py"}

    manager = make(WAIT, workers=2)
    running = asyncio.create_task(manager.run(changes()))
    await lines(started, 2)
    changed.set()
    pids = [line.split()[1] for line in await lines(started, 4)]
    manager.stop()
    assert await running == 0
    assert len(set(pids)) == 4


async def test_a_worker_that_drains_for_a_reload_is_not_told_again_when_all_shall_end(
    make: Make, started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def changes() -> AsyncIterator[Collection[str]]:
        await lines(started, 1)
        yield {"calc.py"}

    told = """
import signal
def on_signal(*_):
    with open(sys.argv[1], "a") as file:
        file.write("told\\n")
signal.signal(signal.SIGTERM, on_signal)
"""
    monkeypatch.setattr(processes, "_GRACE", 1.0)
    manager = make(told.join(("import sys\n", READY + "time.sleep(60)")))
    running = asyncio.create_task(manager.run(changes()))
    assert (await lines(started, 2))[1:] == ["told"]
    manager.stop()
    assert await running == 1  # it had to be killed, as it only takes notes
    assert noted(started)[1:] == ["told"]


async def test_a_watcher_that_fails_leaves_the_workers_alone(
    make: Make, started: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def changes() -> AsyncIterator[Collection[str]]:
        raise OSError("no more inotify watches")
        yield set()

    manager = make(WAIT)
    running = asyncio.create_task(manager.run(changes()))
    await lines(started, 1)
    manager.stop()
    assert await running == 0
    assert "changed files are not noticed any more" in caplog.text
