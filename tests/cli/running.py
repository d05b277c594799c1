"""Running ``warren`` as a process of its own, and reading what it says as it says it."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple, TypeVar
from unittest.mock import patch

from warren.cli import run

ROOT = Path(__file__).resolve().parents[2]
WARREN = (sys.executable, "-m", "warren")
PATIENCE = 60.0  # seconds for what takes one: the machine may be busy

T = TypeVar("T")

SERVICE = '''
import os
import time
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from warren import Service, current_call

service = Service("{name}")


@service.method(default=True)
def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@service.method
def greet(name: str, greeting: str = "Hello") -> str:
    return f"{{greeting}}, {{name}}!"


@service.method
def describe(what: dict[str, list[int]]) -> dict[str, object]:
    return {{"got": what}}


@service.method
def work(steps: int) -> str:
    for step in range(steps):
        current_call().progress(step + 1, steps, "step\\x1b[31m")
    return "done"


@service.method
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)


@service.method
def fail() -> None:
    raise RuntimeError("the handler's own trouble")


@service.method
def header(name: str) -> object:
    return current_call().headers.get(name)


@service.method
def write(path: str, text: str) -> None:
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


@service.method
def hold(path: str) -> str:
    """Create `path`, then wait for `path`.go, 30 s at most."""
    open(path, "w").close()
    end = time.monotonic() + 30
    while not os.path.exists(path + ".go") and time.monotonic() < end:
        time.sleep(0.01)
    return "held"


@service.method
def count(to: int, left: str = "") -> Iterator[dict[str, int]]:
    """Numbers; `left` is created when nobody wants more."""
    try:
        for number in range(to):
            yield {{"n": number}}
    finally:
        if left:
            open(left, "w").close()


@service.method
def words() -> Iterator[str]:
    yield "one"
    yield "two"


@service.method
def pid() -> int:
    return os.getpid()
'''


def environment(**variables: str) -> dict[str, str]:
    """Ours, with this source tree and without a URL of the developer's own."""
    env = {key: value for key, value in os.environ.items() if key not in ("WARREN_URL", "PYTHONDONTWRITEBYTECODE")}
    return env | {"PYTHONPATH": str(ROOT / "src")} | variables


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.01)


class Result(NamedTuple):
    """What a command printed, and how it ended."""

    stdout: str
    stderr: str
    exit_code: int


def run_here(args: Sequence[str], **variables: str) -> Result:
    """Run ``warren`` in this process, with these variables in the environment."""
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(error), patch.dict(os.environ, variables):
        code = run(args)
    out.seek(0)
    error.seek(0)
    return Result(out.read(), error.read(), code)


class Running:
    """A ``warren`` process, or another one that says something; its stdout and stderr are read together."""

    def __init__(self, *args: str, cwd: Path, env: dict[str, str], program: Sequence[str] = WARREN) -> None:
        self._process = subprocess.Popen(
            [*program, *args],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a process group of its own, so that a test can play the terminal
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until `pattern` has occurred `count` times in the output; returns the last of them."""
        return self._wait_until(lambda: self._nth(pattern, count), f"{count} times {pattern!r}")

    def wait_worker(self, number: int, nth: int = 1) -> int:
        """Wait until the nth process of a worker is ready; returns its pid."""
        return int(self.wait_for(rf"worker-{number} is ready: process (\d+)", nth)[1])

    def wait_silent(self) -> None:
        """Wait until all processes that share the output have ended, those that we did not start included."""
        self._wait_until(lambda: self._ended or None, "the end of the output")

    def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        """End the process, and with it its workers."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
        self._kill_orphans()
        self._reader.join(PATIENCE)

    def _kill_orphans(self) -> None:
        """End the workers that a failed test left behind: those that do not end after their parent, as they should."""
        for pid in re.findall(r"is ready: process (\d+)", self.output):
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and b"-m\0warren\0worker" in command.read_bytes():
                os.kill(int(pid), signal.SIGKILL)

    def _nth(self, pattern: str, count: int) -> re.Match[str] | None:
        found = list(re.finditer(pattern, self.output))
        return found[count - 1] if len(found) >= count else None

    def _wait_until(self, look: Callable[[], T | None], what: str) -> T:
        end = time.monotonic() + PATIENCE
        with self._news:
            while (found := look()) is None:
                left = end - time.monotonic()
                if left <= 0 or self._ended:
                    raise AssertionError(f"waited in vain for {what} in:\n{self.output}")
                self._news.wait(left)
            return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._tell(line)
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _tell(self, line: str) -> None:
        with self._news:
            self.lines.append(line)
            self._news.notify_all()
