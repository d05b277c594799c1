"""examples/shop: started as its README says, real processes on either broker, and its own tests."""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from rabbit import free_ports
from tests.support.raw import raw_channel
from tests.support.serving import ROOT
from warren.broker import Broker

pytestmark = pytest.mark.timeout(1200)  # suites of their own

SHOP = ROOT / "examples" / "shop"
FILES = sorted(SHOP.glob("*.py"))
_SERVICES = ("inventory", "payments", "mail", "orders")
#: Seconds for what takes five.
_TIMEOUT = 100.0


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each broker; nothing of the shop is left there."""
    if request.param == "embedded":
        with Broker() as broker:
            yield broker.url
        return
    url: str = request.getfixturevalue("url")
    yield url
    with raw_channel(url) as channel:
        for name in _SERVICES:
            channel.queue_delete(name)
            channel.queue_delete(f"{name}.dead")


class Shop(NamedTuple):
    """A running one: its front's address, and the process that has started all others."""

    front: str
    pid: int

    def workers(self) -> list[int]:
        return [worker for part in children(self.pid) for worker in children(part)]


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, timeout=_TIMEOUT)
    return [int(child) for child in found.stdout.split()]


@contextmanager
def shop(url: str, **env: str) -> Iterator[Shop]:
    """`start.py`, from when it says that the shop is open."""
    [port] = free_ports(1)
    command = [sys.executable, "start.py", "--url", url, "--port", str(port)]
    process = subprocess.Popen(command, cwd=SHOP, env=os.environ | env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"the shop is open: http://127.0.0.1:{port}/orders, broker: {url}\n"
        yield Shop(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        assert process.wait(_TIMEOUT) == 0
        process.stdout.close()


def ask(address: str, number: str | None = None, **basket: Any) -> tuple[int, Any, str | None]:
    """A GET, or a POST of a basket: status, body, and when to come again."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": number or ""}
    request = Request(address, json.dumps(basket).encode() if basket else None, headers)
    try:
        with urlopen(request, timeout=_TIMEOUT) as answer:
            return answer.status, json.load(answer), answer.headers["Retry-After"]
    except HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers["Retry-After"]


def nightly(url: str, *options: str) -> str:
    command = [sys.executable, "nightly.py", *options]
    environment = os.environ | {"WARREN_URL": url}
    done = subprocess.run(command, cwd=SHOP, env=environment, capture_output=True, text=True, timeout=_TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shop_sells_refuses_and_settles_at_night_what_was_in_doubt(broker_url: str) -> None:
    tea = {"item": "tea", "count": 2, "card": "good", "email": "ann@example.org"}
    with shop(broker_url) as running:
        orders = f"{running.front}/orders"
        paid = {"number": "1", "basket": tea, "status": "paid", "total": 600}
        assert ask(orders, "1", **tea) == (201, paid, None)
        assert ask(orders, "1", **tea) == (201, paid, None)
        assert ask(f"{orders}/1") == (200, paid, None)
        assert ask(f"{orders}/2") == (404, {"error": "NoSuchOrder"}, None)
        assert ask(orders, "3", **tea | {"item": "unicorn"}) == (409, {"error": "SoldOut"}, None)
        assert ask(orders, "4", **tea | {"card": "broke"}) == (402, {"error": "CardDeclined"}, None)
        assert ask(orders, "4", **tea | {"card": "broke"}) == (409, {"error": "Cancelled"}, None)
        status, body, _again = ask(orders, "5", **tea | {"count": 0})
        assert (status, body["error"], body["ran"]) == (422, "INVALID_ARGUMENT", "NOT_EXECUTED")
        status, body, again = ask(orders, "6", **tea | {"card": "slow"})
        assert (status, body["error"], again) == (504, "DEADLINE_EXCEEDED", "1")
        assert body["message"].startswith("payments.charge: the handler was cut off at its method's time_limit of 2 s")

        assert nightly(broker_url) == "no open orders\n"  # that of a moment ago may still be under way
        assert nightly(broker_url, "0") == "1 paid\n"
        assert [ask(f"{orders}/{number}")[1]["status"] for number in (3, 4, 6)] == ["cancelled", "cancelled", "paid"]


def test_every_order_is_whole_or_not_at_all_whatever_worker_is_killed(
    broker_url: str, tmp_path: Path, seed: int
) -> None:
    """What the README says of an order when something breaks, by the books of all services."""
    books, chance = tmp_path / "shop.sqlite3", random.Random(seed)
    with shop(broker_url, SHOP_DB=str(books)) as running, ThreadPoolExecutor(8) as pool:
        placed = [pool.submit(insist, f"{running.front}/orders", number) for number in range(60)]
        for _ in range(12):
            if victims := running.workers():
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
            wait(placed, timeout=0.3)
        ends = [future.result() for future in placed]
        nightly(broker_url, "0")
        paid = look(books, "SELECT number FROM orders WHERE status = 'paid'")
        end = time.monotonic() + _TIMEOUT
        while look(books, "SELECT number FROM mails") != paid and time.monotonic() < end:
            time.sleep(0.1)
    assert look(books, "SELECT number FROM mails") == paid
    assert {str(number) for number, status in enumerate(ends) if status == 201} <= paid
    assert {str(number) for number, status in enumerate(ends) if status in (402, 409)}.isdisjoint(paid)
    assert look(books, "SELECT number FROM orders WHERE status = 'open'") == set()
    assert look(books, "SELECT number FROM payments WHERE amount > 0") == paid
    assert look(books, "SELECT number FROM reservations WHERE count > 0") == paid
    assert look(books, "SELECT count FROM stock WHERE item = 'tea'") == {10000 - len(paid)}


def insist(orders: str, number: int) -> int:
    """Place an order once more as long as the front says so, as a customer's browser does; how it ended."""
    basket = {"item": "tea", "count": 1, "email": "ann@example.org", "card": "good" if number % 5 else "broke"}
    for _ in range(20):
        status, _body, again = ask(orders, str(number), **basket)
        if again is None:
            break
        time.sleep(0.2)
    return status


def look(books: Path, query: str) -> set[Any]:
    with closing(sqlite3.connect(books)) as db:
        return {value for (value,) in db.execute(query)}


def _run_its_tests(folder: Path, *options: str) -> str:
    """As a user would, in a folder without our configuration."""
    for path in FILES:
        shutil.copy(path, folder)
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    return done.stdout + done.stderr


def test_its_own_tests_pass(broker_url: str, tmp_path: Path) -> None:
    output = _run_its_tests(tmp_path, f"--warren-url={broker_url}")
    assert re.search(r"\n=+ 4 passed in ", output), output


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_short_and_in_the_table(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 85
    assert f"[{path.name}]({path.name})" in (SHOP / "README.md").read_text()
