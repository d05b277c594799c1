"""``warren dashboard``: what runs, in a browser; what it does is in `warren.dashboard`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from importlib.util import find_spec

from warren.cli.output import USAGE, fail, say
from warren.cli.parser import Parser, number
from warren.cli.terminal import add_url
from warren.printable import printable

CANNOT_LISTEN = 1
EVERY = 2.0

_EPILOG = """\
It asks the servers themselves, over the broker, and needs to be nowhere near
them. On this machine anybody may look. A token is needed from elsewhere, and
where it may act; if you give none, one is made. The address that is printed
has it. The way to the browser is not encrypted: from elsewhere, take a tunnel
(ssh -L 8765:localhost:8765) or put a web server with TLS before it.

Examples:
  warren dashboard
  warren dashboard --allow-acting

Exit codes:
  0  it was told to end
  1  it cannot listen there
  2  wrong usage, or its web server is not installed
"""


def add_dashboard(parser: Parser) -> None:
    """The arguments of `dashboard`."""
    add_url(parser)
    parser.explain(_EPILOG)
    parser.add_argument(
        "--port", type=number(int, 0, 65_535), default=8765, help="The TCP port; 0 takes a free one (default: 8765)."
    )
    parser.add_argument("--host", default="127.0.0.1", help="The address to listen on (default: %(default)s).")
    parser.add_argument(
        "--token",
        default=os.environ.get("WARREN_DASHBOARD_TOKEN") or None,
        help="What has to be known to be let in (default: the environment's WARREN_DASHBOARD_TOKEN).",
    )
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=number(float, 0.5, 60),
        default=EVERY,
        help="How often it asks (default: %(default)g).",
    )
    parser.flag("--allow-acting", help="Allow to call methods, and to retry and drop dead letters, from the pages.")
    parser.set_defaults(run=dashboard)


COMMANDS = {"dashboard": add_dashboard}


def dashboard(url: str, port: int, host: str, token: str | None, every: float, allow_acting: bool) -> None:
    """Show in a browser what runs."""
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            fail(f"{name} is missing: pip install 'warren-rpc[dashboard]'", USAGE)
    from warren.dashboard.running import run  # needs what is only there with the extra

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end is what is wanted: exit code 0
    try:
        run(url, host, port, token, acting=allow_acting, every=every, say=_say)
    except ValueError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(printable(f"cannot listen on {host}:{port}: {error}; --port 0 takes a free one"), CANNOT_LISTEN)
    except KeyboardInterrupt:  # uvicorn has ended in good order, and passes on what told it to
        return


def _say(address: str) -> None:
    say(f"the dashboard is open: {address}")
    sys.stdout.flush()  # now, also to a pipe
