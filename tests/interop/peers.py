"""The tutorial's programs as processes: their clients run to the end, their servers while a block runs.

Nothing here skips: without node or amqplib these tests fail (`make interop-js` installs the latter).
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_HERE = Path(__file__).parent
#: Seconds for a program that starts, connects and does its work; far more than it takes.
_TIMEOUT = 30.0

Command = tuple[str, ...]


def _python(script: str) -> Command:
    return sys.executable, str(_HERE / script)


def _node(script: str) -> Command:
    return "node", str(_HERE / "js" / script)


CLIENTS = {
    "python": _python("tutorial_client.py"),
    "javascript": _node("rpc_client.js"),
    "javascript-direct-reply-to": _node("rpc_client_direct.js"),
}
SERVERS = {"python": _python("tutorial_server.py"), "javascript": _node("rpc_server.js")}
ROGUE = _python("rogue_server.py")


async def ask(client: Command, url: str, queue: str, *bodies: str) -> list[str]:
    """Run a tutorial client that sends each body in turn; returns the answers it printed."""
    process = await asyncio.create_subprocess_exec(*client, url, queue, *bodies, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, err = await process.communicate()
    finally:
        await _end(process)
    assert process.returncode == 0, err.decode()
    prefix = " [.] Got "
    return [line.removeprefix(prefix) for line in out.decode().splitlines() if line.startswith(prefix)]


@asynccontextmanager
async def running(server: Command, url: str, queue: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a tutorial server, from when it consumes; yields the rest of its output."""
    process = await asyncio.create_subprocess_exec(*server, url, queue, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(_TIMEOUT):
            line = await process.stdout.readline()
            assert line == b" [x] Awaiting RPC requests\n", (line, (await process.stderr.read()).decode())
        yield process.stdout
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()
