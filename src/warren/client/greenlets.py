"""What keeps an I/O thread from running where gevent or eventlet make threads green; says what to do instead."""

from __future__ import annotations

import asyncio
import threading

_lock_at_import = threading.Lock


def forbid_late_patch() -> None:
    """Refuse to start where the locks are plain ones, and threads are not.

    Raises:
        RuntimeError: threads were made green after our locks were made.
    """
    if threading.Lock is not _lock_at_import:
        raise RuntimeError(
            "gevent or eventlet patched Python's threads after warren was imported: patch first of all"
            " (under gunicorn in the first lines of its configuration file)"
        )


def forbid_second_loop() -> None:
    """Refuse to start in a new thread that has an event loop already: so it is a green one.

    Raises:
        RuntimeError: asyncio knows one loop for each thread of the system.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "under gevent or eventlet one event loop runs at a time, and another one does:"
            " let all of the process share one Client, without AsyncClient or Server beside it"
        )
