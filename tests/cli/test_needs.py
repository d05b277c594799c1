"""What the command line needs: Pika and msgspec, as `pip install warren-rpc` brings them, and nothing else."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.running import PATIENCE, ROOT, SERVICE, Running, environment
from warren.broker import Broker
from warren.cli.commands import COMMANDS

NEEDS = ("pika", "msgspec")

Lean = Callable[..., str]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has what is needed and nothing else, not even pip."""
    folder = tmp_path_factory.mktemp("lean")
    venv.create(folder, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in NEEDS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (site / name).symlink_to(Path(spec.origin).parent)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="module")
def lean(python: str, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lean]:
    """Runs ``warren`` with that Python and returns what it prints; the service `lean` is served with it, too."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "calc.py").write_text(SERVICE.format(name="lean"))
    program, env = (python, "-m", "warren"), environment(WARREN_URL=broker.url)

    def run(*args: str) -> str:
        done = subprocess.run([*program, *args], env=env, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    serve = Running("serve", "calc:service", cwd=folder, env=env, program=program)
    try:
        serve.wait_worker(1)
        yield run
    finally:
        serve.close()


def test_the_package_asks_for_what_these_tests_have() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[^\w-]", need)[0] for need in project["dependencies"]} == set(NEEDS)


def test_nothing_else_is_there(python: str) -> None:
    program = "import importlib.util as u; print([n for n in ('typer', 'rich', 'click', 'pydantic') if u.find_spec(n)])"
    assert subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["call", "lean.fib", "30"], r"832040\n"),
        (["bench", "lean.fib", "30", "--calls", "10", "--warmup", "0"], "10 results"),
        (["bench", "--calls", "10", "--warmup", "0", "--json"], '"results": 10'),
        (["dead", "list", "lean"], "is empty"),
        (["dead", "count", "lean"], "lean +0"),
        (["ls", "--wait", "2"], "lean +1"),
        (["stubs", "lean", "--wait", "2"], r"def fib\(n: int\) -> int:"),
        (["completion", "bash"], "complete -o default"),
        (["broker", "status"], r"queues: \d"),
        (["demo"], "done, nothing is left behind"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_command_runs_with_nothing_else(lean: Lean, args: list[str], words: str) -> None:
    assert re.search(words, lean(*args))


def test_a_dashboard_without_its_web_server_says_what_to_install(python: str) -> None:
    command = [python, "-m", "warren", "dashboard"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'warren-rpc[dashboard]'" in done.stderr


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.summary])
def test_every_command_has_a_help(lean: Lean, command: str) -> None:
    assert lean(*command.split(), "--help").startswith(f"usage: warren {command}".rstrip())
