"""What runs in a worker process: it serves until its manager says so, somebody else does, or the manager is gone."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Callable
from typing import Literal

import msgspec

from warren.connection.tasks import Tasks
from warren.logs import get_logger
from warren.processes.process import ASK, READY, signal_name
from warren.server.server import Server
from warren.server.signals import Signals

log = get_logger("warren.processes")

#: Seconds beyond its own drain timeout after which a worker that shall end is killed.
GRACE = 10.0

#: Which event loop a worker runs on; ``auto`` is uvloop where it is installed.
Loop = Literal["auto", "asyncio", "uvloop"]

_NOTHING = b"nothing yet"


def loop_factory(loop: Loop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop of that name; None for asyncio's own.

    Raises:
        ImportError: it is not installed.
    """
    if loop != "asyncio":
        try:
            import uvloop
        except ImportError:
            if loop == "uvloop":
                raise
        else:
            return uvloop.new_event_loop
    return None


def take_lifeline(descriptor: int) -> socket.socket:
    """Take the worker's end of the lifeline over, before anything is imported that may start processes.

    It was inherited; from now on no program that is started here inherits it.
    """
    lifeline = socket.socket(fileno=descriptor)
    lifeline.set_inheritable(False)
    lifeline.setblocking(False)
    return lifeline


async def work(server: Server, drain_timeout: float, lifeline: socket.socket) -> None:
    """Serve as a manager's child.

    It drains when the manager says so, when the manager is gone, and on the first SIGTERM or SIGINT from anybody. Only
    a second signal ends it at once: see `warren.server.signals` for what that is. SIGHUP is for the manager.

    Args:
        server: what to serve.
        drain_timeout: the server's, in seconds.
        lifeline: from `take_lifeline`.

    Raises:
        CallError: as for `Server.serve`.
    """
    loop = asyncio.get_running_loop()
    tasks = Tasks()
    loop.add_reader(lifeline, _on_lifeline, server, drain_timeout, lifeline, tasks)
    announcing = asyncio.create_task(_announce(server, lifeline))
    try:
        with Signals(lambda number: _on_signal(server, number), others={signal.SIGHUP: _leave_to_manager}):
            await server.serve()
    finally:
        announcing.cancel()
        tasks.cancel()
        loop.remove_reader(lifeline)


async def _announce(server: Server, lifeline: socket.socket) -> None:
    await server.ready()
    with contextlib.suppress(OSError):  # the manager is gone, as `_on_lifeline` learns by itself
        lifeline.send(READY)


def _on_signal(server: Server, number: int) -> None:
    log.info("%s: finishing what is running; once more to end at once", signal_name(number))
    server.stop()


def _leave_to_manager() -> None:
    log.debug("SIGHUP: restarting workers is up to the parent process")


def _on_lifeline(server: Server, drain_timeout: float, lifeline: socket.socket, tasks: Tasks) -> None:
    said = _said(lifeline)
    if ASK in said:
        tasks.spawn(_report(server, lifeline))
    if said in (ASK, _NOTHING):
        return
    if not said:
        asyncio.get_running_loop().remove_reader(lifeline)
        log.warning("the parent process is gone: finishing what is running")
        _end_after(drain_timeout + GRACE)
    server.stop()


def _said(lifeline: socket.socket) -> bytes:
    """What the manager says; empty where it is gone."""
    try:
        return lifeline.recv(16)
    except BlockingIOError:
        return _NOTHING
    except OSError:
        return b""


async def _report(server: Server, lifeline: socket.socket) -> None:
    said = msgspec.json.encode({"health": server.health(), "stats": server.statistics()})
    with contextlib.suppress(OSError):  # as in `_announce`
        await asyncio.get_running_loop().sock_sendall(lifeline, said + b"\n")


def _end_after(seconds: float) -> None:
    """Have the kernel end this process: nobody is left to kill it, should it not come to an end."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(math.ceil(seconds))
