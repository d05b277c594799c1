"""A host's addresses in turn: the first that answers wins, and none that says nothing holds up those behind it."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from warren.connection import addresses
from warren.connection.addresses import Address, connect_first

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on either event loop; no socket may be left when it has ended."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.sleep(0))
            before = set(os.listdir("/proc/self/fd"))
            runner.run(asyncio.wait_for(main, 30))
            assert set(os.listdir("/proc/self/fd")) == before

    return run


@pytest.fixture
def alive() -> Iterator[Address]:
    """An address that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield at(server)


@pytest.fixture
def refusing() -> Iterator[Address]:
    """One that refuses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield at(sock)


@pytest.fixture
def mute() -> Iterator[Address]:
    """One that says nothing: its queue of connections is full, so that the kernel drops what comes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.socket() as first, socket.socket() as more:
        for sock in (first, more):
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        yield at(server)


def at(sock: socket.socket) -> Address:
    return Address(socket.AF_INET, socket.SOCK_STREAM, 0, sock.getsockname())


async def race(tried: list[Address], failures: dict[Address, BaseException], delay: float = 0.05) -> Address | None:
    """The address that was connected to."""
    connected = await connect_first(tried, failures, delay)
    if connected is None:
        return None
    sock, address = connected
    with sock:
        assert sock.getpeername() == address.where
    return address


def test_the_first_is_taken_when_it_answers(run: Run, alive: Address, refusing: Address) -> None:
    async def main() -> None:
        failures: dict[Address, BaseException] = {}
        assert await race([alive, refusing], failures, delay=30) == alive
        assert failures == {}

    run(main())


def test_after_one_that_refuses_the_next_is_tried_at_once(run: Run, alive: Address, refusing: Address) -> None:
    async def main() -> None:
        failures: dict[Address, BaseException] = {}
        assert await race([refusing, alive], failures, delay=60) == alive
        assert isinstance(failures[refusing], ConnectionRefusedError)

    run(main())


def test_one_that_says_nothing_is_left_behind_by_the_next(run: Run, alive: Address, mute: Address) -> None:
    async def main() -> None:
        failures: dict[Address, BaseException] = {}
        assert await race([mute, alive], failures) == alive
        assert failures == {}

    run(main())


def test_none_is_what_is_left_when_all_refuse(run: Run, refusing: Address) -> None:
    async def main() -> None:
        failures: dict[Address, BaseException] = {}
        impossible = Address(socket.AF_INET, socket.SOCK_STREAM, 250, ("127.0.0.1", 1))
        assert await race([refusing, impossible], failures) is None
        assert list(failures) == [refusing, impossible]

    run(main())


def test_a_race_that_is_cancelled_leaves_no_socket(run: Run, mute: Address) -> None:
    async def main() -> None:
        racing = asyncio.create_task(race([mute, mute, mute], {}, delay=0.01))
        await asyncio.sleep(0.1)
        racing.cancel()
        await asyncio.wait([racing])
        assert racing.cancelled()

    run(main())


def test_a_winner_that_comes_with_the_cancel_is_closed(run: Run, alive: Address) -> None:
    async def main() -> None:
        for turns in range(12):
            racing = asyncio.create_task(connect_first([alive], {}, 1))
            for _ in range(turns):
                await asyncio.sleep(0)
            racing.cancel()
            for connected in await asyncio.gather(racing, return_exceptions=True):
                if isinstance(connected, tuple):
                    connected[0].close()

    run(main())


async def test_families_take_turns_and_nothing_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(family: int, host: str) -> tuple[Any, ...]:
        return family, socket.SOCK_STREAM, 6, "", (host, 5672)

    six = [info(socket.AF_INET6, host) for host in ("::1", "::2", "::3")]
    four = [info(socket.AF_INET, "127.0.0.1")]

    def found(*_args: object, **_kwargs: object) -> list[Any]:
        return [*six, *six, *four]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    assert [str(address) for address in await addresses.resolve("name", 5672)] == ["::1", "127.0.0.1", "::2", "::3"]


async def test_a_name_without_addresses_is_one_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_args: object, **_kwargs: object) -> list[Any]:
        return []

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with pytest.raises(socket.gaierror):
        await addresses.resolve("name", 5672)


def test_a_name_server_that_says_nothing_does_not_keep_the_process_alive() -> None:
    program = """
import asyncio, socket, threading
from warren.connection import addresses
socket.getaddrinfo = lambda *_args, **_options: threading.Event().wait()
async def main():
    await asyncio.wait_for(addresses.resolve("name", 5672), 0.1)
try:
    asyncio.run(main())
except TimeoutError:
    print("given up")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("given up\n", "", 0)
