"""The manager of worker processes, with workers of a few lines: no broker, no services."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path

import pytest

from warren.processes import manager as processes
from warren.processes import probes
from warren.processes.crew import CANNOT_SERVE
from warren.processes.manager import Manager
from warren.processes.probes import Probes
from warren.processes.process import Process

BEGIN = """
import os, socket, sys, time
lifeline = socket.socket(fileno=int(sys.argv[3]))
with open(sys.argv[1], "a") as file:
    file.write(f"{sys.argv[2]} {os.getpid()}\\n")
"""
READY = BEGIN + "lifeline.send(b'ready')\n"
WAIT = READY + "lifeline.recv(1)\n"

#: Only takes notes of what it is told.
NOTES = (
    READY
    + """
while order := lifeline.recv(16):
    with open(sys.argv[1], "a") as file:
        file.write(f"told {order}\\n")
"""
)

Make = Callable[..., Manager]


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """Where each worker notes its name and pid when it starts."""
    return tmp_path / "started"


@pytest.fixture
def make(started: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a manager of workers that run a given program."""
    monkeypatch.setattr(processes, "GRACE", 0.3)

    def make(program: str, workers: int = 1) -> Manager:
        return Manager(
            lambda name, lifeline: [sys.executable, "-S", "-c", program, str(started), name, str(lifeline)],
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


async def ready(manager: Manager, count: int) -> None:
    """Wait until so many workers have said that they serve, and the manager knows."""
    async with asyncio.timeout(20):
        while sum(process.serves for process in manager._crew._running) < count:
            await asyncio.sleep(0.01)


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
    async with asyncio.timeout(5):
        await running


async def test_a_command_that_cannot_be_started_is_tried_again(started: Path, caplog: pytest.LogCaptureFixture) -> None:
    programs = iter(["/nowhere/python"])

    def command(name: str, lifeline: int) -> list[str]:
        return [next(programs, sys.executable), "-S", "-c", WAIT, str(started), name, str(lifeline)]

    manager = Manager(command, workers=1, drain_timeout=0.0, environment=os.environ)
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
        await ready(manager, 1)  # before that, SIGTERM would end it at once
        yield {"calc.py"}

    monkeypatch.setattr(processes, "GRACE", 1.0)
    manager = make(NOTES)
    running = asyncio.create_task(manager.run(changes()))
    assert (await lines(started, 2))[1:] == ["told b'stop'"]
    manager.stop()
    assert await running == 1  # it had to be killed, as it only takes notes
    assert noted(started)[1:] == ["told b'stop'"]


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


# --- what may stand between a manager and its workers -----------------------------------------------------------------


async def test_a_worker_that_dies_before_it_serves_is_replaced_though_what_it_forked_holds_its_lifeline(
    make: Make, started: Path
) -> None:
    crash = """
if os.path.getsize(sys.argv[1]) < 20:
    if os.fork():
        os.abort()
    time.sleep(60)
"""
    manager = make(BEGIN + crash + WAIT.removeprefix(BEGIN))
    running = asyncio.create_task(manager.run())
    await lines(started, 2)
    manager.stop()
    assert await running == 0


async def test_the_order_to_stop_is_no_signal_so_that_one_of_somebody_elses_is_the_first(
    make: Make, started: Path
) -> None:
    manager = make("import signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(1))\n" + WAIT)
    running = asyncio.create_task(manager.run())
    await ready(manager, 1)
    manager.stop()
    assert await running == 0


async def test_a_worker_that_does_not_serve_yet_is_ended_by_sigterm(make: Make, started: Path) -> None:
    manager = make(BEGIN + "time.sleep(60)")
    running = asyncio.create_task(manager.run())
    await lines(started, 1)
    manager.stop()
    assert await running == 0


# --- one after the other ----------------------------------------------------------------------------------------------

#: Notes when it serves and when it is told to stop.
LOUD = (
    BEGIN
    + """
def note(what):
    with open(sys.argv[1], "a") as file:
        file.write(f"{what} {os.getpid()}\\n")
note("serves")
lifeline.send(b"ready")
lifeline.recv(16)
note("stops")
"""
)


async def test_a_restart_replaces_one_worker_after_the_other_each_once_its_successor_serves(
    make: Make, started: Path
) -> None:
    manager = make(LOUD, workers=3)
    running = asyncio.create_task(manager.run())
    await ready(manager, 3)
    begun = len(noted(started))
    manager.restart()
    events = (await lines(started, begun + 9))[begun:]
    manager.stop()
    assert await running == 0
    assert [event.split()[0] for event in events] == [
        *("worker-1", "serves", "stops"),
        *("worker-2", "serves", "stops"),
        *("worker-3", "serves", "stops"),
    ]


async def test_a_restart_ends_where_a_successor_does_not_serve_and_leaves_the_others_alone(
    make: Make, started: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make(f"import os, sys\nif os.path.exists(sys.argv[1] + '.broken'): sys.exit({CANNOT_SERVE})\n" + LOUD, 2)
    running = asyncio.create_task(manager.run())
    await ready(manager, 2)
    before = noted(started)
    started.with_name("started.broken").touch()
    manager.restart()
    async with asyncio.timeout(20):
        while "its successor does not serve" not in caplog.text:
            await asyncio.sleep(0.01)
    assert noted(started) == before
    manager.stop()
    assert await running == 0


async def test_a_successor_that_cannot_serve_is_no_failure_of_a_stop_that_comes_meanwhile(
    make: Make, started: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE", 30.0)
    cannot = f"""
import signal
if os.path.exists(sys.argv[1] + '.broken'):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one that ends already when it comes
    lifeline.shutdown(socket.SHUT_WR)
    while not os.path.exists(sys.argv[1] + '.stopping'):
        time.sleep(0.01)
    sys.exit({CANNOT_SERVE})
"""
    manager = make(BEGIN + cannot + "lifeline.send(b'ready')\nlifeline.recv(16)\n")
    running = asyncio.create_task(manager.run())
    await ready(manager, 1)
    started.with_name("started.broken").touch()
    manager.restart()
    async with asyncio.timeout(20):
        while "its successor does not serve" not in caplog.text:
            await asyncio.sleep(0.01)
    manager.stop()
    started.with_name("started.stopping").touch()
    assert await running == 0
    assert "while it drained" not in caplog.text


#: Hangs before it serves, if it is told to.
HANG = """
import os, sys, time
if os.path.exists(sys.argv[1] + '.hang'):
    os.rename(sys.argv[1] + '.hang', sys.argv[1] + '.hangs')
    time.sleep(60)
"""


async def hangs(started: Path) -> None:
    """Wait until one worker hangs; the next one does not."""
    async with asyncio.timeout(20):
        while not started.with_name("started.hangs").exists():
            await asyncio.sleep(0.01)


async def test_a_restart_while_another_waits_for_a_successor_begins_again(make: Make, started: Path) -> None:
    manager = make(HANG + LOUD)
    running = asyncio.create_task(manager.run())
    await ready(manager, 1)
    started.with_name("started.hang").touch()
    manager.restart()
    await hangs(started)
    manager.restart()
    assert [event.split()[0] for event in (await lines(started, 5))[2:]] == ["worker-1", "serves", "stops"]
    manager.stop()
    assert await running == 0


async def test_stopping_ends_a_restart_and_what_it_has_started(make: Make, started: Path) -> None:
    manager = make(HANG + LOUD)
    running = asyncio.create_task(manager.run())
    await ready(manager, 1)
    started.with_name("started.hang").touch()
    manager.restart()
    await hangs(started)
    manager.stop()
    async with asyncio.timeout(10):
        assert await running == 0


async def test_a_restart_of_a_worker_that_does_not_serve_yet_starts_another_at_once(make: Make, started: Path) -> None:
    manager = make(BEGIN + "time.sleep(60)")
    running = asyncio.create_task(manager.run())
    await lines(started, 1)
    manager.restart()
    await lines(started, 2)
    manager.stop()
    assert await running == 0


#: The first one says how it is only when it is told to stop, and what it says then is `sys.argv[4]`.
TELLS = (
    BEGIN
    + """
first = not os.path.exists(sys.argv[1] + '.replaced')
open(sys.argv[1] + '.replaced', 'w').close()
lifeline.send(b'ready')
while order := lifeline.recv(1):
    if order == b'?':
        with open(sys.argv[1], 'a') as file:
            file.write('asked\\n')
        if not first:
            lifeline.send(b'{"health": {"healthy": true}}\\n')
    else:
        if first:
            lifeline.send(sys.argv[4].encode())
        break
"""
)


@pytest.mark.parametrize("last_words", ["", '{"health": {"healthy": false, "state": "draining"}}\n'])
async def test_a_probe_that_asks_a_worker_which_is_being_replaced_is_answered_by_its_successor(
    started: Path, monkeypatch: pytest.MonkeyPatch, last_words: str
) -> None:
    monkeypatch.setattr(probes, "PATIENCE", 20.0)  # its successor has to start meanwhile
    manager = Manager(
        lambda name, lifeline: [sys.executable, "-S", "-c", TELLS, str(started), name, str(lifeline), last_words],
        workers=1,
        drain_timeout=5.0,
        environment=os.environ,
    )
    running = asyncio.create_task(manager.run())
    await ready(manager, 1)
    probe = asyncio.ensure_future(Probes(manager._crew).pages["/readyz"]("*/*"))
    await lines(started, 2)  # it was asked
    manager.restart()
    answer = await probe
    assert (answer.status, answer.body) == (200, '{"ready":true,"workers":{"worker-1":{"healthy":true}}}\n')
    manager.stop()
    assert await running == 0


# --- process 1 of a container -----------------------------------------------------------------------------------------

_PROCESS_ONE = """
import asyncio, ctypes, os, sys
from warren.processes.manager import Manager
assert ctypes.CDLL(None).prctl(36, 1) == 0  # PR_SET_CHILD_SUBREAPER: like process 1 it inherits orphans
command = lambda name, lifeline: [sys.executable, "-S", "-c", sys.argv[1], sys.argv[2], name, str(lifeline)]
manager = Manager(command, workers=1, drain_timeout=0.0, environment=os.environ, reap=True)
sys.exit(asyncio.run(manager.run()))
"""

_LEAVES_AN_ORPHAN = (
    WAIT.removesuffix("lifeline.recv(1)\n")
    + """
if os.fork() == 0:
    orphan = os.fork()
    if orphan:
        with open(sys.argv[1], "a") as file:
            file.write(f"orphan {orphan}\\n")
    else:
        time.sleep(0.2)
    os._exit(0)
os.wait()
lifeline.recv(1)
"""
)


async def test_as_process_one_it_buries_the_orphans_that_it_inherits(started: Path) -> None:
    manager = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROCESS_ONE, _LEAVES_AN_ORPHAN, str(started))
    )
    orphan = Path("/proc") / (await lines(started, 2))[1].split()[1]
    async with asyncio.timeout(20):
        while orphan.exists():
            await asyncio.sleep(0.01)
    manager.terminate()
    assert await manager.wait() == 0


# --- one process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def buried_by_the_loop() -> Iterator[None]:
    """A process that has ended stays there until the event loop turns, on Linux."""
    if sys.version_info >= (3, 12):  # there it does so by itself
        yield
        return
    policy = asyncio.get_event_loop_policy()
    before = policy.get_child_watcher()
    policy.set_child_watcher(asyncio.PidfdChildWatcher())
    yield
    policy.set_child_watcher(before)


@pytest.mark.usefixtures("buried_by_the_loop")
@pytest.mark.parametrize("order", [lambda process: process.stop(30.0), Process.kill], ids=["stop", "kill"])
async def test_a_worker_that_ends_as_it_is_told_to_keeps_its_exit_code(
    order: Callable[[Process], None], tmp_path: Path
) -> None:
    os.mkfifo(go_on := tmp_path / "go on")

    def command(_name: str, _lifeline: int) -> list[str]:
        return [sys.executable, "-S", "-c", f"import sys; open({str(go_on)!r}).read(); sys.exit({CANNOT_SERVE})"]

    process = await Process.start("worker-1", command, os.environ)
    go_on.write_text("now")  # not while it is being started, where the loop turns
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - the loop shall not turn
    order(process)
    await process.ended
    assert process.returncode == CANNOT_SERVE
