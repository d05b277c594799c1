"""``warren bench``: load on a running service, or on an echo service of its own; the load is in `warren.bench`."""

from __future__ import annotations

import asyncio
import logging
from typing import get_args

from warren.bench import runner, shown
from warren.bench.echo import EchoFailed, Handler, serve_echo
from warren.bench.load import Plan
from warren.cli.arguments import add_options_of_calls, parse_arguments
from warren.cli.output import INTERRUPTED, OTHER, USAGE, echo_json, fail, say
from warren.cli.parser import Parser, number
from warren.cli.terminal import add_url, exit_code, fail_call
from warren.client.options import Encoding
from warren.errors import CallError

_EPILOG = """\
Without SERVICE.METHOD an echo service is called that runs in a process of its
own for as long as this takes; its queues are removed in the end.

A closed loop (--in-flight) begins a call when another ends: it finds the
highest rate. An open loop (--rate) begins calls when they are due, and
latency counts from then: it tells how long calls take at that rate.

Calls that fail are counted and do not end it, except the first one when it
shows that there is no such method or service, or that the arguments are wrong.

Examples:
  warren bench
  warren bench calc.fib 30 --in-flight 1000
  warren bench calc.fib 30 --rate 2000 --duration 60 --json

Exit codes:
  0    done, whatever the calls ended in
  7    the output cannot be written
  130  interrupted by Ctrl-C, after printing what there is
  else as for warren call: not even a first call could be made
"""


def add_bench(parser: Parser) -> None:
    """The arguments of `bench`."""
    parser.explain(_EPILOG)
    parser.rest = "arguments"
    parser.add_argument("target", metavar="SERVICE.METHOD", nargs="?", help="What to call (default: an echo service).")
    parser.add_argument("arguments", metavar="ARGS", nargs="*", default=[], help="As for warren call.")
    add_url(parser)
    for name, kind, default, what in (
        ("--in-flight", int, None, "Closed loop: calls under way at any time (default: 100)."),
        ("--rate", float, None, "Open loop: calls begun per second."),
        ("--calls", int, None, "How many calls to make at most."),
        ("--duration", float, None, "How many seconds calls are begun (default: 10, or until --calls)."),
        ("--warmup", float, 1.0, "For how many seconds calls are made before that are not counted (default: 1)."),
    ):
        parser.add_argument(name, metavar="N", type=number(kind), default=default, help=what)
    add_options_of_calls(parser)
    parser.add_argument(
        "--handler", choices=get_args(Handler), help="How the echo service runs its handler (default: async)."
    )
    parser.flag("--json", dest="as_json", help="Print the result as JSON.")
    parser.flag("--allow-remote", help="Load a broker that is not on this machine.")
    parser.set_defaults(run=run_bench)


def add_echo(parser: Parser) -> None:
    """The arguments of `echo`."""
    parser.add_argument("name")
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--handler", choices=get_args(Handler), default="async")
    add_url(parser)
    parser.set_defaults(run=echo)


COMMANDS = {"bench": add_bench, "echo": add_echo}


def run_bench(
    target: str | None,
    arguments: list[str],
    url: str,
    in_flight: int | None,
    rate: float | None,
    duration: float | None,
    calls: int | None,
    warmup: float,
    timeout: float,
    encoding: Encoding,
    handler: Handler | None,
    as_json: bool,
    allow_remote: bool,
) -> int:
    """Call a method as fast as it goes, or at a fixed rate, and print rate and latencies."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what goes wrong is counted
    try:
        _refuse_pair(rate is not None and in_flight is not None, "--rate and --in-flight")
        _refuse_pair(target is not None and handler is not None, "SERVICE.METHOD and --handler")
        if duration is None and calls is None:
            duration = 10.0
        plan = Plan(100 if in_flight is None else in_flight, rate, duration, calls, warmup)
        args, kwargs = parse_arguments(arguments)
        if not allow_remote:
            runner.check_local(url)
        name, record = runner.run(url, runner.Calls(target, args, kwargs, timeout, encoding, handler or "async"), plan)
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
        say("\n".join(shown.lines(name, plan, record)))
    return INTERRUPTED if record.interrupted else 0


def _refuse_pair(both: bool, names: str) -> None:
    if both:
        raise ValueError(f"{names} exclude each other: give one of them")


def echo(name: str, lifeline: int, handler: Handler, url: str) -> None:
    """The echo service of `bench`, in a process of its own."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        asyncio.run(serve_echo(name, handler, url, lifeline))
    except CallError as error:
        fail(f"the echo service: {error.message}", exit_code(error))
