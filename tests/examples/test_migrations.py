"""docs/migrate: the programs before and after print the same, on RabbitMQ, and what should run side by side does."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.raw import raw_channel
from tests.support.serving import ROOT
from warren import Client

MIGRATE = ROOT / "docs" / "migrate"
CODE = MIGRATE / "code"
LIBRARIES = ("tutorial_six", "aio_pika", "celery", "nameko", "faststream")
#: Seconds for what takes a few.
_TIMEOUT = 100.0
PRINTED = "one:  832040\nmany: [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]\nnone: n must not be negative\n"

#: What starts the server of each program, behind `python`, and what it says when it is ready.
SERVERS = {
    "tutorial_six_before": (("tutorial_six_before.py", "serve"), "serving"),
    "aio_pika_before": (("aio_pika_before.py", "serve"), "serving"),
    "celery_before": (("-m", "celery", "-A", "celery_before", "worker", "-c", "2", "-l", "info"), " ready."),
    "nameko_before": (("-m", "nameko", "run", "nameko_before", "--broker", "{url}"), "Connected to amqp"),
    "faststream_before": (("faststream_before.py", "serve"), "serving"),
    "celery_both": (("-m", "celery", "-A", "celery_both", "worker", "-c", "2", "-l", "info"), " ready."),
    "celery_both_too": (("-m", "warren", "serve", "celery_both"), "serving "),
    **{f"{library}_after": (("-m", "warren", "serve", f"{library}_after"), "serving ") for library in LIBRARIES},
}


@pytest.fixture(scope="session")
def nameko(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has Nameko: not ours, as it brings a pytest plugin that warns, and monkey-patching."""
    folder = tmp_path_factory.mktemp("nameko")
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "nameko>=2.14"]
    subprocess.run(command, check=True, timeout=_TIMEOUT * 3)
    return python


def python_of(program: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("nameko")) if program == "nameko_before" else sys.executable


def environment(url: str, **more: str) -> dict[str, str]:
    return {**os.environ, "AMQP_URL": url, "WARREN_URL": url, "PYTHONUNBUFFERED": "1", **more}


@contextmanager
def serving(program: str, url: str, python: str = sys.executable, **env: str) -> Iterator[None]:
    """The program's server, from when it says that it is ready."""
    arguments, ready = SERVERS[program]
    command = [python, *(argument.format(url=url) for argument in arguments)]
    server = subprocess.Popen(
        command, cwd=CODE, env=environment(url, **env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert server.stdout is not None
    said = []
    try:
        for line in server.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            raise AssertionError("".join(said))
        yield
    finally:
        server.terminate()
        server.communicate(timeout=_TIMEOUT)


def run(program: str, url: str, python: str = sys.executable) -> str:
    """What the program's client prints."""
    done = subprocess.run(
        [python, f"{program}.py"], cwd=CODE, env=environment(url), capture_output=True, text=True, timeout=_TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def url(url: str) -> Iterator[str]:
    """RabbitMQ, where nothing is left behind, neither by others nor by these."""
    _delete_queues(url)
    yield url
    _delete_queues(url)


def _delete_queues(url: str) -> None:
    with raw_channel(url) as channel:
        for queue in ("rpc_queue", "rpc_queue.dead", "calc", "calc.dead", "fib", "celery", "rpc-calc"):
            channel.queue_delete(queue)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("program", [f"{library}_{when}" for library in LIBRARIES for when in ("before", "after")])
def test_a_program_prints_the_same_before_and_after(program: str, url: str, request: pytest.FixtureRequest) -> None:
    python = python_of(program, request)
    with serving(program, url, python):
        assert run(program, url, python) == PRINTED


def test_tutorial_clients_are_served_by_warren(url: str) -> None:
    with serving("tutorial_six_after", url):
        assert run("tutorial_six_before", url).startswith(PRINTED.partition("none")[0])


def test_servers_of_the_tutorial_and_of_warren_share_one_queue_until_the_old_ones_go(url: str) -> None:
    with ExitStack() as old, ExitStack() as new:
        old.enter_context(serving("tutorial_six_before", url))
        new.enter_context(serving("tutorial_six_after", url, DECLARE="no"))
        assert run("tutorial_six_before", url).startswith(PRINTED.partition("none")[0])
        with Client(url) as client:  # some of these are served by each
            assert {client.call_bare("rpc_queue", b"30") for _ in range(6)} == {b"832040"}
        old.close()
        assert run("tutorial_six_after", url) == PRINTED


def test_one_function_is_a_task_and_a_method_while_callers_move(url: str) -> None:
    with serving("celery_both", url), serving("celery_both_too", url):
        assert (run("celery_before", url), run("celery_after", url)) == (PRINTED, PRINTED)


@pytest.mark.parametrize("path", sorted(CODE.glob("*.py")), ids=lambda path: path.name)
def test_a_page_shows_the_program_as_it_is(path: Path) -> None:
    page = MIGRATE / f"{path.stem.rpartition('_')[0]}.md"
    assert f"```python\n{path.read_text()}```" in page.read_text()
