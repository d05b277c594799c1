"""``warren demo --operate``: a shop that is busy, and the dashboard over it. For a checkout, where the shop is."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from warren import CallError, Client
from warren.broker import Broker
from warren.cli.output import OTHER, USAGE, fail, say
from warren.printable import block

SHOP = Path(__file__).resolve().parents[3] / "examples" / "shop"
NEEDS = ("fastapi", "starlette", "uvicorn")

#: What customers order: most of it goes well.
_ITEMS = ("tea", "tea", "tea", "cake", "unicorn")
_CARDS = ("good",) * 12 + ("broke", "slow")
#: Customers at a time, and seconds that one takes to think.
_CUSTOMERS, _THOUGHT = 6, 0.4

_LOOK = """
What to look at:
  Services   rates, and how long calls wait and work; orders and payments fail now and then: cards are declined
  Graph      the front calls orders, which calls inventory, payments and mail; red where calls fail
  Calls      orders that wait for a bank that does not answer (a card called slow)
  payments   a dead letter: look at it, retry it, drop it; its methods have a form that calls them
Ctrl-C ends all of it.
"""


def run(url: str | None, seconds: float | None) -> None:
    """Open the shop, send customers, and show it until Ctrl-C, or for so many seconds."""
    _check_needs()
    for how in (signal.SIGINT, signal.SIGTERM):
        signal.signal(how, signal.default_int_handler)
    with ExitStack() as stack:
        stack.callback(say, "the shop is closed, nothing is left behind")
        url = url or stack.enter_context(Broker()).url
        say("opening the shop (examples/shop): four services and a front, six processes")
        front = stack.enter_context(
            _process([sys.executable, "start.py", "--url", url, "--port", str(_free_port())], r"open: (\S+),")
        )
        stack.enter_context(_customers(front))
        _leave_a_dead_letter(url)
        command = [sys.executable, "-m", "warren", "dashboard", "--url", url, "--port", "0", "--allow-acting"]
        dashboard = stack.enter_context(_process(command, r"open: (\S+)"))
        say(f"the dashboard: {dashboard}\n{_LOOK}")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait(seconds)


def _check_needs() -> None:
    if not (SHOP / "start.py").exists():
        fail(
            f"--operate shows {SHOP}, which is not there: type make demo ARGS=--operate in a checkout of Warren", USAGE
        )
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        fail(f"--operate needs {' and '.join(missing)}: pip install 'warren-rpc[dashboard]' fastapi", USAGE)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def _process(command: list[str], says: str) -> Iterator[str]:
    """A process, from when it has said a line in which this is found; gives what stands in its brackets."""
    with tempfile.TemporaryFile("w+") as log:  # it warns of each call that fails, which the pages show
        process = subprocess.Popen(  # noqa: S603 - the command is our own
            command, cwd=SHOP, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            assert process.stdout is not None
            found = next(filter(None, (re.search(says, line) for line in process.stdout)), None)
            if found is None:
                log.seek(0)
                fail(f"{command[1:3]} ended with exit code {process.wait()}; it says:\n{block(log.read())}", OTHER)
            yield found[1]
        finally:
            process.terminate()  # what is begun in the background of a script ignores Ctrl-C, and so do its children
            process.communicate(timeout=60)


@contextlib.contextmanager
def _customers(orders: str) -> Iterator[None]:
    """Customers who post orders to this address, one after the other each."""
    closing, numbers = threading.Event(), itertools.count(1)
    threads = [threading.Thread(target=_buy, args=(orders, numbers, closing)) for _ in range(_CUSTOMERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        closing.set()
        for thread in threads:
            thread.join()


def _buy(orders: str, numbers: Iterator[int], closing: threading.Event) -> None:
    while not closing.wait(random.uniform(0, 2 * _THOUGHT)):
        number = f"{time.time_ns()}-{next(numbers)}"
        basket = {"item": random.choice(_ITEMS), "count": 1, "card": random.choice(_CARDS), "email": "ann@example.org"}
        headers = {"Content-Type": "application/json", "Idempotency-Key": number}
        with contextlib.suppress(HTTPError, OSError):  # that orders fail is what is to be seen
            urlopen(Request(orders, json.dumps(basket).encode(), headers), timeout=20).close()  # noqa: S310


def _leave_a_dead_letter(url: str) -> None:
    """A cast with arguments that do not fit: nobody waits for its error, so it is kept."""
    with contextlib.suppress(CallError), Client(url, name="nightly") as client:
        client.cast("payments.settle", order=["not", "a", "number"])
