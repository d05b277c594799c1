"""What is printed where, and in which colour."""

import logging
import os
import pty
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from warren.cli.logs import Logs
from warren.cli.output import RED, painted


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:
        yield stream
    os.close(ours)


def test_only_a_terminal_gets_colours_and_only_if_its_user_wants_them(
    terminal: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert painted("error", RED, terminal) == "\x1b[31merror\x1b[0m"
    with open(tmp_path / "file", "w", encoding="utf-8") as file:
        assert painted("error", RED, file) == "error"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("error", RED, terminal) == "error"


@pytest.mark.parametrize(
    ("level", "begins"), [(logging.INFO, "2"), (logging.WARNING, "\x1b[33m2"), (logging.ERROR, "\x1b[31m2")]
)
def test_on_a_terminal_the_log_shows_what_to_look_at(
    terminal: TextIO, monkeypatch: pytest.MonkeyPatch, level: int, begins: str
) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logs = Logs("main", None, None)
    logs.begin()
    logs.settle()
    (handler,) = logging.getLogger().handlers
    line = handler.format(logging.LogRecord("warren.x", level, "", 0, "the \x1b[2J text", None, None))
    assert line.startswith(begins)
    assert "main warren.x: the \\x1b[2J text" in line
