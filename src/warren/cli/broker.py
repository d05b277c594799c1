"""``warren broker``: the embedded broker as a process, and a look into a running one."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from dataclasses import asdict

from warren.broker import Broker
from warren.broker.command import AskError, fetch_status, run_broker, show_status
from warren.cli.output import USAGE, echo_json, fail, say
from warren.cli.parser import Parser, number
from warren.cli.terminal import add_url
from warren.connection.settings import make_settings
from warren.logs import get_logger
from warren.printable import printable

CANNOT_LISTEN, NO_ANSWER = 1, 3

_EPILOG = """\
It speaks AMQP 0-9-1 as RabbitMQ does, for every client. When it ends, queues
and messages are gone. The user guest is let in from this machine only.
Ctrl-C or SIGTERM ends it.

Examples:
  warren broker
  warren broker --port 0
  warren broker status

Exit codes:
  0  it was told to end; with status: here it is
  1  it cannot listen there
  2  wrong usage
  3  status: no broker, or none of Warren's
  7  the output cannot be written
"""


def add_broker(parser: Parser) -> None:
    """The arguments of `broker`."""
    parser.explain(_EPILOG)
    parser.add_argument(
        "--port", type=number(int, 0, 65_535), default=5672, help="The TCP port; 0 takes a free one (default: 5672)."
    )
    _add_socket(parser)
    parser.add_argument("--host", default="127.0.0.1", help="The address to listen on (default: %(default)s).")
    parser.add_argument(
        "--user",
        metavar="NAME:PASSWORD",
        default=os.environ.get("WARREN_BROKER_USER") or "guest:guest",
        help="Who may log in (default: the environment's WARREN_BROKER_USER, or guest:guest).",
    )
    parser.flag("--verbose", help="Say who connects, too.")
    parser.set_defaults(run=broker)


def add_status(parser: Parser) -> None:
    """The arguments of `broker status`."""
    add_url(parser)
    _add_socket(parser)
    parser.flag("--json", dest="as_json", help="Print JSON.")
    parser.set_defaults(run=status)


def _add_socket(parser: Parser) -> None:
    parser.add_argument("--socket", metavar="PATH", help="A Unix socket, instead of host and port.")


COMMANDS = {"broker": add_broker, "broker status": add_status}


def broker(port: int, socket: str | None, host: str, user: str, verbose: bool) -> None:
    """Run a small broker for development, in memory: no disk, no cluster."""
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    get_logger("warren.broker").setLevel(level)
    name, colon, password = user.partition(":")
    if not name or not colon:
        fail(f"--user {name}: say name:password", USAGE)
    try:
        asyncio.run(run_broker(Broker(host=host, port=port, socket=socket, users={name: password})))
    except (OSError, UnicodeError) as error:
        fail(_cannot_listen(f"{host}:{port}" if socket is None else socket, error), CANNOT_LISTEN)


def _cannot_listen(where: str, error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {where}: it is in use, perhaps by RabbitMQ, which will do as well, or by another"
            " warren broker; --port takes another port, and --port 0 a free one"
        )
    return f"cannot listen on {where}: {error}"


def status(url: str, socket: str | None, as_json: bool) -> None:
    """List connections, queues and consumers of a broker running on this machine."""
    try:
        make_settings(url)
        answer = fetch_status(url, socket)
    except AskError as error:
        fail(printable(str(error)), NO_ANSWER)
    except ValueError as error:
        fail(str(error), USAGE)
    if as_json:
        echo_json(asdict(answer))
    else:
        say(show_status(answer))
