"""The brokers of a run: RabbitMQ, which somebody else starts, and a NATS server of our own for nats-py."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.procs import PeerFailed

#: Seconds in which a NATS server must be there.
_PATIENCE = 20.0


class Broker(NamedTuple):
    """Where peers connect to, and whose CPU is the broker's; no `pids` where it cannot be read."""

    url: str
    pids: tuple[int, ...]


def nats_command() -> str | None:
    """Debian's ``nats-server``, which is not on everybody's PATH."""
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")


@contextmanager
def nats() -> Iterator[Broker]:
    """A NATS server on a free loopback port, as it is without a configuration, for the length of a ``with`` block.

    Raises:
        PeerFailed: it does not start.
    """
    command = nats_command()
    if command is None:
        raise PeerFailed("nats-server is not installed")
    with tempfile.TemporaryDirectory(prefix="warren-nats-") as name:
        where = ["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", name, "-l", f"{name}/log"]  # -1: any that is free
        process = subprocess.Popen([command, *where], stdin=subprocess.DEVNULL)
        try:
            yield Broker(_url(process, Path(name)), (process.pid,))
        finally:
            process.terminate()
            process.wait()


def _url(process: subprocess.Popen[bytes], folder: Path) -> str:
    end = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < end:
        for file in folder.glob("*.ports"):
            if text := file.read_text():
                url: str = json.loads(text)["nats"][0]
                return url
        time.sleep(0.02)
    log = folder / "log"
    raise PeerFailed(f"nats-server does not start:\n{log.read_text() if log.exists() else ''}")
