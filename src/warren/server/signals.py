"""The process's signals, while something is served: taken over, told apart, and given back.

**One stop.** The first SIGTERM or SIGINT asks for a stop in order. What sends one often sends it twice: systemd to the
whole control group, ``timeout`` to its command and then to the group, a wrapper that passes on what the terminal has
sent already. So the same signal within `ECHO` seconds is the same wish. Any other one after the first hurries.

**Whose signal it is.** asyncio's own handlers act on a byte in the wakeup descriptor, which a forked child shares: a
child that is told to stop would stop its parent. Here the byte only wakes the loop, and Python's handler acts, which
runs in the process that got the signal. A child that Python has forked has default signals from its first moment on;
one that C code has forked finds out by its process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn, Self

from warren.logs import get_logger

log = get_logger("warren.server")

#: Seconds within which the same signal again is an echo of the first and no second wish.
ECHO = 0.3
STOP_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
if sys.platform == "win32":  # Ctrl-Break, the only one that another program may send
    STOP_SIGNALS += (signal.SIGBREAK,)


def end_at_once(number: int) -> NoReturn:
    """End the process, whatever it is doing, as `Signals` does on the second signal."""
    try:
        if sys.platform != "win32":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(1)  # ends us, should nobody read what the log says
        log.warning("second signal: ending at once")
    finally:
        os._exit(128 + number)


class Signals:
    """Takes over SIGTERM and SIGINT for the length of a ``with`` block in a coroutine, and gives them back after it.

    Example::

        with Signals(lambda number: server.stop()):
            await server.serve()
    """

    def __init__(
        self,
        stop: Callable[[int], None],
        *,
        hurry: Callable[[int], None] = end_at_once,
        others: Mapping[int, Callable[[], None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is taken over yet.

        Args:
            stop: told the number of the first signal, in a turn of the event loop.
            hurry: told that of the second. It has to end the process, and is called at once, whatever the loop does.
            others: what to do on other signals, in a turn of the loop; one that was ignored before stays ignored.
            clock: seconds, for telling echoes from second signals.
        """
        self._stop, self._hurry = stop, hurry
        self._others = dict(others or {})
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._pid = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take over.

        Raises:
            RuntimeError: this is not the main thread, the only one in which Python handles signals.
        """
        self._loop = asyncio.get_running_loop()
        self._wakeup, writing = socket.socketpair()
        for end in (self._wakeup, writing):
            end.setblocking(False)
        try:
            self._previous_wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        except ValueError as error:
            self._wakeup.close()
            writing.close()
            raise RuntimeError(_NOT_HERE) from error
        self._writing = writing
        try:
            self._loop.add_reader(self._wakeup, self._on_woken)
        except NotImplementedError:  # Windows' own event loop, which a signal wakes by itself
            signal.set_wakeup_fd(self._previous_wakeup)
        self._pid = os.getpid()
        _active.append(self)
        for number in (*STOP_SIGNALS, *(n for n in self._others if signal.getsignal(n) != signal.SIG_IGN)):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._pid == os.getpid() and self in _active:  # a child that leaves the block has given them back
            self._give_back()

    def _give_back(self) -> None:
        _active.remove(self)
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._receive:  # else somebody has taken it over from us
                signal.signal(number, signal.SIG_DFL if previous is None else previous)
        wakeup = signal.set_wakeup_fd(self._previous_wakeup)
        if wakeup not in (-1, self._writing.fileno()):
            signal.set_wakeup_fd(wakeup)
        with contextlib.suppress(NotImplementedError):
            self._loop.remove_reader(self._wakeup)
        self._wakeup.close()
        self._writing.close()

    # --- when one arrives ---------------------------------------------------------------------------------------

    def _on_woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self.leave_to_the_parent()
            os.kill(os.getpid(), number)
        elif number in self._others:
            self._loop.call_soon_threadsafe(self._others[number])
        elif self._first is None:
            self._first = number, self._clock()
            self._loop.call_soon_threadsafe(self._stop, number)
        elif not self._is_echo(number):
            self._hurry(number)

    def _is_echo(self, number: int) -> bool:
        assert self._first is not None
        first, when = self._first
        return number == first and self._clock() - when < ECHO

    # --- in a forked child --------------------------------------------------------------------------------------

    @property
    def numbers(self) -> set[int]:
        """The signals that it has taken over."""
        return set(self._previous)

    def leave_to_the_parent(self) -> None:
        """Go back to default signals in a child; what was ignored is ignored again."""
        signal.set_wakeup_fd(-1)
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, signal.SIG_IGN if previous == signal.SIG_IGN else _default(number))


_NOT_HERE = (
    "signals reach the main thread only, so run() belongs there. In another thread say asyncio.run(server.serve()),"
    " and end it with server.stop(), from any thread"
)


def _default(number: int) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


_active: list[Signals] = []
_masks = threading.local()


def _before_fork() -> None:
    """Hold signals back: one that reaches the child before it has default signals would be lost."""
    if _active and sys.platform != "win32":
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, set().union(*(s.numbers for s in _active)))


def _after_fork() -> None:
    before = _masks.__dict__.pop("before", None)
    if before is not None and sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _after_fork_in_child() -> None:
    for signals in reversed(_active):
        signals.leave_to_the_parent()
    _active.clear()
    _after_fork()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
