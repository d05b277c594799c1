"""The command line: what is typed, what is printed, and the exit codes. `main` is the entry point ``warren``.

An edge: nothing imports it. Logging is configured here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

import warren
from warren import Client, Server, bench, cli_broker, cli_dead, demo
from warren.client import DEFAULT_TIMEOUT, Options
from warren.errors import CallError
from warren.loading import ImportFailed, LoadError, load_services
from warren.processes import CANNOT_SERVE, WRONG_USAGE, Manager, work
from warren.server import DEFAULT_DRAIN_TIMEOUT
from warren.settings import DEFAULT_URL, make_settings
from warren.terminal import INTERRUPTED, OTHER, USAGE, Url, exit_code, fail, fail_call, offer_broker

# Lines that fit into 80 columns: Typer keeps them as they are.
_CALL_EPILOG = """\
[bold]Arguments[/bold] are JSON values; what is not JSON is taken as text. Give them all
by position or all by name (name=value). Quote text that would be taken for
something else twice: '"30"' is text and 30 a number, '"a=b"' has no name.

[bold]Examples[/bold]
  warren call calc.fib 30
  warren call mail.send to=ann@example.org 'lines=["Dear Ann", "..."]'
  warren call --bare rpc_queue 30

[bold]Exit codes[/bold]
  0    a result (with --cast: the broker has the request)
  1    the handler raised an exception
  2    the call is wrong: usage, arguments, no such method
  3    nobody could take it: no broker, no service, no free worker, a limit
       reached; or its worker was lost
  4    its time was over
  5    the broker or the service refuses this caller
  6    any other failure
  130  interrupted by Ctrl-C
"""

_SERVE_EPILOG = """\
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

_BENCH_EPILOG = """\
Without SERVICE.METHOD an echo service is called that runs in a process of its
own for as long as this takes; its queues are removed in the end.

A [bold]closed loop[/bold] (--in-flight) begins a call when another ends: it finds the
highest rate. An [bold]open loop[/bold] (--rate) begins calls when they are due, and
latency counts from then: it tells how long calls take at that rate.

Calls that fail are counted and do not end it, except the first one when it
shows that there is no such method or service, or that the arguments are wrong.

[bold]Examples[/bold]
  warren bench
  warren bench calc.fib 30 --in-flight 1000
  warren bench calc.fib 30 --rate 2000 --duration 60 --json

[bold]Exit codes[/bold]
  0    done, whatever the calls ended in
  130  interrupted by Ctrl-C, after printing what there is
  else as for warren call: not even a first call could be made
"""

app = typer.Typer(
    name="warren",
    help="RPC over RabbitMQ: serve Python functions, and call them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_dead.app, name="dead")
app.add_typer(cli_broker.app, name="broker")
app.command("demo")(demo.main)


class Encoding(StrEnum):
    """How arguments are written."""

    JSON = "json"
    MSGPACK = "msgpack"


class LogLevel(StrEnum):
    """The least severe messages that are shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Handler(StrEnum):
    """How the handlers of bench's own service run."""

    ASYNC = "async"
    THREAD = "thread"


Concurrency = Annotated[
    int | None,
    typer.Option(min=1, max=65_535, help="Calls at a time in each worker.", show_default="what the service says"),
]
DrainTimeout = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="How long running calls may take to finish at the end.")
]
Level = Annotated[LogLevel, typer.Option("--log-level", help="The least severe messages to show.")]


def main() -> None:
    """Run the command line."""
    app(prog_name="warren")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"warren {warren.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# --- serve ------------------------------------------------------------------------------------------------------------


@app.command(epilog=_SERVE_EPILOG)
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
        logging.getLogger("warren.cli").warning(offer)
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


@app.command(hidden=True)
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
        fail(error.message, CANNOT_SERVE)
    if server.abandoned:
        raise typer.Exit(1)


# --- call -------------------------------------------------------------------------------------------------------------


# Unknown options become arguments, for the sake of negative numbers; `_value` refuses the others.
@app.command(epilog=_CALL_EPILOG, context_settings={"ignore_unknown_options": True})
def call(
    target: Annotated[str, typer.Argument(metavar="SERVICE.METHOD", help="What to call; with --bare, the queue.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS", help="JSON values, or name=value.")] = None,
    url: Url = DEFAULT_URL,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long it may take, connecting included.")
    ] = DEFAULT_TIMEOUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON always: text and errors too.")] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Do not wait for a worker: fail if none is free.")
    ] = False,
    cast: Annotated[bool, typer.Option("--cast", help="Send one way: no result, no waiting for one.")] = False,
    bare: Annotated[
        bool, typer.Option("--bare", help="Call a server that only knows RabbitMQ's tutorial six: text, no JSON.")
    ] = False,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="A header for the handler; may be repeated.")
    ] = None,
    encoding: Annotated[Encoding, typer.Option(help="How the arguments are written.")] = Encoding.JSON,
) -> None:
    """Call a method and print its result."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what ends the call is said once, by its error
    try:
        options = Options(timeout, fail_fast, encoding.value, _headers(header or []))
        run = (_bare_call if bare else _typed_call)(target, arguments or [], cast)
        result = _connect_and_run(url, options, run)
    except CallError as error:
        fail_call(error, as_json, url)
    except ValueError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:
        fail("interrupted; the handler may still run", INTERRUPTED)
    if not cast:
        _print_result(result, as_json)


Run = Callable[[Client], Any]


def _typed_call(target: str, arguments: Sequence[str], cast: bool) -> Run:
    args, kwargs = _parse_arguments(arguments)

    def run(client: Client) -> Any:
        return (client.cast if cast else client.call)(target, *args, **kwargs)

    return run


def _bare_call(queue: str, arguments: Sequence[str], cast: bool) -> Run:
    if cast or len(arguments) > 1:
        raise ValueError("--bare sends one text, and waits for the answer: give one argument, and no --cast")
    body = arguments[0] if arguments else ""
    _refuse_option(body)
    return lambda client: _as_text(client.call_bare(queue, body))


def _as_text(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:  # a picture, for one: somebody will redirect it into a file
        return body


def _connect_and_run(url: str, options: Options, run: Run) -> Any:
    """Connect first, so that a broker out of reach is reported at once instead of after the whole timeout."""
    end = time.monotonic() + options.timeout
    patience = min(options.timeout, make_settings(url).connect_timeout)
    with Client(url, connect_timeout=patience, name="warren call") as client:
        client.connect()
        left = max(end - time.monotonic(), 0.001)
        return run(client.options(**asdict(replace(options, timeout=left))))


def _parse_arguments(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    positional = [_value(text) for text in arguments if not _is_named(text)]
    named = [text.partition("=") for text in arguments if _is_named(text)]
    kwargs = {name: _value(text) for name, _, text in named}
    if positional and named:
        raise ValueError(
            f"{' '.join(arguments)}: give the arguments either all by position or all by name;"
            " text that has an = in it goes into double quotes: '\"a=b\"'"
        )
    if len(kwargs) < len(named):
        raise ValueError(f"{' '.join(arguments)}: an argument is given twice")
    return positional, kwargs


def _is_named(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isidentifier()


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        _refuse_option(text)
        return text


def _refuse_option(text: str) -> None:
    if text.startswith("--"):
        raise ValueError(f"there is no option {text.partition('=')[0]}; see --help")


def _headers(given: Sequence[str]) -> dict[str, str] | None:
    for text in given:
        if "=" not in text:
            raise ValueError(f"--header {text}: say name=text")
    return {name: value for name, _, value in (text.partition("=") for text in given)} or None


# --- bench ------------------------------------------------------------------------------------------------------------


@app.command("bench", epilog=_BENCH_EPILOG, context_settings={"ignore_unknown_options": True})
def run_bench(
    target: Annotated[
        str | None, typer.Argument(metavar="SERVICE.METHOD", help="What to call.", show_default="an echo service")
    ] = None,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS", help="As for warren call.")] = None,
    url: Url = DEFAULT_URL,
    in_flight: Annotated[
        int | None, typer.Option(metavar="N", help="Closed loop: calls under way at any time.", show_default="100")
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="Open loop: calls begun per second.")] = None,
    duration: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long calls are begun.", show_default="10, or until --calls"),
    ] = None,
    calls: Annotated[int | None, typer.Option(metavar="N", help="How many calls to make at most.")] = None,
    warmup: Annotated[float, typer.Option(metavar="SECONDS", help="Calls made before that are not counted.")] = 1.0,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long a call may take.")] = DEFAULT_TIMEOUT,
    encoding: Annotated[Encoding, typer.Option(help="How the arguments are written.")] = Encoding.JSON,
    handler: Annotated[
        Handler | None, typer.Option(help="How the echo service runs its handler.", show_default="async")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Load a broker that is not on this machine.")
    ] = False,
) -> None:
    """Call a method as fast as it goes, or at a fixed rate, and print rate and latencies."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what goes wrong is counted
    try:
        _refuse_pair(rate is not None and in_flight is not None, "--rate and --in-flight")
        _refuse_pair(target is not None and handler is not None, "SERVICE.METHOD and --handler")
        if duration is None and calls is None:
            duration = 10.0
        plan = bench.Plan(100 if in_flight is None else in_flight, rate, duration, calls, warmup)
        args, kwargs = _parse_arguments(arguments or [])
        if not allow_remote:
            bench.check_local(url)
        kind = handler or Handler.ASYNC
        name, record = bench.run(url, bench.Calls(target, args, kwargs, timeout, encoding.value, kind.value), plan)
    except CallError as error:
        fail_call(error, as_json, url)
    except ValueError as error:
        fail(str(error), USAGE)
    except bench.EchoFailed as failed:
        fail(str(failed), failed.exit_code if failed.exit_code > 0 else OTHER)
    except KeyboardInterrupt:
        fail("interrupted before anything was measured", INTERRUPTED)
    if as_json:
        typer.echo(json.dumps(bench.as_dict(name, plan, record)))
    else:
        bench.show(name, plan, record)
    if record.interrupted:
        raise typer.Exit(INTERRUPTED)


def _refuse_pair(both: bool, names: str) -> None:
    if both:
        raise ValueError(f"{names}: one or the other")


@app.command(hidden=True)
def echo(name: str, handler: Handler = Handler.ASYNC, url: Url = DEFAULT_URL) -> None:
    """The echo service of `bench`, in a process of its own."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        asyncio.run(bench.serve_echo(name, handler.value, url))
    except CallError as error:
        fail(f"the echo service: {error.message}", exit_code(error))


# --- output -----------------------------------------------------------------------------------------------------------


def _print_result(result: Any, as_json: bool) -> None:
    if isinstance(result, str | bytes) and not as_json:
        typer.echo(result)
        return
    text = msgspec.json.encode(result, enc_hook=str).decode()
    if as_json or not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console

    Console().print_json(text)


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
    handler.setFormatter(logging.Formatter(line))
    logging.basicConfig(level=level.value.upper(), handlers=[handler])
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it has to say, Warren says better
