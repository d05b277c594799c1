"""What a peer sends does nothing to the terminals and logs that show it."""

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.cli.conftest import Start
from tests.cli.running import PATIENCE, WARREN, environment
from tests.support.raw import raw_channel
from tests.support.serving import serving
from warren import Service
from warren.cli.call import _for_people

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n2026-01-01 00:00:00,000 WARNING forged\u202e[bold]x[/bold]\x7f"
#: Whatever a terminal acts on; line ends are the program's own.
ACTS = [b"\x1b", b"\x07", b"\x7f", "\x9b".encode(), "\u202e".encode()]

OnTerminal = Callable[..., bytes]


@pytest.fixture
def on_terminal(url: str) -> OnTerminal:
    """Runs ``warren`` on a terminal without colours; returns all that the terminal gets."""

    def run(*args: str) -> bytes:
        ours, theirs = pty.openpty()
        env = environment(WARREN_URL=url, COLUMNS="300", TERM="dumb", NO_COLOR="1")
        process = subprocess.Popen([*WARREN, *args], env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
        os.close(theirs)
        output = b""
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while data := terminal.read(4096):
                    output += data
            except OSError:  # Linux: the other end is closed
                pass
        process.wait(PATIENCE)
        return output.replace(b"\x1b[31merror: \x1b[0m", b"error: ")  # red, and ours

    return run


def make_service(name: str) -> Service:
    service = Service(name, tracebacks=True)

    @service.method
    async def text() -> str:
        return EVIL

    @service.method
    async def table() -> dict[str, Any]:
        return {EVIL: [EVIL, "ä"]}

    @service.method
    async def fail() -> None:
        raise ValueError("no user " + EVIL)

    return service


@pytest.mark.parametrize(
    "args",
    [
        ["text"],
        ["table"],
        ["fail"],
        ["no\x1b[2J\u202e"],
        ["text", "--json"],
        ["table", "--json"],
        ["fail", "--json"],
    ],
    ids=repr,
)
async def test_results_and_errors_do_nothing_to_a_terminal(
    on_terminal: OnTerminal, url: str, service_name: str, args: list[str]
) -> None:
    async with serving(make_service(service_name), url=url):
        output = await asyncio.to_thread(on_terminal, "call", f"{service_name}.{args[0]}", *args[1:])
    assert [mark for mark in ACTS if mark in output] == []
    assert b"2J" in output  # it is shown, as text
    if args[0] != "text":  # a result's own lines are its own
        assert not any(line.startswith(b"2026-") for line in output.splitlines())


def test_bytes_are_shown_as_text_with_escapes_for_the_rest() -> None:
    assert _for_people("ä\tb\n".encode() + b"\x1b[2J\xff") == "ä\tb\n\\x1b[2J\\xff"


async def test_a_program_gets_the_result_as_it_is(url: str, service_name: str) -> None:
    async with serving(make_service(service_name), url=url):

        def call(*args: str) -> bytes:
            command = [*WARREN, "call", *args]
            env = environment(WARREN_URL=url)
            return subprocess.run(command, env=env, capture_output=True, timeout=PATIENCE).stdout

        assert await asyncio.to_thread(call, f"{service_name}.text") == EVIL.encode() + b"\n"
        table = await asyncio.to_thread(call, f"{service_name}.table")
        assert json.loads(table) == {EVIL: [EVIL, "ä"]}


async def test_a_benchmark_shows_a_peers_errors_as_text(on_terminal: OnTerminal, url: str, service_name: str) -> None:
    async with serving(make_service(service_name), url=url):
        output = await asyncio.to_thread(
            on_terminal, "bench", f"{service_name}.fail", "--calls", "2", "--warmup", "0", "--in-flight", "1"
        )
    assert [mark for mark in ACTS if mark in output] == []


def test_no_peer_can_write_lines_into_a_servers_log(start: Start, folder: Path, url: str, service_name: str) -> None:
    serve = start("serve", "calc:service")
    serve.wait_worker(1)
    with raw_channel(url) as raw:
        raw.confirm_delivery()
        for method, body in (("fail", b"[]"), ("fib", b'["x"]'), ("\x1b[2J", b"[]")):
            ids = {"message_id": EVIL, "correlation_id": EVIL, "app_id": EVIL}
            properties = pika.BasicProperties(
                type=method, content_type="application/json", headers={"rpc-v": 1, EVIL: EVIL}, **ids
            )
            raw.basic_publish("warren", service_name, body, properties)
    serve.wait_for("is set aside", 3)
    assert "forged" in serve.output
    assert not any(line.startswith("2026-01-01") for line in serve.output.splitlines())
    assert [mark for mark in ACTS if mark in serve.output.encode()] == []
