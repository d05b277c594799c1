"""``warren broker``: the embedded broker as a process, and a look into a running one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import Annotated

import typer

from warren.broker import Broker
from warren.broker.command import AskError, fetch_status, run_broker, show_status
from warren.cli.terminal import USAGE, Url, echo_json, fail
from warren.connection.settings import DEFAULT_URL, make_settings
from warren.logs import get_logger
from warren.printable import printable

CANNOT_LISTEN, NO_ANSWER = 1, 3

_EPILOG = """\
It speaks AMQP 0-9-1 as RabbitMQ does, for every client. When it ends, queues
and messages are gone. The user guest is let in from this machine only.
Ctrl-C or SIGTERM ends it.

[bold]Examples[/bold]
  warren broker
  warren broker --port 0
  warren broker status

[bold]Exit codes[/bold]
  0  it was told to end; with status: here it is
  1  it cannot listen there
  2  wrong usage
  3  status: no broker, or none of Warren's
"""

app = typer.Typer(
    help="A small broker for development, in memory: no disk, no cluster.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="broker")


SocketPath = Annotated[str | None, typer.Option(metavar="PATH", help="A Unix socket, instead of host and port.")]


@app.callback(invoke_without_command=True, epilog=_EPILOG)
def broker(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The TCP port; 0 takes a free one.")] = 5672,
    socket: SocketPath = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    user: Annotated[
        str, typer.Option(metavar="NAME:PASSWORD", envvar="WARREN_BROKER_USER", help="Who may log in.")
    ] = "guest:guest",
    verbose: Annotated[bool, typer.Option("--verbose", help="Say who connects, too.")] = False,
) -> None:
    """Run a small broker for development, in memory: no disk, no cluster."""
    if context.invoked_subcommand is not None:
        return
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    get_logger("warren.broker").setLevel(level)
    name, colon, password = user.partition(":")
    if not name or not colon:
        fail(f"--user {name}: say name:password", USAGE)
    try:
        asyncio.run(run_broker(Broker(host=host, port=port, socket=socket, users={name: password})))
    except (OSError, UnicodeError) as error:
        fail(f"cannot listen there: {error}", CANNOT_LISTEN)


@app.command()
def status(
    url: Url = DEFAULT_URL,
    socket: SocketPath = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List connections, queues and consumers of a broker running on this machine."""
    try:
        make_settings(url)
        answer = fetch_status(url, socket)
    except AskError as error:
        fail(printable(str(error)), NO_ANSWER)
    except OSError as error:
        fail(f"no broker can be reached there: {error.strerror or error}", NO_ANSWER)
    except ValueError as error:
        fail(str(error), USAGE)
    if as_json:
        echo_json(asdict(answer))
    else:
        typer.echo(show_status(answer))
