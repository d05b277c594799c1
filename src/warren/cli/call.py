"""``warren call``: one call, and its result or error for people or programs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

import msgspec
import typer

from warren import Client
from warren.cli.arguments import Encoding, parse_arguments, refuse_option
from warren.cli.terminal import INTERRUPTED, USAGE, Url, fail, fail_call
from warren.client.options import DEFAULT_TIMEOUT, Options
from warren.client.target import split_name
from warren.connection.settings import DEFAULT_URL, make_settings
from warren.errors import CallError
from warren.printable import printable, printable_json

# Lines that fit into 80 columns: Typer keeps them as they are.
_EPILOG = """\
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


def register(app: typer.Typer) -> None:
    """Add the command."""
    # Unknown options become arguments, for the sake of negative numbers; `parse_arguments` refuses the others.
    app.command(epilog=_EPILOG, context_settings={"ignore_unknown_options": True})(call)


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
    refuse_option(target)
    split_name(target)
    args, kwargs = parse_arguments(arguments)

    def run(client: Client) -> Any:
        return (client.cast if cast else client.call)(target, *args, **kwargs)

    return run


def _bare_call(queue: str, arguments: Sequence[str], cast: bool) -> Run:
    if cast or len(arguments) > 1:
        raise ValueError("--bare sends one text and waits for the answer: give at most one argument, without --cast")
    body = arguments[0] if arguments else ""
    refuse_option(queue)
    refuse_option(body)
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


def _headers(given: Sequence[str]) -> dict[str, str] | None:
    for text in given:
        if "=" not in text:
            raise ValueError(f"--header {text}: say name=text")
    return {name: value for name, _, value in (text.partition("=") for text in given)} or None


def _print_result(result: Any, as_json: bool) -> None:
    """Print a result: as it is for a program that reads it, escaped for a person."""
    if isinstance(result, str | bytes) and not as_json:
        typer.echo(_for_people(result) if sys.stdout.isatty() else _for_programs(result))
        return
    encoded = msgspec.json.encode(result, enc_hook=str)
    if as_json or not sys.stdout.isatty():
        typer.echo(printable_json(encoded.decode()))
        return
    from rich.console import Console
    from rich.highlighter import JSONHighlighter

    pretty = printable_json(msgspec.json.format(encoded, indent=2).decode())
    Console().print(JSONHighlighter()(pretty), soft_wrap=True)


def _for_programs(result: str | bytes) -> bytes:
    """Bytes: from text, Click would take out what looks like a terminal's escape sequence."""
    return result.encode() if isinstance(result, str) else result


def _for_people(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return printable(text, keep="\n\t")
