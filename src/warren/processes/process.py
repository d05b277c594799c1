"""A worker process as its manager sees it, and the lifeline between the two.

The lifeline is a socket pair. The worker says `READY` on it, the manager says `STOP`, and its end tells the worker that
the manager is gone. The manager may also `ASK` how the worker is, which answers with one line of JSON. So an order of
the manager's is no signal: whoever sends a signal to all processes at once, as systemd does, sends the worker its first
one. The manager does not conclude anything from the end of its own side, for what the worker has forked may hold the
other; it watches the process itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Self

READY = b"ready"
STOP = b"stop"
ASK = b"?"
#: Bytes of the longest answer that is read.
MAX_REPORT = 16 * 1024 * 1024

#: Makes the command line of the worker of a given name, whose lifeline is the descriptor of a given number.
Command = Callable[[str, int], Sequence[str]]


class Process:
    """One worker process and our end of its lifeline.

    Attributes:
        ended: done when the process has ended.
        told_to_stop: whether `stop` was called.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, lifeline: socket.socket) -> None:
        self.name = name
        self.told_to_stop = False
        self._process = process
        self._lifeline = lifeline
        self._killer: asyncio.TimerHandle | None = None
        self._listening = asyncio.create_task(self._listen())
        self._asking: asyncio.Task[bytes] | None = None
        self.ended = asyncio.create_task(self._see_to_its_end())

    @classmethod
    async def start(cls, name: str, command: Command, environment: Mapping[str, str]) -> Self:
        """Start one.

        Raises:
            OSError: the system does not let us.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command(name, theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                    start_new_session=True,  # the terminal sends Ctrl-C to the parent's, and we pass it on, once
                )
            except BaseException:
                ours.close()
                raise
        return cls(name, process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def ending(self) -> str:
        """How it ended, for the log."""
        code = self.returncode
        if code is not None and code < 0:
            return f"was killed by {signal_name(-code)}"
        return f"ended with exit code {code}"

    @property
    def ended_well(self) -> bool:
        """Whether it ended as a process does that is told to stop; SIGTERM ends at once only what does not serve."""
        code = self.returncode
        return code in (0, -signal.SIGTERM) or (code == 128 + signal.SIGTERM and not self.serves)

    @property
    def serves(self) -> bool:
        """Whether it has said that it is ready."""
        return self._listening.done() and not self._listening.cancelled() and self._listening.result()

    async def ready(self) -> bool:
        """Wait until it serves (True) or has ended (False)."""
        await asyncio.wait({self._listening, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        return self.serves

    async def report(self) -> bytes:
        """How it is, as it says itself; for one that serves. Who asks meanwhile gets the same answer.

        Raises:
            OSError: it has ended, or says what cannot be read.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())  # so it is looked at
        asked = self._asking
        await asyncio.wait({asked})
        if asked.cancelled():
            raise ConnectionError(f"{self.name} has ended: ask its successor")
        return asked.result()

    async def _ask(self) -> bytes:
        loop, said = asyncio.get_running_loop(), bytearray()
        self._lifeline.send(ASK)
        while not said.endswith(b"\n"):
            news = await loop.sock_recv(self._lifeline, 65536)
            if not news or len(said) > MAX_REPORT:
                raise ConnectionError(f"{self.name} says nothing that can be read: look at its log")
            said += news
        return bytes(said)

    def stop(self, timeout: float) -> None:
        """Tell it to drain, once; kill it after `timeout` seconds."""
        if not self.told_to_stop and not self.ended.done():
            self.told_to_stop = True
            self._order_to_stop()
            self._killer = asyncio.get_running_loop().call_later(timeout, self.kill)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _order_to_stop(self) -> None:
        if self.serves:
            with contextlib.suppress(OSError):
                self._lifeline.send(STOP)
                return
        self._signal(signal.SIGTERM)  # it may still import its services, and hear nothing else meanwhile

    def _signal(self, number: signal.Signals) -> None:
        """Not by `send_signal`: that asks first whether it has ended, and then its exit code is lost to asyncio."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and that is what we wanted
                os.kill(self.pid, number)

    async def _listen(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(await asyncio.get_running_loop().sock_recv(self._lifeline, len(READY)))
        return False

    async def _see_to_its_end(self) -> None:
        await self._process.wait()
        tasks = {task for task in (self._listening, self._asking) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._lifeline.close()
        if self._killer is not None:
            self._killer.cancel()


def signal_name(number: int) -> str:
    """What a signal is called, for the log."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def reap_strangers(ours: Collection[int]) -> None:
    """Bury the children that are not ours: process 1 of a container inherits all whose parents have died.

    It stops at one of ours, which asyncio is about to bury; call it again after that.
    """
    with contextlib.suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in ours:
                return
            os.waitpid(found.si_pid, os.WNOHANG)
