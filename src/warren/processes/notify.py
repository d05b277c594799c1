"""Telling systemd how a service is, where it asks for that (sd_notify(3))."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

#: What systemd says to this process, and to none that it starts.
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells it; where nobody asks, it does nothing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` says where to, and how often to give a sign of life."""
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._interval = _interval(environment) if address else None
        self._watched: asyncio.Task[None] | None = None
        self._said: set[str] = set()

    def once(self, word: str) -> None:
        """Say ``READY`` or ``STOPPING``; again is ignored."""
        if word not in self._said:
            self._said.add(word)
            self._send(f"{word}=1")

    def start(self) -> None:
        """Begin to give signs of life, in the running loop."""
        if self._interval is not None:
            self._watched = asyncio.create_task(self._live(self._interval))

    def close(self) -> None:
        """Give no more of them."""
        if self._watched is not None:
            self._watched.cancel()

    async def _live(self, interval: float) -> None:
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(interval)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)  # it may be full, and nobody read it: that must hold nothing up
            line.sendto(text.encode(), self._address)


def _interval(environment: Mapping[str, str]) -> float | None:
    """Seconds between two signs of life: half of what systemd waits for; None where it waits for none of ours."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        limit = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return limit / 2e6 if limit > 0 else None
