"""The processes of a measurement: starting them, their CPU clocks, ending them. Linux only (``/proc``)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


class PeerFailed(RuntimeError):
    """A server or client did not do its part; the text ends with what it wrote to standard error."""


class Peer:
    """A server or client in a process of its own, which talks by lines."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], limit: float) -> None:
        """Start it; it is killed should it take longer than `limit` seconds for all it does."""
        self._command = command
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=ROOT, env=env
        )
        self._limit = threading.Timer(limit, self._process.kill)
        self._limit.daemon = True
        self._limit.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(f"{' '.join(self._command[1:])} ended early:\n{self._tail()}")
        return line.strip()

    def ready(self) -> str:
        """Wait until it says that it is ready; returns its address."""
        words = self.line().split()
        if words[:1] != ["ready"]:
            raise PeerFailed(f"{' '.join(self._command[1:])} says {words} instead of ready:\n{self._tail()}")
        return words[1] if len(words) > 1 else ""

    def go(self) -> dict[str, Any]:
        """Let it measure; returns what it found."""
        self.begin()
        return self.answer()

    def begin(self) -> None:
        """Let it measure, without waiting for what it finds."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The line of JSON that it prints."""
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def end(self) -> None:
        """Terminate it if it still runs, and reap it."""
        self._limit.cancel()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _tail(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        return "\n".join(self._errors.read().decode(errors="replace").splitlines()[-15:])


@contextmanager
def peer(command: Sequence[str], env: Mapping[str, str], limit: float = 60.0) -> Iterator[Peer]:
    """A process for the length of a ``with`` block."""
    process = Peer(command, env, limit)
    try:
        yield process
    finally:
        process.end()


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that running processes have used, all their threads; to the nanosecond where the kernel counts so."""
    return sum(_of_threads(pid) or _of_process(pid) for pid in pids)


def _of_threads(pid: int) -> float:
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((thread / "schedstat").read_text().split()[0])
        except OSError:  # a thread that ended, or a kernel without schedstat
            continue
    return total / 1e9


def _of_process(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_seconds() -> tuple[float, float, float]:
    """CPU time of the whole machine since its start: busy, stolen by its host, and in all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle, stolen = fields[3] + fields[4], fields[7]
    total = sum(fields)
    return (total - idle - stolen) / _TICKS, stolen / _TICKS, total / _TICKS
