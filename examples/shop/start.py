"""All of the shop: ``python start.py``, then POST to http://127.0.0.1:8000/orders. Ctrl-C ends it.

Brings an embedded broker unless WARREN_URL or ``--url`` names one. Programs say ``with running(url) as front: ...``.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from contract import left, paid, sent
from orders import NoSuchOrder, Orders

from warren import Client, Unavailable, remote
from warren.broker import Broker

HERE = Path(__file__).parent
SERVICES = ("inventory", "payments", "mail", "orders")


@contextmanager
def running(url: str, port: int = 8000, workers: int = 1) -> Iterator[str]:
    """The services, each with so many workers, and the front, from when all answer; gives the front's address."""
    front = f"http://127.0.0.1:{port}"
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        environment = {"SHOP_DB": f"{folder}/shop.sqlite3", **os.environ, "WARREN_URL": url}
        commands: list[tuple[str, ...]] = [
            ("warren", "serve", name, f"--workers={workers}", "--log-level=warning") for name in SERVICES
        ]
        commands += [("uvicorn", "front:app", f"--port={port}", "--log-level=warning")]
        processes = [stack.enter_context(_process(environment, *command)) for command in commands]
        while not _is_open(url, front):
            if any(process.poll() is not None for process in processes):
                raise RuntimeError("a part of the shop did not start; it has said why")
            time.sleep(0.1)
        yield front


@contextmanager
def _process(environment: dict[str, str], *module: str) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own, as Ctrl-C is for us: we end one after the other, the front first.
    command = [sys.executable, "-m", *module]
    process = subprocess.Popen(command, cwd=HERE, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _is_open(url: str, front: str) -> bool:
    """Whether each answers a question that changes nothing."""
    with suppress(Unavailable, OSError), Client(url, name="start") as client, urlopen(f"{front}/openapi.json"):
        for method, argument in (left, "tea"), (paid, ""), (sent, ""), (remote(Orders).find, ""):
            with suppress(NoSuchOrder):
                client.call(method, argument)
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the shop until Ctrl-C.")
    parser.add_argument("--url", default=os.environ.get("WARREN_URL"), help="the broker (default: an embedded one)")
    parser.add_argument("--port", type=int, default=8000, help="of the front")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        url: str = given.url or stack.enter_context(Broker()).url
        with running(url, given.port) as front:
            print(f"the shop is open: {front}/orders, broker: {url}", flush=True)
            signal.pause()


if __name__ == "__main__":
    main()
