"""``warren bench``: load on a running service, or on an echo service of its own; the load is in `warren.bench`."""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import Annotated

import typer

from warren.bench import runner, shown
from warren.bench.echo import EchoFailed, serve_echo
from warren.bench.load import Plan
from warren.cli.arguments import Encoding, parse_arguments
from warren.cli.terminal import INTERRUPTED, OTHER, USAGE, Url, echo_json, exit_code, fail, fail_call
from warren.client.options import DEFAULT_TIMEOUT
from warren.connection.settings import DEFAULT_URL
from warren.errors import CallError

_EPILOG = """\
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


class Handler(StrEnum):
    """How the handlers of bench's own service run."""

    ASYNC = "async"
    THREAD = "thread"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("bench", epilog=_EPILOG, context_settings={"ignore_unknown_options": True})(run_bench)
    app.command(hidden=True)(echo)


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
        plan = Plan(100 if in_flight is None else in_flight, rate, duration, calls, warmup)
        args, kwargs = parse_arguments(arguments or [])
        if not allow_remote:
            runner.check_local(url)
        kind = handler or Handler.ASYNC
        name, record = runner.run(url, runner.Calls(target, args, kwargs, timeout, encoding.value, kind.value), plan)
    except CallError as error:
        fail_call(error, as_json, url)
    except ValueError as error:
        fail(str(error), USAGE)
    except EchoFailed as failed:
        fail(str(failed), failed.exit_code if failed.exit_code > 0 else OTHER)
    except KeyboardInterrupt:
        fail("interrupted before anything was measured", INTERRUPTED)
    if as_json:
        echo_json(shown.as_dict(name, plan, record))
    else:
        shown.show(name, plan, record)
    if record.interrupted:
        raise typer.Exit(INTERRUPTED)


def _refuse_pair(both: bool, names: str) -> None:
    if both:
        raise ValueError(f"{names} exclude each other: give one of them")


def echo(
    name: str, lifeline: Annotated[int, typer.Option()], handler: Handler = Handler.ASYNC, url: Url = DEFAULT_URL
) -> None:
    """The echo service of `bench`, in a process of its own."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        asyncio.run(serve_echo(name, handler.value, url, lifeline))
    except CallError as error:
        fail(f"the echo service: {error.message}", exit_code(error))
