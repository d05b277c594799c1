"""What is shown again and again, on a terminal: over itself, with keys, and the terminal is given back."""

import asyncio
import os
import pty
import signal
import subprocess
import termios
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.cli.running import PATIENCE, WARREN, environment
from tests.cli.test_operating import EVIL, answers
from tests.support.fake_process import fake_process
from warren.broker import Broker

BEGIN, END = b"\x1b[?1049h", b"\x1b[?1049l"


class OnTerminal:
    """A ``warren`` command on a terminal of 80 columns and 10 rows."""

    def __init__(self, url: str, *args: str, **variables: str) -> None:
        self._ours, self._theirs = pty.openpty()
        termios.tcsetwinsize(self._theirs, (10, 80))
        self.before = termios.tcgetattr(self._theirs)
        env = {
            name: value
            for name, value in environment(WARREN_URL=url).items()
            if name not in ("COLUMNS", "LINES", "TERM")
        }
        env |= {"TERM": "xterm"} | variables
        self.process = subprocess.Popen(
            [*WARREN, *args], env=env, stdin=self._theirs, stdout=self._theirs, stderr=self._theirs
        )
        self.output = b""

    def read_until(self, mark: bytes, count: int = 1) -> None:
        while self.output.count(mark) < count:
            self.output += os.read(self._ours, 4096)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def end(self) -> int:
        """Wait for the end, with all that was written before it read."""
        code = self.process.wait(PATIENCE)
        os.set_blocking(self._ours, False)
        try:
            while data := os.read(self._ours, 4096):
                self.output += data
        except OSError:
            pass
        return code

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    @property
    def given_back(self) -> bool:
        return self.output.rstrip().endswith(END) and self.settings == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A broker with a process of `calc` that says hostile things."""
    with Broker() as broker:
        async with fake_process(broker.url, ["calc"], answers("calc", EVIL)):
            yield broker.url


async def run(url: str, steps: Callable[[OnTerminal], None], *args: str, **variables: str) -> None:
    """Run a command on a terminal, and steps that press keys, off the event loop."""

    def run() -> None:
        terminal = OnTerminal(url, *args, **variables)
        try:
            steps(terminal)
        finally:
            terminal.close()

    await asyncio.to_thread(run)


async def test_top_is_drawn_over_itself_sorted_by_keys_and_ended_by_one(url: str) -> None:
    def steps(terminal: OnTerminal) -> None:
        terminal.read_until(b"by rate;")
        terminal.read_until(b"per s")
        terminal.press(b"n")
        terminal.read_until(b"by name;")
        terminal.press(b"?")
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.output.startswith(BEGIN)
        assert terminal.given_back
        frames = terminal.output.split(b"\x1b[H")[1:]
        assert len(frames) > 1
        assert all(len(frame.split(b"\r\n")) <= 10 for frame in frames)
        text = terminal.output
        for own in (BEGIN, END, b"\x1b[?25l", b"\x1b[?25h", b"\x1b[H", b"\x1b[K", b"\x1b[J"):
            text = text.replace(own, b"")
        assert b"\x1b" not in text

    await run(url, steps, "top", "--interval", "30")


async def test_a_dumb_terminal_gets_one_page_below_the_other(url: str) -> None:
    def steps(terminal: OnTerminal) -> None:
        terminal.read_until(b"services: 1", 2)
        assert terminal.process.wait(PATIENCE) == 0
        assert b"\x1b" not in terminal.output

    await run(url, steps, "top", "--count", "2", "--interval", "0.5", TERM="dumb")


async def test_ctrl_c_gives_the_terminal_back(url: str) -> None:
    def steps(terminal: OnTerminal) -> None:
        terminal.read_until(b"since they began")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert END in terminal.output
        assert b"error" not in terminal.output
        assert terminal.settings == terminal.before

    await run(url, steps, "stats", "calc", "--watch", "--interval", "30")


async def test_queues_are_watched_until_a_key_is_pressed(url: str) -> None:
    def steps(terminal: OnTerminal) -> None:
        terminal.read_until(b"growth/s")
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.given_back

    await run(url, steps, "queues", "--watch", "--interval", "0.2")
