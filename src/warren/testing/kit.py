"""Services that run for the length of a test: in this process, or in worker processes that can be killed.

What the fixtures of `warren.testing.plugin` hand out, without pytest. Everything here is for a test's own thread, and
nothing waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from types import ModuleType
from typing import Any, Protocol, TypeVar

from warren import Server, Service
from warren.connection.declare import remove_queues
from warren.connection.dial import open_link
from warren.connection.errors import ChannelClosed, ConnectFailed
from warren.connection.settings import Settings, make_settings

T = TypeVar("T")

START_TIMEOUT = 20.0  # seconds until a worker serves: a new interpreter on a busy machine
DRAIN_TIMEOUT = 1.0  # seconds that handlers which still run get when the test is over
_GRACE = 4.0  # seconds beyond that until whatever does not end is given up
_LONG = 10.0  # seconds that `kill_worker` waits for a call to begin


class TestingError(RuntimeError):
    """Something that was asked of the testing kit cannot be done here; the text says why, and what can."""

    __test__ = False  # pytest: not a class of tests


class Workers(Protocol):
    """The workers of one service; they serve until the test's end, or `stop`."""

    def stop(self) -> None:
        """Let them finish what runs, for a second at most, and end them. Again: nothing."""


class Serve:
    """Serves services until `close`: what the fixture ``warren_serve`` is.

    Call it as often as you like, with several services or with one of them for more workers.
    """

    def __init__(self, url: str, *, shared: bool = False) -> None:
        """Prepare; nothing is started yet.

        Args:
            url: the broker.
            shared: others use the broker too, so a queue that is in use is not to be touched.
        """
        self._url = url
        self._shared = shared
        self._loop: LoopThread | None = None
        self._names: set[str] = set()  # of services whose queues are ours to delete
        self._workers: list[Workers] = []

    def __call__(self, service: Service, *, workers: int = 1, processes: bool = False) -> Workers:
        """Serve a service; returns once requests are being consumed.

        By default the workers run in this process, on an event loop in a thread of their own: handlers see what the
        test sees, and each worker has its own connection. With `processes` each is a process, as under
        ``warren serve``; the service must then be a variable of a module.

        Args:
            service: what to serve.
            workers: how many.
            processes: in processes of their own, which `kill_worker` can kill.

        Raises:
            CallError: the broker refuses the service.
            TestingError: it does not serve in time, cannot be imported in a process of its own, or its queue is in use.
        """
        if workers < 1:
            raise ValueError(f"workers={workers} must be at least 1")
        self.claim(service)
        served: Workers
        if processes:
            served = ProcessWorkers(service, self._url, workers)
        else:
            served = ThreadWorkers(service, self._url, workers, self._thread())
        self._workers.append(served)
        return served

    def kill_worker(self, *, busy: bool = True) -> None:
        """Kill a worker process with SIGKILL and start another in its place; returns when that one serves.

        Args:
            busy: wait until a worker runs a handler, and kill that one; False: kill one at once.

        Raises:
            TestingError: there are no worker processes, or none began a call within 10 s.
        """
        groups = [workers for workers in self._workers if isinstance(workers, ProcessWorkers) and workers.processes]
        if not groups:
            raise TestingError("kill_worker() needs worker processes: serve with warren_serve(service, processes=True)")
        if not busy:
            groups[0].replace(groups[0].processes[0])
            return
        group, process = _wait_for_busy(groups)
        group.replace(process)

    def close(self) -> None:
        """Stop all workers and delete their services' queues."""
        with contextlib.ExitStack() as stack:  # each step is taken, whatever the others raise; the last one first
            for name in self._names:
                stack.callback(_run_apart, remove_queues(make_settings(self._url), name))
            if self._loop is not None:
                stack.callback(self._loop.close)
            for workers in self._workers:
                stack.callback(workers.stop)

    def claim(self, service: Service) -> None:
        """Delete the service's queue at the end, once it is certain that this harms nobody else.

        Raises:
            TestingError: its queue is in use.
        """
        if service.name in self._names or not service.declare:
            return
        if self._shared:
            _run_apart(_refuse_used_queue(make_settings(self._url), service.name))
        self._names.add(service.name)

    def _thread(self) -> LoopThread:
        if self._loop is None:
            self._loop = LoopThread("warren-serve")
        return self._loop


async def _refuse_used_queue(settings: Settings, name: str) -> None:
    host, port = settings.hosts[0]
    try:
        link = await open_link(settings, host, port)
    except ConnectFailed as failed:
        raise failed.error from failed
    try:
        messages, consumers = await (await link.channel()).inspect_queue(name)
    except ChannelClosed:  # there is none
        return
    finally:
        await link.close()
    if messages or consumers:
        raise TestingError(
            f"queue {name!r} is in use at {host}:{port}: {messages} messages, {consumers} consumers. After the test it"
            " would be deleted, so give tests a vhost of their own, or delete the queue if it is left from other tests"
        )


# --- in this process --------------------------------------------------------------------------------------------------


class LoopThread:
    """An event loop on a thread of its own, and a way into it that does not wait for ever."""

    def __init__(self, name: str) -> None:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._stopping = asyncio.Event()
        # A daemon: the interpreter must not wait for a handler that does not end.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live(started)), name=name, daemon=True)
        self._thread.start()
        self._loop = started.result(START_TIMEOUT)

    async def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stopping.wait()

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine on the loop and wait for its result.

        Raises:
            TimeoutError: it has not come after `timeout` seconds; the coroutine has been cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, and end the thread.

        Raises:
            TestingError: it does not end.
        """
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_GRACE)
        if self._thread.is_alive():
            raise TestingError(
                f"the thread {self._thread.name} does not end: an async handler blocks its event loop; make it `def`"
            )


def _run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop of its own: whether or not this thread has one, or the handlers block theirs."""
    loop = LoopThread("warren-apart")
    try:
        loop.run(work, START_TIMEOUT)
    finally:
        loop.close()


class ThreadWorkers:
    """Workers of one service on a `LoopThread`, each with its own connection."""

    def __init__(self, service: Service, url: str, count: int, loop: LoopThread) -> None:
        self._loop = loop
        self._running = contextlib.AsyncExitStack()
        self._stopped = False
        name = f"{service.name} worker of a test"
        servers = [Server(service, url=url, drain_timeout=DRAIN_TIMEOUT, name=name) for _ in range(count)]
        try:
            loop.run(self._start(servers), START_TIMEOUT)
        except TimeoutError as error:
            raise TestingError(f"{service.name} does not serve after {START_TIMEOUT:g} s; the log says why") from error

    async def _start(self, servers: list[Server]) -> None:
        async with contextlib.AsyncExitStack() as stack:  # if one cannot serve, none does
            for server in servers:
                await stack.enter_async_context(server)
            self._running = stack.pop_all()

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._loop.run(self._running.aclose(), DRAIN_TIMEOUT + _GRACE)


# --- in processes -----------------------------------------------------------------------------------------------------


class ProcessWorkers:
    """Worker processes of one service; each is a new interpreter that imports the service (`warren.testing.worker`)."""

    def __init__(self, service: Service, url: str, count: int) -> None:
        self.processes: list[WorkerProcess] = []
        self._command = [sys.executable, "-P", "-m", "warren.testing.worker", *locate(service)]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        # The URL may hold a password, which a command line would show.
        self._environment = os.environ | {"WARREN_URL": url, "PYTHONPATH": path}
        try:
            self.processes += [self._spawn() for _ in range(count)]  # all at once: a new interpreter takes its time
            for process in self.processes:
                process.wait_ready()
        except BaseException:
            self.stop()
            raise

    def replace(self, process: WorkerProcess) -> None:
        """Kill a process and start another."""
        self.processes.remove(process)
        process.kill()
        successor = self._spawn()
        self.processes.append(successor)
        successor.wait_ready()

    def stop(self) -> None:
        processes, self.processes = self.processes, []
        for process in processes:
            process.terminate()
        for process in processes:
            process.end()

    def _spawn(self) -> WorkerProcess:
        return WorkerProcess(self._command, self._environment)


class WorkerProcess:
    """One worker process, our end of its lifeline, and the number of calls that it is running."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._lifeline, theirs = socket.socketpair()  # see `warren.processes.process`
        with theirs, tempfile.TemporaryFile() as file:
            file.truncate(COUNTER_SIZE)
            self._calls = mmap.mmap(file.fileno(), COUNTER_SIZE)
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - the command is our own
                [*command, str(theirs.fileno()), str(file.fileno())],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=(theirs.fileno(), file.fileno()),
                start_new_session=True,  # Ctrl-C is for the test session, which then ends us
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def busy(self) -> bool:
        """Whether it runs a handler."""
        return any(self._calls[:])

    def wait_ready(self) -> None:
        """Wait until it serves.

        Raises:
            TestingError: it ended before, or takes too long.
        """
        self._lifeline.settimeout(START_TIMEOUT)
        try:
            if self._lifeline.recv(16):
                return
        except TimeoutError:
            raise TestingError(f"a worker process does not serve after {START_TIMEOUT:g} s") from None
        raise TestingError(f"a worker process ended with exit code {self._process.wait()}; its stderr says why")

    def terminate(self) -> None:
        """Tell it to finish."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()
        self.end()

    def end(self) -> None:
        """Wait for its end, kill it if that takes too long."""
        try:
            self._process.wait(DRAIN_TIMEOUT + _GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lifeline.close()
        self._calls.close()


COUNTER_SIZE = 8  # bytes that a worker process shares with the test: the number of handlers that it runs


def _wait_for_busy(groups: list[ProcessWorkers]) -> tuple[ProcessWorkers, WorkerProcess]:
    """The first worker that runs a handler."""
    end = time.monotonic() + (0.0 if _on_an_event_loop() else _LONG)
    while True:
        for group in groups:
            for process in group.processes:
                if process.busy:
                    return group, process
        if time.monotonic() >= end:
            raise TestingError(_NOBODY_BUSY)
        time.sleep(0.002)


_NOBODY_BUSY = (
    f"kill_worker(): no worker has begun a call within {_LONG:g} s. Begin one before, with client.submit();"
    " in an async test write: await asyncio.to_thread(warren_faults.kill_worker)"
)


def _on_an_event_loop() -> bool:
    """Whether waiting here would keep the test's own call from being sent."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# --- where a service is -----------------------------------------------------------------------------------------------


def locate(service: Service) -> tuple[str, str, str]:
    """Module, variable and file of a service, for a process that has to import it.

    Raises:
        TestingError: it is not a variable of a module.
    """
    everything = (module for module in sys.modules.copy().values() if isinstance(module, ModuleType))
    for module in (*_modules_of_handlers(service), *everything):
        file = getattr(module, "__file__", None)
        for variable, value in vars(module).copy().items():
            if value is service and file is not None:
                return module.__name__, variable, str(file)
    raise TestingError(
        f"service {service.name!r} is not a variable of a module, so a worker process cannot import it: define it at"
        " the top of a module (the test's own will do), or serve it without processes=True"
    )


def _modules_of_handlers(service: Service) -> list[ModuleType]:
    """Where the service is most likely defined, rather than imported."""
    names = [method.function.__module__ for method in service.methods.values()]
    return [sys.modules[name] for name in names if name in sys.modules]
