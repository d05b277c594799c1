"""``warren serve``: worker processes that serve services, and what each of them runs."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from warren import Server
from warren.cli.logs import LogConfigError, LogLevel, Logs
from warren.cli.terminal import USAGE, Url, fail, offer_broker
from warren.connection.settings import DEFAULT_URL, make_settings
from warren.errors import CallError
from warren.logs import get_logger
from warren.printable import printable
from warren.processes.crew import CANNOT_SERVE, WRONG_USAGE
from warren.processes.loading import ImportFailed, LoadError, load_services
from warren.processes.manager import Manager, has_terminal
from warren.processes.process import Command
from warren.processes.worker import take_lifeline, work
from warren.server.server import DEFAULT_DRAIN_TIMEOUT
from warren.server.signals import STOP_SIGNALS

_EPILOG = """\
A service is named as module:variable and imported from the current folder; the
module alone will do when it has only one.

SIGTERM and the first Ctrl-C let running calls finish, the second ends at once.
SIGHUP replaces the workers by new ones, one after the other, with no call lost.
A worker that dies is replaced by another.

[bold]Examples[/bold]
  warren serve calc:service --workers 4
  warren serve calc mail.app:service --url amqp://user:password@rabbit/vhost

[bold]Exit codes[/bold]
  0  all workers finished what they were doing
  1  the workers cannot serve: the broker refuses them, or the module cannot
     be imported; or one had to be killed in the end
  2  wrong usage: the options, or no such service
"""


_WEEK = 7 * 86_400


def _finite(seconds: float) -> float:
    if math.isnan(seconds):  # of a nan no comparison is true, so it is in every range
        raise typer.BadParameter("must be a number of seconds")
    return seconds


Concurrency = Annotated[
    int | None,
    typer.Option(min=1, max=65_535, help="Calls at a time in each worker.", show_default="what the service says"),
]
DrainTimeout = Annotated[
    float,
    typer.Option(
        min=0,
        max=_WEEK,
        metavar="SECONDS",
        help="How long running calls may take to finish at the end.",
        callback=_finite,
    ),
]
Level = Annotated[
    LogLevel | None,
    typer.Option("--log-level", help="The least severe messages to show.", show_default="info, or the module's own"),
]
LogConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Log as this JSON or TOML file says, a dictionary for logging.config.dictConfig."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=_EPILOG)(serve)
    app.command(hidden=True)(worker)


def serve(
    services: Annotated[list[str], typer.Argument(metavar="MODULE:SERVICE", help="What to serve.")],
    url: Url = DEFAULT_URL,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    concurrency: Concurrency = None,
    drain_timeout: DrainTimeout = DEFAULT_DRAIN_TIMEOUT,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a .py file below the current folder changes.")
    ] = False,
    log_level: Level = None,
    log_config: LogConfig = None,
) -> None:
    """Serve services, in one worker process or several, until told to stop."""
    _take_stock_of_the_process()
    logs = _begin_logging("main", log_level, log_config)
    logs.settle()
    _check_url(url)
    if offer := offer_broker(url):  # the workers go on trying
        get_logger("warren.cli").warning(offer)
    changes = _changes() if reload else None
    options = {
        "drain-timeout": drain_timeout,
        "log-level": log_level and log_level.value,
        "log-config": log_config,
        "concurrency": concurrency,
    }
    manager = Manager(
        _command(services, options, reload),
        workers=workers,
        drain_timeout=drain_timeout,
        environment=os.environ | {"WARREN_URL": url},  # it may hold a password, which a command line would show
        reap=os.getpid() == 1,
        has_terminal=has_terminal,
    )
    raise typer.Exit(asyncio.run(manager.run(changes)))


def _command(services: list[str], options: Mapping[str, object], reload: bool) -> Command:
    """What starts a worker; an option that is None is left out."""
    # -P: the worker puts the current folder in front itself, once Python and Warren are loaded.
    # -B: two versions of a file within a second would leave the bytecode of the first.
    python = [sys.executable, "-P", *(["-B"] if reload else []), "-m", "warren"]
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return lambda name, lifeline: [*python, "worker", f"--lifeline={lifeline}", *given, "--", name, *services]


def _take_stock_of_the_process() -> None:
    """Mend what a careless parent left us with.

    A closed standard descriptor would be the number of our next socket, for anything to write into. Ended children are
    not seen where SIGCHLD is ignored, and a stop not where its signal is blocked.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD})


def _begin_logging(process: str, level: LogLevel | None, file: Path | None) -> Logs:
    try:
        logs = Logs(process, level, file)
        logs.begin()
    except LogConfigError as error:
        fail(str(error), WRONG_USAGE)
    return logs


def _changes() -> AsyncIterator[Collection[str]]:
    """The .py files below the current folder that changed, each time some did."""
    try:
        import watchfiles
    except ImportError:
        fail("--reload needs watchfiles: pip install 'warren-rpc[reload]'", USAGE)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)

    async def names() -> AsyncIterator[Collection[str]]:
        async for changes in watchfiles.awatch(".", watch_filter=watchfiles.PythonFilter()):
            yield _relative(path for _kind, path in changes)

    return names()


def _relative(paths: Iterable[str]) -> set[str]:
    return {os.path.relpath(path) for path in paths}


def worker(
    name: str,
    services: list[str],
    lifeline: Annotated[int, typer.Option(help="The descriptor that leads to the parent process.")],
    url: Url = DEFAULT_URL,
    concurrency: Concurrency = None,
    drain_timeout: DrainTimeout = DEFAULT_DRAIN_TIMEOUT,
    log_level: Level = None,
    log_config: LogConfig = None,
) -> None:
    """One worker process of `serve`."""
    parent = take_lifeline(lifeline)  # first, before anything of the application's can start processes
    logs = _begin_logging(name, log_level, log_config)
    try:
        server = Server(*load_services(services), url=url, concurrency=concurrency, drain_timeout=drain_timeout)
        logs.settle()
    except (LoadError, LogConfigError, TypeError, ValueError) as error:
        fail(str(error), WRONG_USAGE)
    except ImportFailed as error:
        fail(str(error), CANNOT_SERVE)
    try:
        asyncio.run(work(server, drain_timeout, parent))
    except CallError as error:
        fail(printable(error.message), CANNOT_SERVE)
    if server.abandoned:
        raise typer.Exit(1)


def _check_url(url: str) -> None:
    try:
        make_settings(url)
    except ValueError as error:
        fail(str(error), USAGE)
