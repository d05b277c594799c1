"""``warren call``: one call, and its result or error for people or programs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from warren import Client
from warren.cli.arguments import add_options_of_calls, parse_arguments
from warren.cli.output import INTERRUPTED, USAGE, complain, fail, say
from warren.cli.parser import Parser
from warren.cli.progress import Bar
from warren.cli.terminal import add_url, fail_call
from warren.client.options import Encoding, Options
from warren.client.target import split_name
from warren.connection.settings import make_settings
from warren.errors import CallError, MethodNotFound
from warren.printable import printable, printable_json
from warren.protocol import evidence

_EPILOG = """\
Arguments are JSON values; what is not JSON is taken as text. Give them all
by position or all by name (name=value). Quote text that would be taken for
something else twice: '"30"' is text and 30 a number, '"a=b"' has no name.

How far the call is, if its handler says so, is shown on a terminal.
What a method yields is printed as it comes, each item on a line of its own;
Ctrl-C ends it at the worker.

Examples:
  warren call calc.fib 30
  warren call mail.send to=ann@example.org 'lines=["Dear Ann", "..."]'
  warren call --bare rpc_queue 30

Exit codes:
  0    a result (with --cast: the broker has the request)
  1    the handler raised an exception
  2    the call is wrong: usage, arguments, no such method
  3    nobody could take it: no broker, no service, no free worker, a limit
       reached; or its worker was lost
  4    its time was over
  5    the broker or the service refuses this caller
  6    any other failure
  7    there is a result, but it cannot be written: a full disk, a closed pipe
  130  interrupted by Ctrl-C
"""


def add_call(parser: Parser) -> None:
    """The arguments of `call`."""
    parser.explain(_EPILOG)
    parser.rest = "arguments"
    parser.add_argument("target", metavar="SERVICE.METHOD", help="What to call; with --bare, the queue.")
    parser.add_argument("arguments", metavar="ARGS", nargs="*", default=[], help="JSON values, or name=value.")
    add_url(parser)
    add_options_of_calls(parser)
    parser.flag("--json", dest="as_json", help="Print JSON always: text and errors too.")
    parser.flag("--fail-fast", help="Do not wait for a worker: fail if none is free.")
    parser.flag("--cast", help="Send one way: no result, no waiting for one.")
    parser.flag("--bare", help="Call a server that only knows RabbitMQ's tutorial six: text, no JSON.")
    parser.add_argument(
        "--header", metavar="NAME=TEXT", action="append", help="A header for the handler; may be repeated."
    )
    parser.set_defaults(run=call)


COMMANDS = {"call": add_call}


def call(
    target: str,
    arguments: list[str],
    url: str,
    timeout: float,
    as_json: bool,
    fail_fast: bool,
    cast: bool,
    bare: bool,
    header: list[str] | None,
    encoding: Encoding,
) -> None:
    """Call a method and print its result."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what ends the call is said once, by its error
    bar = Bar()
    try:
        options = Options(timeout, fail_fast, encoding, _headers(header or []))
        run = _bare_call(target, arguments, cast) if bare else _typed_call(target, arguments, cast, as_json, bar)
        result = _connect_and_run(url, options, run, bar)
    except CallError as error:
        fail_call(error, as_json, url)
    except ValueError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:
        fail("interrupted; its worker is told, and the handler may still run", INTERRUPTED)
    if cast:
        _say_sent(target)
    elif result is not _PRINTED:
        _print_result(result, as_json)


Run = Callable[[Client], Any]
#: In place of a result, of a stream.
_PRINTED = object()


def _typed_call(target: str, arguments: Sequence[str], cast: bool, as_json: bool, bar: Bar) -> Run:
    split_name(target)
    args, kwargs = parse_arguments(arguments)

    def run(client: Client) -> Any:
        try:
            return (client.cast if cast else client.call)(target, *args, **kwargs)
        except MethodNotFound as error:  # which proves that nothing has run
            if cast or error.reason != evidence.STREAM.reason:
                raise
        try:
            for item in client.stream(target, *args, **kwargs):
                bar.hide()
                _print_item(item, as_json)
        except KeyboardInterrupt:
            fail("interrupted; the worker is told to stop", INTERRUPTED)
        return _PRINTED

    return run


def _say_sent(target: str) -> None:
    """Nobody hears how a cast ends: of a method that yields items, say, it is only set aside."""
    service, _ = split_name(target)
    complain(
        f"sent: the broker has the request of {printable(target)}, and nobody hears how it ends; if it fails,"
        f" it is in: warren dead list {printable(service)}"
    )


def _bare_call(queue: str, arguments: Sequence[str], cast: bool) -> Run:
    if cast or len(arguments) > 1:
        raise ValueError("--bare sends one text and waits for the answer: give at most one argument, without --cast")
    body = arguments[0] if arguments else ""
    return lambda client: _as_text(client.call_bare(queue, body))


def _as_text(body: bytes) -> str | bytes:
    try:
        return body.decode()
    except UnicodeDecodeError:  # a picture, for one: somebody will redirect it into a file
        return body


def _connect_and_run(url: str, options: Options, run: Run, bar: Bar) -> Any:
    """Connect first, so that a broker out of reach is reported at once instead of after the whole timeout."""
    end = time.monotonic() + options.timeout
    patience = min(options.timeout, make_settings(url).connect_timeout)
    with Client(url, connect_timeout=patience, name="warren call") as client:
        client.connect()
        left = max(end - time.monotonic(), 0.001)
        how = client.options(
            timeout=left, fail_fast=options.fail_fast, encoding=options.encoding, headers=options.headers
        )
        try:
            return run(how.options(on_progress=bar.show) if bar.is_wanted() else how)
        finally:
            bar.close()


def _headers(given: Sequence[str]) -> dict[str, str] | None:
    for text in given:
        if "=" not in text:
            raise ValueError(f"--header {text}: say name=text")
    return {name: value for name, _, value in (text.partition("=") for text in given)} or None


def _print_result(result: Any, as_json: bool) -> None:
    """Print a result: as it is for a program that reads it, escaped for a person."""
    to_person = sys.stdout.isatty()
    if isinstance(result, str | bytes) and not as_json:
        _print_text(result, to_person)
        return
    encoded = msgspec.json.encode(result, enc_hook=str)
    if to_person and not as_json:
        encoded = msgspec.json.format(encoded, indent=2)
    say(printable_json(encoded.decode()))


def _print_item(item: Any, as_json: bool) -> None:
    """Print an item of a stream on one line, now."""
    if isinstance(item, str | bytes) and not as_json:
        _print_text(item, sys.stdout.isatty())
    else:
        say(printable_json(msgspec.json.encode(item, enc_hook=str).decode()))
    sys.stdout.flush()


def _print_text(text: str | bytes, to_person: bool) -> None:
    if to_person:
        say(_for_people(text))
    else:
        sys.stdout.buffer.write((text.encode() if isinstance(text, str) else text) + b"\n")


def _for_people(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return printable(text, keep="\n\t")
