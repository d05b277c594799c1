"""What ``warren broker`` does: the embedded broker as a process, and a look into a running one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from urllib.parse import unquote, urlsplit

from warren.broker.ask import AskError as AskError
from warren.broker.ask import ask_status
from warren.broker.embedded import Broker
from warren.broker.status import Status
from warren.logs import get_logger
from warren.printable import aligned, printable

_log = get_logger("warren.broker")

_PATIENCE = 5.0  # seconds that the answer may take


async def run_broker(broker: Broker) -> None:
    """Run until SIGINT or SIGTERM.

    Raises:
        OSError: the address is not to be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows' own event loop: there Ctrl-C cancels this
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    async with broker:
        _log.info("ready on %s (a development broker: all in memory, nothing on disk, no cluster)", broker.url)
        await stop.wait()
    _log.info("stopped; what was in the queues is gone")


def fetch_status(url: str, path: str | None) -> Status:
    """Ask the broker at an AMQP URL, or at a Unix socket.

    Raises:
        AskError: it cannot be reached, refuses, or is none of Warren's.
    """
    parts = urlsplit(url)
    where = path or f"{parts.hostname or 'localhost'}:{parts.port or 5672}"
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    try:
        with _connect(parts.hostname or "localhost", parts.port or 5672, path) as sock:
            return ask_status(sock, user, password, unquote(parts.path[1:]) or "/")
    except AskError as error:
        raise AskError(f"{where}: {error}") from error
    except OSError as error:
        why = f"no broker can be reached at {where}: {error.strerror or error}; start one: warren broker"
        raise AskError(why) from error


def _connect(host: str, port: int, path: str | None) -> socket.socket:
    if path is None:
        return socket.create_connection((host, port), _PATIENCE)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(_PATIENCE)
    try:
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    return sock


def show_status(status: Status) -> str:
    """The status in plain lines."""
    lines = [f"{printable(status.product)} {printable(status.version)}: a development broker, all in memory"]
    lines += _table(
        "connections",
        ("address", "name", "user", "vhost", "channels", ""),
        [(c.address, c.name, c.user, c.vhost, c.channels, "blocked" if c.blocked else "") for c in status.connections],
    )
    lines += _table(
        "queues",
        ("name", "vhost", "ready", "unacked", "consumers"),
        [(q.name, q.vhost, q.ready, q.unacked, q.consumers) for q in status.queues],
    )
    lines += _table(
        "consumers",
        ("queue", "tag", "prefetch", "unacked", ""),
        [(c.queue, c.tag, c.prefetch, c.unacked, "no ack" if c.no_ack else "") for c in status.consumers],
    )
    return "\n".join(lines)


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    if not rows:
        return ["", f"no {title}"]
    texts = [heads, *(tuple(printable(str(value)) for value in row) for row in rows)]  # names may be any bytes
    return ["", f"{title}: {len(rows)}", *(f"  {line}" for line in aligned(texts))]
