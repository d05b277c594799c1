"""Who calls whom is read from the code: nothing of it is run."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.serving import ROOT

from warren.operate.declared import Declared, read_modules
from warren.operate.graph import Edge
from warren.operate.sources import SourceError

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


def test_stubs_that_stand_in_a_class_are_found(read: Read) -> None:
    """As `warren stubs` writes those of several services."""
    apis = """
from warren import Service
a_service = Service("a")

class a:
    @staticmethod
    @a_service.stub(name="fetch-it")
    def fetch(url: str) -> str: ...
"""
    front = """
import apis
from apis import a
from warren import Client
client = Client()
client.call(apis.a.fetch, "x")
client.cast(a.fetch, "x")
"""
    assert read("front", apis=apis, front=front).graph.edges == (Edge("front", "a", "fetch-it"),)


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


# --- what names stand for ---------------------------------------------------------------------------------------------

FOLLOWED = """
import asyncio
from functools import partial
import inventory
from inventory import Orders, count, price, service, take
from warren import AsyncClient, Client, remote

amount = count
stock = inventory
PREFIX = "mail"
BOTH = (price, count)
ALL = {"a": take}
orders = remote(Orders)


def local():
    f = price
    client.call(f, 1)

def either(x):
    f = take if x else count
    client.call(f)

def alias(): client.call(amount)
def module(): client.call(stock.price, 1)
def text(): client.call(f"{PREFIX}.send", 1)
def sum_(): client.call(PREFIX + ".sum")
def of_service(): client.call(f"{service.name}.odd")
def looped():
    for method, n in ((price, 1), (take, 2)):
        client.cast(method, n)
def chosen(key): client.call(ALL[key])
def of_both(): [client.call(one) for one in BOTH]
def bound(): client.call(orders.place)
def in_thread(): asyncio.to_thread(client.call, price, 30)
def halfway(): partial(client.cast, take)(3)
def ask_by_name():
    ask = client.call
    ask(price, 1)
def typed(rpc: AsyncClient): rpc.call(price)
def by_type(client, of: Orders): client.call(of.place)
def walrus(): client.call(price if (f := take) else f)


class Till:
    again = price

    def __init__(self, client):
        self.client = client
        self.orders = remote(Orders)
        self.first, self.second = take, count

    def attribute(self): self.client.call(self.first)
    def second_(self): self.client.call(self.second)
    def inner(self): self.client.call(self.orders.place)
    def of_class(self): self.client.call(self.again, 3)
"""


@pytest.mark.parametrize(
    ("name", "methods"),
    {
        "local": "price", "either": "take-it count", "alias": "count", "module": "price", "looped": "price take-it",
        "chosen": "take-it", "of_both": "price count", "bound": "place", "in_thread": "price", "halfway": "take-it",
        "ask_by_name": "price", "typed": "price", "by_type": "place", "text": "send", "sum_": "sum",
        "of_service": "odd", "walrus": "price take-it", "attribute": "take-it",
        "second_": "count", "inner": "place", "of_class": "price",
    }.items(),
)  # fmt: skip
def test_a_name_is_followed_to_what_it_stands_for(read: Read, name: str, methods: str) -> None:
    tree = ast.parse(FOLLOWED)
    for holder in (tree, tree.body[-1]):
        assert isinstance(holder, ast.Module | ast.ClassDef)
        keep = (name, "__init__")
        holder.body = [n for n in holder.body if not isinstance(n, ast.FunctionDef) or n.name in keep]
    read_ = read("front", inventory=INVENTORY, front=ast.unparse(tree))
    assert {edge.method for edge in read_.graph.edges} == set(methods.split())
    assert read_.unknown == []


def test_methods_that_are_declared_by_a_call_are_known_by_both_names(read: Read) -> None:
    calc = "from warren import Service\nservice = Service('calc')\n"
    calc += "def fib(n): helper()\ndef helper(): client.call('mail.send')\n"
    calc += "known = service.method(name='fibonacci')\npublic = service.method(fib)\nservice.method(helper)\n"
    front = "from warren import Client\nimport calc\ndef go(): client.call(calc.public); client.call(calc.fib)"
    found = read("front", "calc", calc=calc, front=front)
    assert set(found.graph.edges) == {Edge("front", "calc", "fib"), Edge("calc", "mail", "send")}


@pytest.mark.parametrize(
    "code",
    [
        "def go(method): client.call(method)",
        "def go(client, method): client.call(method)",
        "def a():\n for n in {'calc.fib': 1}: client.call(n)\ndef b(x):\n for n in {x: 'a.b'}: client.call(n)",
        "def go():\n f = pick()\n client.call(f)",
        "def go():\n with Client() as c:\n  c.call(pick())",
        "def go(c: Client): c.call(names[0])",
        "class A:\n def __init__(self): self.c = Client()\n def go(self): self.c.call(self.what)",
        "def go(x):\n f = price\n if x: f = x\n client.call(f)",
        "def go(price): client.call(price)",
        "def go():\n for f in all_of_them(): client.call(f)",
        "f = f\ndef go(): client.call(f)",
        "def go():\n f = g\n g = f\n client.call(f)",
    ],
)
def test_what_cannot_be_followed_is_told_and_not_taken_for_something_else(read: Read, code: str) -> None:
    found = read("front", inventory=INVENTORY, front=f"from warren import Client\nfrom inventory import price\n{code}")
    assert len(found.unknown) == 1
    assert {edge.method for edge in found.graph.edges} <= ({"price"} if "f = price" in code else {"fib"})


def test_a_client_of_an_imported_module_is_one_and_what_a_module_calls_itself_is_not(read: Read) -> None:
    front = "import warren, subprocess, rpc, inventory\nrpc.client.call(inventory.price)\nsubprocess.call('a.b')\n"
    front += "rpc.client.call(unknown)\n"
    found = read("front", inventory=INVENTORY, front=front)
    assert [edge.method for edge in found.graph.edges] == ["price"]
    assert [spot.line for spot in found.unknown] == [4]


def test_services_that_are_made_in_one_line_are_told_apart(read: Read) -> None:
    code = "from warren import Client, Service\na, b = Service('one'), Service('two')\n@b.method\ndef f(): ...\n"
    found = read("front", front=f"{code}client.call(f)\nNAME = 'x'\nNAME = 'y'\nclient.call(f'{{NAME}}.f')\n")
    assert found.graph.services == {"one", "two"}
    assert found.graph.edges == (Edge("front", "two", "f"),)
    assert [spot.line for spot in found.unknown] == [8]
