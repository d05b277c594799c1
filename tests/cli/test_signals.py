"""``warren serve`` and what supervisors, terminals, containers and children do to its processes."""

import concurrent.futures
import contextlib
import os
import pty
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Start
from tests.cli.running import WARREN, Running, environment, eventually
from tests.cli.test_serve import alive, hold, release
from warren import Client, Unavailable
from warren.server.signals import ECHO

#: Handlers that start processes of their own, as `multiprocessing` and shells do.
FAMILY = """

import multiprocessing
import subprocess

FORK = multiprocessing.get_context("fork")


@service.method
def terminated_child() -> int | None:
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(20)
    return child.exitcode


@service.method
def lasting_child() -> int:
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    return child.pid


@service.method(delivery="at-least-once")
def killed_once(path: str) -> int:
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), 9)
    return os.getpid()
"""


#: Each has a way of its own with signals, children and descriptors.
on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@pytest.fixture
def family(folder: Path) -> None:
    """Adds those to the service."""
    with open(folder / "calc.py", "a") as module:
        module.write(FAMILY)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout=60) as client:
        yield client


@pytest.fixture
def serve_from(folder: Path, url: str) -> Iterator[Callable[..., Running]]:
    """Serves the module as the child of a given program, which gets the command line."""
    running: list[Running] = []

    def serve_from(*program: str, service: str = "calc:service") -> Running:
        command = (*WARREN, "serve", service)
        running.append(Running(*command, cwd=folder, env=environment(WARREN_URL=url), program=program))
        return running[-1]

    yield serve_from
    for process in running:
        process.close()


def pid_when_served(client: Client, service: str) -> int:
    """A worker's process, once there is one; what it logs need not be readable."""
    found: list[int] = []

    def ask() -> bool:
        with contextlib.suppress(Unavailable):  # its queue does not exist yet
            found.append(client.call(f"{service}.pid"))
        return bool(found)

    eventually(ask, "the service is served")
    return found[0]


# --- one stop, however it comes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["manager", "workers"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_at_once_is_one_stop(
    start: Start, folder: Path, service_name: str, first: str, number: int
) -> None:
    serve = start("serve", "calc:service", "--workers", "2")
    processes = [serve.pid, serve.wait_worker(1), serve.wait_worker(2)]
    call = hold(start, service_name, folder / "held")
    for pid in processes if first == "manager" else reversed(processes):
        os.kill(pid, number)  # as systemd does, whose control group holds them all
    for process in ("main", "worker-1", "worker-2"):
        serve.wait_for(f"{process} warren.processes: {signal.Signals(number).name}: finishing what is running")
    release(folder / "held")
    assert call.wait() == 0
    assert serve.wait() == 0
    assert "all workers have ended" in serve.output


def test_a_signal_that_is_passed_on_by_a_wrapper_too_is_one_stop(start: Start, folder: Path, service_name: str) -> None:
    serve = start("serve", "calc:service")
    serve.wait_worker(1)
    call = hold(start, service_name, folder / "held")
    for _ in range(3):
        os.kill(serve.pid, signal.SIGTERM)
    serve.wait_for("SIGTERM: finishing what is running")
    release(folder / "held")
    assert call.wait() == 0
    assert serve.wait() == 0


@on_both_loops
def test_systemd_may_send_sighup_with_the_stop(start: Start, folder: Path, loop: str, service_name: str) -> None:
    serve = start("serve", "calc:service", "--loop", loop)
    processes = [serve.pid, serve.wait_worker(1)]
    call = hold(start, service_name, folder / "held")
    for number in (signal.SIGTERM, signal.SIGHUP):
        for pid in processes:
            os.kill(pid, number)
    serve.wait_for("main .*SIGTERM: finishing what is running")
    release(folder / "held")
    assert call.wait() == 0
    assert serve.wait() == 0


@on_both_loops
def test_the_same_signal_later_ends_all_at_once(start: Start, folder: Path, loop: str, service_name: str) -> None:
    serve = start("serve", "calc:service", "--loop", loop)
    serve.wait_worker(1)
    call = hold(start, service_name, folder / "held")
    serve.signal(signal.SIGTERM)
    serve.wait_for("SIGTERM: finishing what is running")
    time.sleep(2 * ECHO)
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 128 + signal.SIGTERM
    serve.wait_silent()
    call.signal(signal.SIGKILL)


@on_both_loops
def test_a_worker_whose_loop_is_blocked_is_ended_by_a_second_signal(
    start: Start, folder: Path, loop: str, service_name: str
) -> None:
    with open(folder / "calc.py", "a") as module:
        module.write("\n\n@service.method\nasync def block() -> None:\n    time.sleep(60)\n")
    serve = start("serve", "calc:service", "--loop", loop)
    worker = serve.wait_worker(1)
    call = start("call", f"{service_name}.block", "--timeout", "20")
    eventually(lambda: b"nanosleep" in Path(f"/proc/{worker}/wchan").read_bytes(), "the handler blocks the loop")
    os.kill(worker, signal.SIGTERM)
    time.sleep(0.05)
    os.kill(worker, signal.SIGINT)
    serve.wait_for(rf"process {worker}\) ended with exit code {128 + signal.SIGINT}")
    call.signal(signal.SIGKILL)


# --- children ---------------------------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.usefixtures("family")
def test_a_forked_child_that_is_terminated_ends_and_its_worker_does_not(
    start: Start, client: Client, loop: str, service_name: str
) -> None:
    serve = start("serve", "calc:service", "--loop", loop)
    worker = serve.wait_worker(1)
    assert [client.call(f"{service_name}.terminated_child") for _ in range(5)] == [-signal.SIGTERM] * 5
    assert client.call(f"{service_name}.pid") == worker


@on_both_loops
@pytest.mark.usefixtures("family")
def test_a_forked_child_that_outlives_its_worker_does_not_hold_the_workers_requests(
    start: Start, client: Client, loop: str, service_name: str, folder: Path
) -> None:
    serve = start("serve", "calc:service", "--loop", loop)
    worker = serve.wait_worker(1)
    child = client.call(f"{service_name}.lasting_child")
    try:
        began = time.monotonic()
        assert client.call(f"{service_name}.killed_once", str(folder / "killed")) == serve.wait_worker(1, nth=2)
        assert time.monotonic() - began < 30  # long before any heartbeat is missed
        assert alive(child)
        assert not alive(worker)
    finally:
        os.kill(child, signal.SIGKILL)


def test_helpers_that_the_module_starts_do_not_keep_a_crashed_worker_from_being_replaced(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    crash = """
import subprocess
if not os.path.exists("helpers"):
    with open("helpers", "w") as file:
        print(subprocess.Popen(["sleep", "60"], close_fds=False).pid, file=file)
        print(os.fork() or time.sleep(60), file=file)
    os.abort()
"""
    with open(folder / "calc.py", "a") as module:
        module.write(crash)
    serve = start("serve", "calc:service")
    serve.wait_for("was killed by SIGABRT; starting another")
    serve.wait_worker(1)
    for helper in (folder / "helpers").read_text().split():
        os.kill(int(helper), signal.SIGKILL)  # they were there until now
    assert run("call", f"{service_name}.fib", "30").stdout == "832040\n"
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


# --- restarts ---------------------------------------------------------------------------------------------------------


@on_both_loops
def test_sighup_replaces_all_workers_and_no_call_notices(
    start: Start, run: Run, folder: Path, client: Client, loop: str, service_name: str
) -> None:
    serve = start("serve", "calc:service", "--loop", loop, "--workers", "2")
    before = {serve.wait_worker(1), serve.wait_worker(2)}
    held, over = hold(start, service_name, folder / "held"), threading.Event()

    def keep_calling() -> list[object]:
        results = []
        while not over.is_set():
            results.append(client.call(f"{service_name}.greet", "Ann"))
        return results

    with concurrent.futures.ThreadPoolExecutor() as pool:
        callers = [pool.submit(keep_calling) for _ in range(4)]
        try:
            module = folder / "calc.py"
            module.write_text(module.read_text().replace("Hello", "Salut"))
            serve.signal(signal.SIGHUP)
            after = {serve.wait_worker(1, nth=2)}
            release(folder / "held")
            serve.wait_for("all workers have been restarted")
            after.add(serve.wait_worker(2, nth=2))
        finally:
            over.set()  # whatever happened: the pool waits for its threads
        results = [result for caller in callers for result in caller.result(60)]
    assert held.wait() == 0
    assert set(results) == {"Hello, Ann!", "Salut, Ann!"}
    assert not before & after
    assert not any(alive(pid) for pid in before)
    assert run("call", f"{service_name}.greet", "Ann").stdout == "Salut, Ann!\n"
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


def test_sighup_with_a_mistake_in_the_module_leaves_the_old_workers_serving(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    serve = start("serve", "calc:service", "--workers", "2")
    serve.wait_worker(2)
    (folder / "calc.py").write_text("1 / 0")
    serve.signal(signal.SIGHUP)
    serve.wait_for("worker-1: its successor does not serve, so the other workers stay as they are")
    assert serve.output.count("ZeroDivisionError") == 1
    assert run("call", f"{service_name}.fib", "30").stdout == "832040\n"
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


def test_under_nohup_a_sighup_is_ignored(serve_from: Callable[..., Running]) -> None:
    serve = serve_from("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    serve.wait_worker(1)
    serve.signal(signal.SIGHUP)
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0
    assert "SIGHUP" not in serve.output


def test_closing_the_terminal_is_a_stop_and_no_restart(folder: Path, url: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(WARREN[0], [*WARREN, "serve", "calc:service"], environment(WARREN_URL=url))
    output = b""
    while b"is ready" not in output:
        output += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- careless parents -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-", "2>&-"], ids=["input", "all", "errors"])
def test_standard_files_may_be_closed(
    serve_from: Callable[..., Running], client: Client, service_name: str, closed: str
) -> None:
    serve = serve_from("sh", "-c", f'exec {closed}; exec "$@"', "sh")
    pid_when_served(client, service_name)
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


def test_a_log_that_nobody_reads_any_more_harms_nobody(
    serve_from: Callable[..., Running], client: Client, service_name: str
) -> None:
    serve_from("sh", "-c", '"$@" 2>&1 | true', "sh")
    worker = pid_when_served(client, service_name)
    manager = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(manager, signal.SIGTERM)
    eventually(lambda: not alive(manager) and not alive(worker), "both have ended")


_CARELESS = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_exit_codes_are_seen_though_the_parent_ignored_sigchld(serve_from: Callable[..., Running]) -> None:
    assert serve_from(sys.executable, "-c", _CARELESS, service="calc:none").wait() == 2


def test_a_stop_arrives_though_the_parent_blocked_its_signal(serve_from: Callable[..., Running]) -> None:
    serve = serve_from(sys.executable, "-c", _CARELESS)
    serve.wait_worker(1)
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


def test_a_drain_timeout_that_is_no_number_is_wrong_usage(run: Run) -> None:
    for seconds in ("nan", "inf", "-1", "1e9"):
        assert run("serve", "calc:service", f"--drain-timeout={seconds}").returncode == 2
