"""``warren serve``: worker processes that come, die, drain and come again."""

import os
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Start
from tests.cli.running import SERVICE, Running, environment, eventually


def hold(start: Start, service: str, path: Path) -> Running:
    """Begin a call that is running when this returns, and ends when `release` is called."""
    call = start("call", f"{service}.hold", str(path), "--timeout", "20")
    eventually(path.exists, "the handler has begun")
    return call


def release(path: Path) -> None:
    path.with_name(path.name + ".go").touch()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_served_method_can_be_called(start: Start, run: Run, service_name: str) -> None:
    start("serve", "calc:service").wait_worker(1)
    done = run("call", f"{service_name}.fib", "30")
    assert (done.stdout, done.stderr, done.returncode) == ("832040\n", "", 0)


def test_each_worker_says_one_line_when_it_serves(start: Start, service_name: str) -> None:
    serve = start("serve", "calc", "--workers", "2", "--concurrency", "7")
    serve.wait_worker(2)
    for worker in ("worker-1", "worker-2"):
        serving = [line for line in serve.lines if f"{worker} warren.server: serving {service_name}" in line]
        assert len(serving) == 1
        assert serving[0].endswith("7 at a time\n")


WHICH_LOOP = """

import asyncio


@service.method
async def loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
"""


def without(module: str, folder: Path) -> str:
    """A PYTHONPATH on which a module that is installed cannot be imported."""
    (folder / f"{module}.py").write_text("raise ImportError('not here')")
    return os.pathsep.join((str(folder), environment()["PYTHONPATH"]))


@pytest.mark.parametrize(
    ("asked", "got"), [((), "uvloop"), (("--loop", "asyncio"), "asyncio"), (("--loop=uvloop",), "uvloop")]
)
def test_workers_run_on_uvloop_unless_told_otherwise(
    asked: tuple[str, ...], got: str, start: Start, run: Run, folder: Path, service_name: str
) -> None:
    with open(folder / "calc.py", "a") as module:
        module.write(WHICH_LOOP)
    start("serve", "calc:service", *asked).wait_worker(1)
    assert run("call", f"{service_name}.loop").stdout == f"{got}\n"


def test_without_uvloop_workers_run_on_asyncios_own_loop(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    with open(folder / "calc.py", "a") as module:
        module.write(WHICH_LOOP)
    start("serve", "calc:service", PYTHONPATH=without("uvloop", folder)).wait_worker(1)
    assert run("call", f"{service_name}.loop").stdout == "asyncio\n"


def test_a_loop_that_is_not_installed_cannot_be_asked_for(run: Run, folder: Path) -> None:
    done = run("serve", "calc:service", "--loop", "uvloop", PYTHONPATH=without("uvloop", folder))
    assert done.returncode == 2
    assert done.stderr == "error: --loop uvloop needs uvloop: pip install 'warren-rpc[uvloop]'\n"


def test_sigterm_lets_a_running_call_finish_and_exits_0(start: Start, folder: Path, service_name: str) -> None:
    serve = start("serve", "calc:service", "--workers", "2")
    serve.wait_worker(2)
    call = hold(start, service_name, folder / "held")
    serve.signal(signal.SIGTERM)
    serve.wait_for("SIGTERM: finishing what is running")
    release(folder / "held")
    assert call.wait() == 0
    call.wait_for("^held\n")
    assert serve.wait() == 0


def test_ctrl_c_in_the_terminal_drains_too(start: Start, folder: Path, service_name: str) -> None:
    serve = start("serve", "calc:service")
    serve.wait_worker(1)
    call = hold(start, service_name, folder / "held")
    os.killpg(serve.pid, signal.SIGINT)  # as the terminal does: to the whole process group
    serve.wait_for("SIGINT: finishing what is running")
    release(folder / "held")
    assert call.wait() == 0
    assert serve.wait() == 0


def test_a_second_signal_ends_all_at_once(start: Start, folder: Path, service_name: str) -> None:
    serve = start("serve", "calc:service", "--workers", "2")
    serve.wait_worker(2)
    call = hold(start, service_name, folder / "held")
    serve.signal(signal.SIGTERM)
    serve.wait_for("SIGTERM: finishing what is running")
    serve.signal(signal.SIGINT)
    assert serve.wait() == 128 + signal.SIGINT
    serve.wait_silent()  # although the handler would go on for half a minute
    call.signal(signal.SIGKILL)


def test_a_killed_worker_is_replaced_and_its_successor_serves(start: Start, run: Run, service_name: str) -> None:
    serve = start("serve", "calc:service")
    first = serve.wait_worker(1)
    os.kill(first, signal.SIGKILL)
    serve.wait_for(rf"worker-1 \(process {first}\) was killed by SIGKILL; starting another in 0\.\d s")
    second = serve.wait_worker(1, nth=2)
    assert run("call", f"{service_name}.pid").stdout == f"{second}\n" != f"{first}\n"


def test_workers_drain_and_end_when_their_parent_is_killed(start: Start, folder: Path, service_name: str) -> None:
    serve = start("serve", "calc:service", "--workers", "2")
    serve.wait_worker(2)
    call = hold(start, service_name, folder / "held")
    serve.signal(signal.SIGKILL)
    serve.wait_for("worker-1 .*the parent process is gone")
    serve.wait_for("worker-2 .*the parent process is gone")
    release(folder / "held")
    assert call.wait() == 0
    serve.wait_silent()


def test_reload_picks_up_a_changed_file(start: Start, run: Run, folder: Path, service_name: str) -> None:
    serve = start("serve", "calc:service", "--workers", "2", "--reload")
    serve.wait_worker(2)
    assert run("call", f"{service_name}.greet", "Ann").stdout == "Hello, Ann!\n"
    module, now = folder / "calc.py", (folder / "calc.py").stat().st_mtime
    module.write_text(SERVICE.format(name=service_name).replace("Hello", "Salut"))
    os.utime(module, (now, now))  # of the same size and second, as quick hands do it: bytecode must not hide it
    serve.wait_for("changed: calc.py; restarting")
    serve.wait_worker(2, nth=2)
    assert run("call", f"{service_name}.greet", "Ann").stdout == "Salut, Ann!\n"


def test_reload_outlives_a_mistake_in_the_file_and_says_it_once(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    good = (folder / "calc.py").read_text()
    serve = start("serve", "calc:service", "--workers", "2", "--reload")
    serve.wait_worker(2)
    (folder / "calc.py").write_text("def broken(:")
    serve.wait_for("waiting for a file to change")
    assert serve.output.count("SyntaxError") == 1
    (folder / "calc.py").write_text(good)
    serve.wait_worker(2, nth=2)
    assert run("call", f"{service_name}.fib", "30").stdout == "832040\n"


def test_reload_without_watchfiles_says_how_to_get_it(run: Run, folder: Path) -> None:
    done = run("serve", "calc:service", "--reload", PYTHONPATH=without("watchfiles", folder))
    assert done.returncode == 2
    assert done.stderr == "error: --reload needs watchfiles: pip install 'warren-rpc[reload]'\n"


def test_a_wrong_password_is_said_once_and_exits_1(run: Run, url: str) -> None:
    done = run("serve", "calc:service", "--workers", "3", "--url", url.replace("guest:guest", "guest:wrong"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "refuses user 'guest'" in done.stderr
    assert "wrong@" not in done.stderr
    assert done.stdout == ""


def test_a_queue_with_other_arguments_is_said_once_and_exits_1(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    serve = start("serve", "calc:service")
    serve.wait_worker(1)
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0
    module = (folder / "calc.py").read_text().replace(f'"{service_name}"', f'"{service_name}", max_length=3')
    (folder / "calc.py").write_text(module)
    done = run("serve", "calc:service", "--workers", "2")
    assert done.returncode == 1
    assert done.stderr.count(f"queue '{service_name}' exists with other arguments") == 1
    assert "Traceback" not in done.stderr


def test_a_worker_that_was_well_before_is_not_given_up_for_a_reason_that_may_pass(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    good = (folder / "calc.py").read_text()
    serve = start("serve", "calc:service")
    first = serve.wait_worker(1)
    (folder / "calc.py").write_text("1 / 0")  # somebody is just copying the next version here
    os.kill(first, signal.SIGKILL)
    serve.wait_for("ZeroDivisionError")
    serve.wait_for("ended with exit code 78; starting another")
    (folder / "calc.py").write_text(good)
    serve.wait_worker(1, nth=2)
    assert run("call", f"{service_name}.fib", "30").stdout == "832040\n"


def test_a_broker_out_of_reach_is_tried_again_until_the_end_is_wanted(start: Start) -> None:
    serve = start("serve", "calc:service", "--workers", "2", "--url", "amqp://127.0.0.1:1")
    serve.wait_for("cannot connect to 127.0.0.1:1")
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0
    assert "worker-2" not in serve.output  # one worker tries, and says so, for all


def test_the_password_is_not_on_the_command_line_of_the_workers(start: Start, url: str) -> None:
    serve = start("serve", "calc:service", WARREN_URL=url)
    pid = serve.wait_worker(1)
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"calc:service" in command
    assert b"guest:guest" not in command


def test_handlers_find_the_brokers_url_in_the_environment(
    start: Start, run: Run, folder: Path, url: str, service_name: str
) -> None:
    asking = "\n\n@service.method\ndef where() -> str:\n    import os\n    return os.environ['WARREN_URL']\n"
    (folder / "calc.py").write_text(SERVICE.format(name=service_name) + asking)
    start("serve", "calc:service", "--url", url, WARREN_URL="amqp://elsewhere").wait_worker(1)
    assert run("call", f"{service_name}.where").stdout == f"{url}\n"


def test_several_services_are_served_by_one_process(start: Start, run: Run, folder: Path, service_name: str) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "app.py").write_text(SERVICE.format(name=service_name + "-more"))
    start("serve", "calc:service", "more.app").wait_worker(1)
    for name in (service_name, service_name + "-more"):
        assert run("call", f"{name}.fib", "30").stdout == "832040\n"


def test_what_cannot_be_served_is_said_once_by_the_first_of_many_workers(run: Run) -> None:
    done = run("serve", "calc:nothing", "--workers", "4")
    assert done.returncode == 2
    assert done.stderr == "error: module 'calc' has no 'nothing': say calc:service\n"


def test_a_module_that_fails_shows_its_own_traceback_only_and_exits_1(run: Run, folder: Path) -> None:
    (folder / "calc.py").write_text("import nowhere_to_be_found\n")
    done = run("serve", "calc:service")
    assert done.returncode == 1
    assert done.stderr.startswith("error: importing 'calc' failed:\n")
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'nowhere_to_be_found'\n")
    assert done.stderr.count("File ") == 1


def test_a_url_that_is_none_is_wrong_usage(run: Run) -> None:
    done = run("serve", "calc:service", "--url", "http://localhost")
    assert done.returncode == 2
    assert "'http' is not an AMQP URL's scheme" in done.stderr


def test_fail_fast_does_not_wait_for_a_worker_to_come(start: Start, run: Run, service_name: str) -> None:
    serve = start("serve", "calc:service")
    serve.wait_worker(1)
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0
    done = run("call", f"{service_name}.fib", "30", "--fail-fast")
    assert done.returncode == 3
    assert "NO_FREE_WORKER" in done.stderr


def test_a_worker_drains_when_it_is_told_to_itself_and_is_replaced(
    start: Start, folder: Path, service_name: str
) -> None:
    serve = start("serve", "calc:service")
    first = serve.wait_worker(1)
    call = hold(start, service_name, folder / "held")
    os.kill(first, signal.SIGTERM)
    release(folder / "held")
    assert call.wait() == 0
    serve.wait_for(rf"worker-1 \(process {first}\) ended with exit code 0; starting another")
    serve.wait_worker(1, nth=2)
    eventually(lambda: not alive(first), "the first is gone")


# --- lifespans ----------------------------------------------------------------------------------------------------

#: It can open what it needs as long as the file ``database`` is there.
_LIFESPAN = """
import pathlib

@service.lifespan
async def lifespan():
    print("opening", flush=True)
    if not pathlib.Path("database").exists():
        raise ConnectionRefusedError("no database")
    yield
    print("closing", flush=True)
"""


def with_lifespan(folder: Path) -> None:
    with (folder / "calc.py").open("a") as file:
        file.write(_LIFESPAN)


def test_a_lifespan_that_fails_at_once_ends_it_all_and_says_why(run: Run, folder: Path, service_name: str) -> None:
    with_lifespan(folder)
    done = run("serve", "calc:service", "--workers", "3")
    assert done.returncode == 1
    assert done.stdout.count("opening") == 1
    assert f"service '{service_name}' cannot start: ConnectionRefusedError: no database" in done.stderr
    assert 'calc.py", line' in done.stderr  # where it was raised
    assert "never retrieved" not in done.stderr


def test_a_lifespan_that_fails_later_is_tried_again_after_pauses(
    start: Start, run: Run, folder: Path, service_name: str
) -> None:
    with_lifespan(folder)
    (folder / "database").touch()
    serve = start("serve", "calc:service")
    first = serve.wait_worker(1)
    (folder / "database").unlink()
    os.kill(first, signal.SIGKILL)
    serve.wait_for(rf"worker-1 \(process {first}\) was killed by SIGKILL; starting another in 0\.\d s")
    serve.wait_for(r"worker-1 .* ended with exit code 78; starting another in \d\.\d s", count=2)
    (folder / "database").touch()
    serve.wait_worker(1, nth=2)
    assert run("call", f"{service_name}.greet", "Ann").stdout == "Hello, Ann!\n"


def test_a_worker_that_is_told_to_stop_closes_what_it_has_opened(start: Start, folder: Path) -> None:
    with_lifespan(folder)
    (folder / "database").touch()
    serve = start("serve", "calc:service")
    serve.wait_worker(1)
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0
    serve.wait_for("closing\n")


def test_a_service_that_is_not_complete_is_told_once(run: Run, folder: Path) -> None:
    with (folder / "calc.py").open("a") as file:
        file.write("service.stub(name='price')(lambda item: item)\n")
    done = run("serve", "calc:service", "--workers", "2")
    assert done.returncode == 2
    assert done.stderr.count("has stubs without an implementation: price") == 1
