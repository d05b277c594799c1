"""A broker, a worker with a service, and programs that run in places of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.serving import ROOT
from tests.support.waiting import PATIENCE
from warren.broker import Broker

SERVICE = """
from warren import Service

service = Service("calc")

@service.method
async def add(a: int, b: int) -> int:
    return a + b

@service.method
def slow_add(a: int, b: int) -> int:
    return a + b
"""

#: Runs a program's text, with the service as module `calc` and the broker's URL in WARREN_URL; gives what it printed.
Run = Callable[..., str]


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    with Broker() as broker:
        yield broker.url


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the service's module."""
    (tmp_path / "calc.py").write_text(SERVICE)
    return tmp_path


@pytest.fixture
def environment(place: Path, broker_url: str) -> dict[str, str]:
    """For a process that runs there."""
    path = os.pathsep.join([str(place), str(ROOT / "src"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "WARREN_URL": broker_url}


@pytest.fixture
def run(place: Path, environment: dict[str, str]) -> Run:
    def run(program: str, *, python: tuple[str, ...] = ()) -> str:
        done = subprocess.run(
            [sys.executable, *python, "-c", program],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    return run


@pytest.fixture
def worker(place: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process that serves the service."""
    program = "import asyncio, os\nfrom warren import Server\nimport calc\nasync def main():\n" + (
        "    async with Server(calc.service, url=os.environ['WARREN_URL']):\n"
        "        print('ready', flush=True)\n        await asyncio.Event().wait()\nasyncio.run(main())"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.kill()
