"""The service that is called when none is named, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from typing import Literal

from warren import Server, Service
from warren.connection.declare import remove_queues
from warren.connection.settings import make_settings
from warren.processes.worker import take_lifeline, work

Handler = Literal["async", "thread"]


class EchoFailed(Exception):
    """The process of our own echo service could not serve, and has said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the echo service ended with exit code {exit_code}")
        self.exit_code = exit_code


async def serve_echo(name: str, handler: Handler, url: str, lifeline: int) -> None:
    """Be the process of the echo service, until told to stop or the parent is gone; leaves nothing at the broker."""
    server = Server(_echo(name, handler), url=url, drain_timeout=_DRAIN, name="warren bench: echo")
    try:
        await work(server, _DRAIN, take_lifeline(lifeline))
    finally:
        await remove_queues(make_settings(url, name="warren bench: removing its queues"), name)


_DRAIN = 1.0
_PATIENCE = 15.0  # more than a drain and the removal of the queues take


def _echo(name: str, handler: Handler) -> Service:
    service = Service(name, concurrency=100)

    def in_a_thread(text: str) -> str:
        return text

    async def on_the_loop(text: str) -> str:
        return text

    service.method(name="echo")(on_the_loop if handler == "async" else in_a_thread)
    return service


@contextlib.asynccontextmanager
async def echo_process(handler: Handler, url: str) -> AsyncIterator[str]:
    """An echo service in a process of its own; yields what to call once it serves.

    Raises:
        EchoFailed: it does not.
    """
    name = f"warren-bench-{secrets.token_hex(6)}"
    ours, theirs = socket.socketpair()  # the lifeline, see `warren.processes.process`
    with ours:
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "warren",
                    "echo",
                    name,
                    f"--handler={handler}",
                    f"--lifeline={theirs.fileno()}",
                ),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"WARREN_URL": url},  # it may hold a password, which a command line would show
                start_new_session=True,  # Ctrl-C is for the parent
            )
        try:
            if not await asyncio.get_running_loop().sock_recv(ours, 16):
                raise EchoFailed(await process.wait())
            yield f"{name}.echo"
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _PATIENCE)
    except TimeoutError:
        process.kill()
        await process.wait()
