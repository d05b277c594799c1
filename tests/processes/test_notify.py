"""Telling systemd, over a real datagram socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren.processes.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """What listens, and the environment that says where."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        name = str(tmp_path / "notify") if request.param == "path" else f"@warren-{os.getpid()}"
        line.bind("\0" + name[1:] if name.startswith("@") else name)
        line.settimeout(60)
        yield line, {"NOTIFY_SOCKET": name}


def test_each_word_is_said_once(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    line, environment = systemd
    notifier = Notifier(environment)
    for word in ("READY", "READY", "STOPPING"):
        notifier.once(word)
    assert [line.recv(100) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]


async def test_signs_of_life_come_twice_in_the_time_that_systemd_waits(
    systemd: tuple[socket.socket, dict[str, str]],
) -> None:
    line, environment = systemd
    notifier = Notifier({**environment, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())})
    notifier.start()
    try:
        assert [await asyncio.to_thread(line.recv, 100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    finally:
        notifier.close()


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
async def test_none_come_where_none_are_asked_for(
    systemd: tuple[socket.socket, dict[str, str]], variables: dict[str, str]
) -> None:
    line, environment = systemd
    notifier = Notifier(
        {"WATCHDOG_USEC": "2000", **environment, **variables}
        if "WATCHDOG_PID" in variables
        else environment | variables
    )
    notifier.start()
    await asyncio.sleep(0.02)
    notifier.close()
    line.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.recv(100)


def test_nobody_there_is_no_trouble(tmp_path: Path) -> None:
    Notifier({}).once("READY")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).once("READY")


def test_a_socket_that_nobody_reads_holds_nothing_up(systemd: tuple[socket.socket, dict[str, str]]) -> None:
    _line, environment = systemd
    notifier = Notifier(environment)
    for number in range(5000):
        notifier.once(f"WORD{number}")
