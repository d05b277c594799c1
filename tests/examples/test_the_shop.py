"""examples/shop: started as its README says, real processes on either broker, and its own tests."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from rabbit import free_ports
from tests.support.raw import raw_channel
from tests.support.serving import ROOT
from warren.broker import Broker

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


@contextmanager
def shop(url: str) -> Iterator[str]:
    """`start.py`, from when it says that the shop is open; the front's address."""
    [port] = free_ports(1)
    command = [sys.executable, "start.py", "--url", url, "--port", str(port)]
    process = subprocess.Popen(command, cwd=SHOP, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"the shop is open: http://127.0.0.1:{port}/orders, broker: {url}\n"
        yield f"http://127.0.0.1:{port}"
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
    with shop(broker_url) as front:
        orders = f"{front}/orders"
        paid = {"number": "1", "basket": tea, "status": "paid", "total": 600}
        assert ask(orders, "1", **tea) == (201, paid, None)
        assert ask(orders, "1", **tea) == (201, paid, None)
        assert ask(f"{orders}/1") == (200, paid, None)
        assert ask(f"{orders}/2") == (404, {"error": "NoSuchOrder"}, None)
        assert ask(orders, "3", **tea | {"item": "unicorn"}) == (409, {"error": "SoldOut"}, None)
        assert ask(orders, "4", **tea | {"card": "broke"}) == (402, {"error": "CardDeclined"}, None)
        status, body, _again = ask(orders, "5", **tea | {"count": 0})
        assert (status, body["error"], body["ran"]) == (422, "INVALID_ARGUMENT", "NOT_EXECUTED")
        status, body, again = ask(orders, "6", **tea | {"card": "slow"})
        assert (status, body["error"], again) == (504, "DEADLINE_EXCEEDED", "1")
        assert body["message"] == "payments.charge: the handler was cut off at its method's time_limit of 2 s"

        assert nightly(broker_url) == "no open orders\n"  # that of a moment ago may still be under way
        assert nightly(broker_url, "0") == "1 paid\n"
        assert [ask(f"{orders}/{number}")[1]["status"] for number in (3, 4, 6)] == ["cancelled", "cancelled", "paid"]


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
