"""``warren serve``: worker processes that serve services, and what each of them runs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import get_args

from warren import Server
from warren.cli.logs import LEVELS, Form, LogConfigError, Logs
from warren.cli.output import USAGE, fail
from warren.cli.parser import Parser, number
from warren.cli.terminal import add_url, offer_broker
from warren.connection.settings import make_settings
from warren.errors import CallError
from warren.logs import get_logger
from warren.printable import printable
from warren.processes.crew import CANNOT_SERVE, WRONG_USAGE
from warren.processes.http import CannotListen
from warren.processes.loading import ImportFailed, LoadError, load_services
from warren.processes.manager import Manager, has_terminal
from warren.processes.process import Command
from warren.processes.worker import Loop, loop_factory, take_lifeline, work
from warren.server.control import checked_mode
from warren.server.server import DEFAULT_DRAIN_TIMEOUT
from warren.server.signals import STOP_SIGNALS

_EPILOG = """\
A service is named as module:variable and imported from the current folder; the
module alone will do when it has only one.

SIGTERM and the first Ctrl-C let running calls finish, the second ends at once.
SIGHUP replaces the workers by new ones, one after the other, with no call lost.
A worker that dies is replaced by another.

Examples:
  warren serve calc:service --workers 4
  warren serve calc mail.app:service --url amqp://user:password@rabbit/vhost

Exit codes:
  0  all workers finished what they were doing
  1  the workers cannot serve: the broker refuses them, or the module cannot
     be imported; or one had to be killed in the end
  2  wrong usage: the options, or no such service
"""


_WEEK = 7 * 86_400


def add_serve(parser: Parser) -> None:
    """The arguments of `serve`."""
    parser.explain(_EPILOG)
    parser.add_argument("services", metavar="MODULE:SERVICE", nargs="+", help="What to serve.")
    add_url(parser)
    parser.add_argument(
        "--workers", metavar="N", type=number(int, 1), default=1, help="Worker processes (default: %(default)s)."
    )
    _add_options_of_workers(parser)
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        type=_address,
        help="Tell here how the workers are: /livez, /readyz, /metrics. A port alone is on 127.0.0.1.",
    )
    parser.flag("--reload", help="Restart when a .py file below the current folder changes.")
    parser.set_defaults(run=serve)


def add_worker(parser: Parser) -> None:
    """The arguments of `worker`."""
    parser.add_argument("name")
    parser.add_argument("services", nargs="+")
    parser.add_argument("--lifeline", type=int, required=True, help="The descriptor that leads to the parent process.")
    add_url(parser)
    _add_options_of_workers(parser)
    parser.set_defaults(run=worker)


def _add_options_of_workers(parser: Parser) -> None:
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=number(int, 1, 65_535),
        help="Calls at a time in each worker (default: what the service says).",
    )
    parser.add_argument(
        "--drain-timeout",
        metavar="SECONDS",
        type=number(float, 0, _WEEK),
        default=DEFAULT_DRAIN_TIMEOUT,
        help="How long running calls may take to finish at the end (default: %(default)g).",
    )
    parser.add_argument(
        "--loop",
        choices=get_args(Loop),
        default="auto",
        help="The event loop of the workers: auto is uvloop where it is installed, else asyncio's own"
        " (default: %(default)s).",
    )
    parser.add_argument(
        "--control",
        choices=("look", "full", "none"),
        default="look",
        help="What operators may ask of the workers: to see them, to drain and resume them too, nothing"
        " (default: %(default)s).",
    )
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        help="The least severe messages to show (default: info, or the module's own).",
    )
    parser.add_argument(
        "--log-format", choices=get_args(Form), default="text", help="What a line is (default: %(default)s)."
    )
    parser.flag("--access-log", help="Log a line for each call: caller, wait, work, ending.")
    parser.add_argument(
        "--log-config",
        metavar="FILE",
        type=Path,
        help="Log as this JSON or TOML file says, a dictionary for logging.config.dictConfig.",
    )


COMMANDS = {"serve": add_serve, "worker": add_worker}


def serve(
    services: list[str],
    url: str,
    workers: int,
    concurrency: int | None,
    drain_timeout: float,
    loop: Loop,
    control: str,
    http: tuple[str, int] | None,
    reload: bool,
    log_level: str | None,
    log_config: Path | None,
    log_format: Form,
    access_log: bool,
) -> int:
    """Serve services, in one worker process or several, until told to stop."""
    if sys.platform == "win32":
        fail("warren serve needs what Windows does not have: let your program serve there, with service.run()", USAGE)
    _take_stock_of_the_process()
    logs = _begin_logging("main", log_level, log_config, log_format)
    logs.settle()
    _check_url(url)
    if offer := offer_broker(url):  # the workers go on trying
        get_logger("warren.cli").warning(offer)
    _check_loop(loop)
    changes = _changes() if reload else None
    options = {
        "drain-timeout": drain_timeout,
        "loop": loop,
        "control": control,
        "log-level": log_level,
        "log-config": log_config,
        "log-format": log_format,
        "access-log": access_log or None,
        "concurrency": concurrency,
    }
    manager = Manager(
        _command(services, options, reload),
        workers=workers,
        drain_timeout=drain_timeout,
        environment=os.environ | {"WARREN_URL": url},  # it may hold a password, which a command line would show
        reap=os.getpid() == 1,
        has_terminal=has_terminal,
        http=http,
    )
    try:
        return asyncio.run(manager.run(changes))
    except CannotListen as error:
        fail(f"--http: {error}", USAGE)


def _address(text: str) -> tuple[str, int]:
    """A host and a port; 0 is any that is free."""
    host, colon, port = text.rpartition(":")
    if ":" in host and not host.startswith("["):
        port = ""
    if not port.isascii() or not port.isdigit() or int(port) > 65_535 or bool(colon) != bool(host.strip("[]")):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT: say for example 0.0.0.0:8080, [::1]:8080 or 8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def _command(services: list[str], options: Mapping[str, object], reload: bool) -> Command:
    """What starts a worker; an option that is None is left out."""
    # -P: the worker puts the current folder in front itself, once Python and Warren are loaded.
    # -B: two versions of a file within a second would leave the bytecode of the first.
    python = [sys.executable, "-P", *(["-B"] if reload else []), "-m", "warren"]
    given = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value is not None
    ]
    return lambda name, lifeline: [*python, "worker", f"--lifeline={lifeline}", *given, "--", name, *services]


def _take_stock_of_the_process() -> None:
    """Mend what a careless parent left us with.

    A closed standard descriptor would be the number of our next socket, for anything to write into. Ended children are
    not seen where SIGCHLD is ignored, and a stop not where its signal is blocked.
    """
    assert sys.platform != "win32"
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD})


def _begin_logging(
    process: str, level: str | None, file: Path | None, form: Form = "text", access: bool = False
) -> Logs:
    try:
        logs = Logs(process, level, file, form, access)
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
    lifeline: int,
    url: str,
    concurrency: int | None,
    drain_timeout: float,
    loop: Loop,
    control: str,
    log_level: str | None,
    log_config: Path | None,
    log_format: Form,
    access_log: bool,
) -> int:
    """One worker process of `serve`."""
    parent = take_lifeline(lifeline)  # first, before anything of the application's can start processes
    logs = _begin_logging(name, log_level, log_config, log_format, access_log)
    try:
        server = Server(
            *load_services(services),
            url=url,
            concurrency=concurrency,
            drain_timeout=drain_timeout,
            control=None if control == "none" else checked_mode(control),
        )
        logs.settle()
    except (LoadError, LogConfigError, TypeError, ValueError) as error:
        fail(str(error), WRONG_USAGE)
    except ImportFailed as error:
        fail(str(error), CANNOT_SERVE)
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            runner.run(work(server, drain_timeout, parent))
    except CallError as error:
        fail(printable(error.message), CANNOT_SERVE)
    return 1 if server.abandoned else 0


def _check_loop(loop: Loop) -> None:
    try:
        loop_factory(loop)
    except ImportError:
        fail("--loop uvloop needs uvloop: pip install 'warren-rpc[uvloop]'", USAGE)


def _check_url(url: str) -> None:
    try:
        make_settings(url)
    except ValueError as error:
        fail(str(error), USAGE)
