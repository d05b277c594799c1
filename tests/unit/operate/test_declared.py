"""Who calls whom is read from the code: nothing of it is run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.serving import ROOT

from warren.operate.declared import Declared, SourceError, read_modules
from warren.operate.graph import Edge

Read = Callable[..., Declared]

INVENTORY = """
from warren import Service
raise SystemExit("it was run")
NAME = "stock"
service = Service(NAME)
other = Service(name="other")

@service.method
def price(item: str) -> float: ...

@service.method(name="take-it")
async def take(item: str) -> None: ...

@service.stub
def count() -> int: ...

@other.methods
class Orders:
    def __init__(self) -> None: ...
    def place(self) -> None:
        self.helper()
    def helper(self) -> None:
        client.call(price, "tea")
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes modules into a folder, and reads the named ones."""

    def read(*names: str, **modules: str) -> Declared:
        for name, code in modules.items():
            path = tmp_path / f"{name.replace('__', '/').replace('/init', '/__init__')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(code)
        return read_modules(names, tmp_path)

    return read


def test_calls_by_function_and_by_name_are_found(read: Read) -> None:
    front = """
import inventory as stock
from inventory import service, take, Orders
from warren import AsyncClient, remote

MAIL = "mail.send"

async def main(client: AsyncClient) -> None:
    await client.call(stock.price, "tea")
    await client.options(timeout=3).cast(take, "tea")
    client.submit(remote(Orders).place)
    client.map(stock.count, [1])
    await client.call(MAIL, 1)
    await client.call("a.b.c")
"""
    found = read("front", front=front, inventory=INVENTORY)
    assert found.graph.edges == (
        Edge("front", "a.b", "c"),
        Edge("front", "mail", "send"),
        Edge("front", "other", "place"),
        Edge("front", "stock", "count"),
        Edge("front", "stock", "price"),
        Edge("front", "stock", "take-it"),
    )
    assert found.unknown == []


def test_what_a_method_calls_belongs_to_its_service_also_through_helpers(read: Read) -> None:
    code = """
from inventory import price
from warren import Service

service = Service("orders")

def helper(): client.call(price, "tea")
def unused(): client.call("mail.send")

class Deep:
    def run(self): self.inner()
    def inner(self): client.call("deep.down")

@service.method
async def place(): helper()
"""
    found = read("orders", orders=code, inventory=INVENTORY)
    assert found.graph.edges == (
        Edge("orders", "deep", "down"),
        Edge("orders", "mail", "send"),
        Edge("orders", "stock", "price"),
    )
    assert found.graph.services == {"orders"}
    assert read("inventory", inventory=INVENTORY).graph.edges == (Edge("other", "stock", "price"),)


def test_an_implementation_is_the_stub_that_it_implements(read: Read) -> None:
    code = """
from inventory import count
from inventory import service as contract

@contract.implement(count)
async def counted() -> int:
    await client.call("db.count")
"""
    assert read("impl", impl=code, inventory=INVENTORY).graph.edges == (Edge("stock", "db", "count"),)


def test_a_package_is_read_with_all_below_it_and_relative_imports(read: Read) -> None:
    found = read(
        "shop",
        shop__init="",
        shop__stock="from warren import Service\nservice = Service('stock')\n@service.method\ndef price(): ...\n",
        shop__front="from .stock import price\nfrom . import stock\nclient.call(price)\nclient.cast(stock.price)\n",
    )
    assert found.graph.edges == (Edge("shop.front", "stock", "price"),)


def test_what_cannot_be_told_is_said_with_its_place_and_what_is_no_call_is_left_alone(read: Read) -> None:
    code = """
import subprocess
from warren import Client

def main(client: Client, pool, name):
    client.call(name)
    pool.map(len, [])
    subprocess.call("a.b")
    client.call("not a name. x")
"""
    found = read("odd", odd=code)
    assert [(spot.path.name, spot.line) for spot in found.unknown] == [("odd.py", 6), ("odd.py", 9)]
    assert found.graph.edges == ()


def test_what_is_no_module_and_what_is_no_python_are_told(read: Read) -> None:
    with pytest.raises(SourceError, match="there is no module 'nothing'"):
        read("nothing")
    with pytest.raises(SourceError, match="cannot be read"):
        read("broken", broken="def (")
    with pytest.raises(SourceError, match="there is no module"):
        read("../etc/passwd")


def test_the_shop_is_read_as_it_is() -> None:
    """What examples/shop declares; its services are in files of their own."""
    folder = ROOT / "examples" / "shop"
    names = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("test")]
    found = read_modules(sorted(names), folder)
    assert {edge.service for edge in found.graph.edges} >= {"inventory"}
    assert {edge.caller for edge in found.graph.edges} >= {"orders"}
