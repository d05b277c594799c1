"""``warren serve``: worker processes that serve services, and what each of them runs."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Collection, Iterable
from enum import StrEnum
from typing import Annotated

import typer

from warren import Server
from warren.cli.terminal import USAGE, Url, fail, offer_broker
from warren.connection.settings import DEFAULT_URL, make_settings
from warren.errors import CallError
from warren.logs import LineFormatter, get_logger
from warren.printable import printable
from warren.processes.loading import ImportFailed, LoadError, load_services
from warren.processes.manager import CANNOT_SERVE, WRONG_USAGE, Manager, work
from warren.server.server import DEFAULT_DRAIN_TIMEOUT

_EPILOG = """\
A service is named as module:variable and imported from the current folder; the
module alone will do when it has only one.

SIGTERM and the first Ctrl-C let running calls finish, the second ends at once.
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


class LogLevel(StrEnum):
    """The least severe messages that are shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Concurrency = Annotated[
    int | None,
    typer.Option(min=1, max=65_535, help="Calls at a time in each worker.", show_default="what the service says"),
]
DrainTimeout = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="How long running calls may take to finish at the end.")
]
Level = Annotated[LogLevel, typer.Option("--log-level", help="The least severe messages to show.")]


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
    log_level: Level = LogLevel.INFO,
) -> None:
    """Serve services, in one worker process or several, until told to stop."""
    _configure_logging("main", log_level)
    _check_url(url)
    if offer := offer_broker(url):  # the workers go on trying
        get_logger("warren.cli").warning(offer)
    changes = _changes() if reload else None
    options = [f"--drain-timeout={drain_timeout}", f"--log-level={log_level.value}"]
    if concurrency is not None:
        options.append(f"--concurrency={concurrency}")
    # -P: the worker puts the current folder in front itself, once Python and Warren are loaded.
    # -B: two versions of a file within a second would leave the bytecode of the first.
    python = [sys.executable, "-P", *(["-B"] if reload else [])]
    manager = Manager(
        lambda name: [*python, "-m", "warren", "worker", *options, "--", name, *services],
        workers=workers,
        drain_timeout=drain_timeout,
        environment=os.environ | {"WARREN_URL": url},  # it may hold a password, which a command line would show
    )
    raise typer.Exit(asyncio.run(manager.run(changes)))


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
    url: Url = DEFAULT_URL,
    concurrency: Concurrency = None,
    drain_timeout: DrainTimeout = DEFAULT_DRAIN_TIMEOUT,
    log_level: Level = LogLevel.INFO,
) -> None:
    """One worker process of `serve`."""
    _configure_logging(name, log_level)
    try:
        server = Server(*load_services(services), url=url, concurrency=concurrency, drain_timeout=drain_timeout)
    except (LoadError, ValueError) as error:
        fail(str(error), WRONG_USAGE)
    except ImportFailed as error:
        fail(str(error), CANNOT_SERVE)
    try:
        asyncio.run(work(server, drain_timeout))
    except CallError as error:
        fail(printable(error.message), CANNOT_SERVE)
    if server.abandoned:
        raise typer.Exit(1)


def _check_url(url: str) -> None:
    try:
        make_settings(url)
    except ValueError as error:
        fail(str(error), USAGE)


def _configure_logging(process: str, level: LogLevel) -> None:
    """Log to stderr: with colours on a terminal, else in plain lines."""
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%X")
        line = f"{process} %(name)s: %(message)s"
    else:
        handler = logging.StreamHandler()
        line = f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"
    handler.setFormatter(LineFormatter(line))
    logging.basicConfig(level=level.value.upper(), handlers=[handler])
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it has to say, Warren says better
