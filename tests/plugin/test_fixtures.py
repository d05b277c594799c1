"""The fixtures of the pytest plugin, as a user's tests see them; on the embedded broker and on RabbitMQ."""

import subprocess
import sys
from typing import Any

import pytest

from tests.plugin.conftest import Project
from tests.support.raw import depth, raw_channel
from warren.protocol import topology

Options = tuple[str, ...]


def test_a_test_calls_a_service_of_its_own_module(project: Project, broker_options: Options) -> None:
    project.passes(
        """
def test_it(warren_serve, warren_client):
    warren_serve(service)
    assert warren_client.call(double, 21) == 42
""",
        *broker_options,
    )


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_an_async_test_does_with_pytest_asyncio(project: Project, broker_options: Options, mode: str) -> None:
    project.passes(
        """
@pytest.mark.asyncio
async def test_it(warren_async_client, warren_serve):
    warren_serve(service)
    assert await asyncio.gather(*(warren_async_client.call(double, n) for n in range(20))) == list(range(0, 40, 2))
""",
        f"--asyncio-mode={mode}",
        *broker_options,
    )


_OF_ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_it(warren_serve, warren_async_client):
    warren_serve(service)
    assert await warren_async_client.call(double, 21) == 42
"""


@pytest.mark.parametrize("options", [("-p", "no:asyncio"), ("--asyncio-mode=strict",)], ids=["alone", "beside"])
def test_an_async_test_does_with_anyios_plugin(project: Project, options: Options) -> None:
    project.passes(_OF_ANYIO, *options)


def test_an_async_client_without_a_plugin_for_async_tests_says_what_to_install(project: Project) -> None:
    project.write("""
def test_it(warren_async_client):
    pass
""")
    result = project.run("-p", "no:asyncio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install pytest-asyncio*"])


_WITHOUT_OTHERS = """
import sys

class Missing:
    @staticmethod
    def find_spec(name, *_):
        if name.partition(".")[0] in ("pytest_asyncio", "anyio"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing)
import pytest
sys.exit(pytest.main(["-p", "warren.testing.plugin"]))
"""


def test_sync_tests_need_no_other_plugin(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("""
def test_it(warren_serve, warren_client):
    warren_serve(service)
    assert warren_client.call(double, 21) == 42
""")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    command = [sys.executable, "-W", "ignore", "-c", _WITHOUT_OTHERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_handlers_see_what_the_test_sees(project: Project) -> None:
    project.passes(
        """
def test_it(warren_serve, warren_client):
    warren_serve(service)
    held = warren_client.submit(hold)
    assert began.wait(10)
    release.set()
    assert held.result() == "done"
"""
    )


def test_workers_of_one_process_have_connections_of_their_own(project: Project) -> None:
    project.passes(
        """
def test_it(warren_serve, warren_client, warren_broker):
    warren_serve(service, workers=3)
    names = [c.name for c in warren_broker.status().connections]
    assert sum(service.name in name for name in names) == 3
    held = [warren_client.submit(hold) for _ in range(6)]  # two at a time in each
    while sum(c.unacked for c in warren_broker.status().consumers) < 6:
        time.sleep(0.01)
    release.set()
    assert [f.result() for f in held] == ["done"] * 6
"""
    )


def test_workers_in_processes_serve_too(project: Project, broker_options: Options) -> None:
    project.passes(
        """
import os

@service.method
def pid() -> int:
    return os.getpid()

def test_it(warren_serve, warren_client):
    warren_serve(service, workers=2, processes=True)
    pids = {warren_client.call(pid) for _ in range(8)}
    assert len(pids) == 2
    assert os.getpid() not in pids
""",
        *broker_options,
    )


def test_a_service_of_another_module_is_served_in_processes(project: Project, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(other_module=f'from warren import Service\nother = Service("{project.name}-other")\n')
    project.passes(
        """
from other_module import other

@other.method
def triple(n: int) -> int:
    return 3 * n

def test_it(warren_serve, warren_client):
    warren_serve(other, processes=True)
    assert warren_client.call(triple, 4) == 12
"""
    )


def test_a_service_is_found_under_every_import_mode(project: Project) -> None:
    project.passes(
        """
def test_it(warren_serve, warren_client):
    warren_serve(service, processes=True)
    assert warren_client.call(double, 4) == 8
""",
        "--import-mode=importlib",
    )


@pytest.mark.usefixtures("unhurried")
def test_workers_can_be_stopped_before_the_test_ends(project: Project, broker_options: Options) -> None:
    project.passes(
        """
@pytest.mark.parametrize("processes", [False, True])
def test_it(warren_serve, warren_client, processes):
    workers = warren_serve(service, processes=processes)
    assert warren_client.call(double, 1) == 2
    workers.stop()
    workers.stop()
    with pytest.raises(DeadlineExceeded, match="no consumers"):
        warren_client.options(timeout=0.3).call(double, 1)
""",
        *broker_options,
        count=2,
    )


# --- what is left -----------------------------------------------------------------------------------------------------


def test_nothing_of_a_test_is_left_for_the_next(project: Project, broker_options: Options) -> None:
    project.passes(
        """
def test_one(warren_serve, warren_client):
    warren_serve(service)
    warren_client.cast(f"{service.name}.no_such_method")  # it ends in the dead queue

def test_two(warren_client):
    with pytest.raises(Unavailable, match="NO_ROUTE"):
        warren_client.call(double, 1)
""",
        *broker_options,
        count=2,
    )


def test_no_queue_is_left_at_the_broker(project: Project, url: str) -> None:
    project.passes(
        """
def test_it(warren_serve, warren_client):
    warren_serve(service)
    warren_client.cast(f"{service.name}.no_such_method")
""",
        f"--warren-url={url}",
    )
    for queue in (project.name, topology.dead_queue(project.name)):
        with raw_channel(url) as channel, pytest.raises(Exception, match="NOT_FOUND"):
            depth(channel, queue)


def test_a_queue_that_somebody_else_uses_is_left_alone(project: Project, url: str, raw: Any) -> None:
    raw.queue_declare(project.name, durable=True)
    raw.basic_publish("", project.name, b"precious")
    project.write("""
def test_it(warren_serve):
    warren_serve(service)
""")
    result = project.run(f"--warren-url={url}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*queue '{project.name}' is in use at *: 1 messages, 0 consumers*"])
    assert depth(raw, project.name) == 1
    raw.queue_delete(project.name)


# --- when tests fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [False, True])
def test_a_test_that_fails_in_the_middle_neither_hangs_nor_breaks_the_next(
    project: Project, broker_options: Options, processes: bool
) -> None:
    project.write(f"""
def test_one(warren_serve, warren_client, warren_faults):
    warren_serve(service, workers=2, processes={processes})
    warren_client.submit(hold)
    warren_client.submit(hang)
    assert {processes} or began.wait(10)
    assert False, "on purpose"

def test_two(warren_serve, warren_client):
    release.set()
    warren_serve(service)
    assert warren_client.call(double, 4) == 8
""")
    result = project.run(*broker_options)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*on purpose*"])


def test_an_async_test_that_fails_in_the_middle_neither_hangs_nor_breaks_the_next(project: Project) -> None:
    project.write("""
@pytest.mark.asyncio
async def test_one(warren_serve, warren_async_client, warren_faults):
    warren_serve(service)
    call = asyncio.create_task(warren_async_client.call(hang))
    call.add_done_callback(asyncio.Task.exception)  # nobody waits for it
    while not began.is_set():
        await asyncio.sleep(0.01)
    warren_faults.stall()
    assert False, "on purpose"

@pytest.mark.asyncio
async def test_two(warren_serve, warren_async_client):
    warren_serve(service)
    assert await warren_async_client.call(double, 4) == 8
""")
    project.run().assert_outcomes(failed=1, passed=1)


def test_a_handler_that_blocks_the_event_loop_is_an_error_and_not_a_hang(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren.testing.kit._GRACE", 1.0)
    project.write("""
@service.method
async def block() -> None:
    began.set()
    time.sleep(8)  # longer than one is patient with it in the end: 1 s for the drain, and twice the grace

def test_one(warren_serve, warren_client):
    warren_serve(service)
    warren_client.submit(block)
    assert began.wait(10)

def test_two(warren_serve, warren_client):
    warren_serve(service)
    assert warren_client.call(double, 4) == 8
""")
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*an async handler blocks its event loop*"])


def test_a_service_that_the_broker_refuses_is_an_error_of_the_test(project: Project, url: str, raw: Any) -> None:
    raw.queue_declare(project.name, durable=True, arguments={"x-max-length": 3})
    project.write("""
def test_it(warren_serve):
    with pytest.raises(CallError, match="exists with other arguments"):
        warren_serve(service, workers=2)
""")
    project.run(f"--warren-url={url}").assert_outcomes(passed=1)


def test_a_service_that_cannot_be_imported_in_a_process_says_so(project: Project) -> None:
    project.write("""
def test_local(warren_serve):
    local = Service("local")
    local.method(name="f")(lambda: 1)
    warren_serve(local, processes=True)
""")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*service 'local' is not a variable of a module*"])


def test_a_worker_process_that_ends_at_once_says_so(project: Project) -> None:
    project.write("""
import os

if "WARREN_URL" in os.environ:
    raise SystemExit("not in a worker")

def test_it(warren_serve):
    warren_serve(service, processes=True)
""")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a worker process ended with exit code 1; its stderr says why*", "*not in a worker*"])


def test_a_broker_that_cannot_be_reached_is_said_at_once(project: Project) -> None:
    project.write("""
def test_one(warren_client):
    pass

def test_two(warren_serve):
    pass
""")
    result = project.run("--warren-url=amqp://127.0.0.1:1")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*cannot connect to 127.0.0.1:1: connection refused*"])


def test_sessions_that_run_at_the_same_time_do_not_meet(project: Project) -> None:
    """As those of pytest-xdist's processes: same service, a broker each."""
    project.write("""
def test_it(warren_serve, warren_client):
    warren_serve(service)
    for n in range(200):
        assert warren_client.call(double, n) == 2 * n
""")
    command = [sys.executable, "-m", "pytest", "-q"]
    sessions = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        outputs = [session.communicate(timeout=60)[0] for session in sessions]
    finally:
        for session in sessions:
            session.kill()
            session.wait()
    assert all("1 passed" in output for output in outputs), outputs


# --- clients in handlers ----------------------------------------------------------------------------------------------

_NESTED = """
from warren import AsyncClient

client = AsyncClient(URL)
outer = Service("{name}.outer")

@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end():
    yield
    asyncio.run(client.close())

@outer.method
async def quadruple(n: int) -> int:
    return await client.call(double, await client.call(double, n))
"""


def test_an_async_client_of_the_module_works_in_the_handlers_of_every_test(project: Project, url: str) -> None:
    """The second test used to fail: the client was opened on another event loop."""
    project.passes(
        _NESTED.replace("URL", repr(url)).replace("{name}", project.name)
        + """
@pytest.mark.parametrize("n", [1, 2, 3])
def test_it(warren_serve, warren_client, n):
    warren_serve(service)
    warren_serve(outer)
    assert warren_client.call(quadruple, n) == 4 * n
""",
        f"--warren-url={url}",
        count=3,
    )


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_handlers_on_the_tests_own_loop_share_its_client(project: Project, url: str, mode: str) -> None:
    project.passes(
        _NESTED.replace("URL", repr(url)).replace("{name}", project.name)
        + """
@pytest.mark.asyncio
@pytest.mark.parametrize("n", [1, 2, 3])
async def test_it(warren_async_serve, n):
    workers = await warren_async_serve(service, workers=2)
    await warren_async_serve(outer)
    assert await client.call(quadruple, n) == 4 * n
    await workers.stop()
    with pytest.raises(CallError):
        await client.options(timeout=0.1).call(double, n)
""",
        f"--asyncio-mode={mode}",
        f"--warren-url={url}",
        count=3,
    )


_LIFESPAN = """
from warren import AsyncClient, current_call

opened = []

@service.lifespan
async def client_of_handlers():
    async with AsyncClient(URL) as client:
        opened.append(asyncio.get_running_loop())
        yield client

@service.method
async def quadruple(n: int) -> int:
    return await current_call().state.call(double, 2 * n)
"""


def test_a_lifespan_is_run_wherever_a_service_is_served(project: Project, url: str, broker_options: Options) -> None:
    project.passes(
        _LIFESPAN.replace("URL", "os.environ['WARREN_URL']").replace("from warren", "import os\nfrom warren", 1)
        + """
@pytest.fixture(autouse=True)
def environment(monkeypatch, warren_url):
    monkeypatch.setenv("WARREN_URL", warren_url)

def test_in_a_thread(warren_serve, warren_client):
    warren_serve(service)
    assert warren_client.call(quadruple, 1) == 4

def test_in_processes(warren_serve, warren_client):
    warren_serve(service, processes=True)
    assert warren_client.call(quadruple, 1) == 4

@pytest.mark.asyncio
async def test_on_the_loop(warren_async_serve, warren_async_client):
    await warren_async_serve(service)
    assert await warren_async_client.call(quadruple, 1) == 4
    assert opened[-1] is asyncio.get_running_loop()
""",
        *broker_options,
        count=3,
    )


def test_a_lifespan_that_fails_is_told_by_the_fixture(project: Project) -> None:
    project.passes(
        """
from warren import LifespanError

@service.lifespan
async def broken():
    raise ConnectionRefusedError("no database")
    yield

def test_in_a_thread(warren_serve):
    with pytest.raises(LifespanError, match="ConnectionRefusedError: no database"):
        warren_serve(service)

@pytest.mark.asyncio
async def test_on_the_loop(warren_async_serve):
    with pytest.raises(LifespanError, match="ConnectionRefusedError: no database"):
        await warren_async_serve(service)
""",
        count=2,
    )


def test_serving_on_the_loop_does_with_anyios_plugin(project: Project) -> None:
    project.passes(
        """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_it(warren_async_serve, warren_async_client):
    await warren_async_serve(service)
    assert await warren_async_client.call(double, 21) == 42
""",
        "-p",
        "no:asyncio",
    )
