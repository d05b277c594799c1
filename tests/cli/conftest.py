"""Fixtures that run the command line in a folder with a service module of its own, ``calc.py``."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.cli.running import PATIENCE, SERVICE, WARREN, Running, environment


class Start(Protocol):
    """Starts ``warren`` in the folder; it is ended after the test."""

    def __call__(self, *args: str, **env: str) -> Running: ...


class Run(Protocol):
    """Runs ``warren`` in the folder to its end."""

    def __call__(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def folder(tmp_path: Path, service_name: str) -> Path:
    """The current folder of the processes."""
    (tmp_path / "calc.py").write_text(SERVICE.format(name=service_name))
    return tmp_path


@pytest.fixture
def start(folder: Path, url: str) -> Iterator[Start]:
    running: list[Running] = []

    def start(*args: str, **env: str) -> Running:
        running.append(Running(*args, cwd=folder, env=environment(**{"WARREN_URL": url} | env)))
        return running[-1]

    yield start
    for process in reversed(running):
        process.close()


@pytest.fixture
def run(folder: Path, url: str) -> Run:
    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*WARREN, *args],
            cwd=folder,
            env=environment(**{"WARREN_URL": url} | env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run
