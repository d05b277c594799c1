"""`warren bench`: calls a service as fast as it goes, or at a fixed rate, and tells how long the calls take.

`load` makes the calls, `echo` is called when nothing is named, `shown` prints what came of it, `run` joins them.
`warren.cli` reads the options and prints errors.

What is measured is what a program sees that uses `AsyncClient`: from before the arguments are encoded until after the
result is decoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import selectors
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warren import AsyncClient
from warren.bench.echo import Handler, echo_process
from warren.bench.load import Load, Plan, Record
from warren.bench.shown import progress
from warren.client.options import Encoding
from warren.connection.settings import make_settings
from warren.errors import CallError, InvalidArgument, MethodNotFound


@dataclass(frozen=True, slots=True)
class Calls:
    """What is called, and how.

    Attributes:
        target: ``service.method``; None for an echo service of our own.
        args, kwargs: its arguments.
        timeout: seconds for each call.
        encoding: how the arguments are written.
        handler: which kind of handler our own service has.
    """

    target: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 30.0
    encoding: Encoding = "json"
    handler: Handler = "async"


def check_local(url: str) -> None:
    """Refuse hosts that are not this machine, as far as that can be seen without asking anybody.

    Raises:
        ValueError: there is one, or the URL is wrong.
    """
    remote = [host for host, _port in make_settings(url).hosts if not _is_local(host)]
    if remote:
        raise ValueError(
            f"{', '.join(remote)} is not this machine: a load test can bring a broker down that others need;"
            " say --allow-remote if it is meant"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(url: str, calls: Calls, plan: Plan) -> tuple[str, Record]:
    """Make the calls of a plan; Ctrl-C ends it early.

    Returns:
        What was called, and what became of it.

    Raises:
        CallError: there is no connection to begin with, or the first call shows that the others would be in vain.
        EchoFailed: our own service cannot be served.
        ValueError: an option that makes no sense.
        KeyboardInterrupt: Ctrl-C before there was anything to tell.
    """
    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(_run(url, calls, plan))


def _loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes up in time: with epoll, asyncio rounds each wait up to the next millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _run(url: str, calls: Calls, plan: Plan) -> tuple[str, Record]:
    patience = min(calls.timeout, make_settings(url).connect_timeout)
    client = AsyncClient(
        url, timeout=calls.timeout, encoding=calls.encoding, connect_timeout=patience, name="warren bench"
    )
    async with client, contextlib.AsyncExitStack() as stack:
        await client.connect()
        args, target = calls.args, calls.target
        if target is None:
            args, target = ["hello"], await stack.enter_async_context(echo_process(calls.handler, url))

        def call() -> Awaitable[object]:
            return client.call(target, *args, **calls.kwargs)

        await _try(call)
        load = Load(plan, call, asyncio.get_running_loop().time)
        await _attend(load)
    return target, load.record


async def _try(call: Callable[[], Awaitable[object]]) -> None:
    """One call ahead of the others, to find out whether there is anything to measure."""
    try:
        await call()
    except (MethodNotFound, InvalidArgument):
        raise
    except CallError as error:
        if error.reason == "NO_ROUTE":  # there is no such service: a typing error, like the other two
            raise


async def _attend(load: Load) -> None:
    """Run a load to its end, or until Ctrl-C."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(load.run())
    loop.add_signal_handler(signal.SIGINT, running.cancel)
    try:
        with progress(load):
            await asyncio.wait([running])
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if not running.cancelled():
        running.result()
