"""Both type checkers take what `warren stubs` writes, and what is called with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

from warren.operate.stubs import module
from warren.operate.told import ErrorInfo, MethodInfo, ServiceInfo

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "price": {"type": "number", "default": 1},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        "when": {"type": "string", "format": "date-time"},
        "parent": {"anyOf": [{"$ref": "#/$defs/Item"}, {"type": "null"}], "default": None},
        "kind": {"$ref": "#/$defs/Kind"},
    },
    "required": ["name"],
}
PLACE = {
    "type": "object",
    "properties": {
        "item": {"$ref": "#/$defs/Item"},
        "qty": {"type": "integer"},
        "mode": {"enum": ["fast", "slow"]},
        "ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
    },
    "required": ["item"],
    "$defs": {"Item": ITEM, "Kind": {"enum": ["a", "b"]}},
}
FIB = {"properties": {"n": {"type": "integer"}}}
SIGNATURE = "place(item: Item, qty: int = 1, *, mode: str = 'fast', ids: list = …)"
CALC = ServiceInfo(
    "calc",
    methods=[
        MethodInfo("fib", "Fib.", "fib(n: int) -> int", arguments=FIB, result={"type": "integer"}),
        MethodInfo("place", "", SIGNATURE, arguments=PLACE, result={"type": "null"}),
        MethodInfo("untyped", None, "untyped(a, b=2)"),
    ],
)
IMAGE = {
    "type": "object",
    "properties": {"url": {"type": "string"}, "width": {"type": "integer", "default": 3}},
    "required": ["url"],
}
AN_IMAGE = {"$ref": "#/$defs/Image", "$defs": {"Image": IMAGE}}
URL = {"properties": {"url": {"type": "string"}}, "required": ["url"]}
TAKES_AN_IMAGE = {"properties": {"image": {"$ref": "#/$defs/Image"}}, "$defs": {"Image": IMAGE}}
GONE, MOVED = ErrorInfo("Gone", "It is gone."), ErrorInfo("Moved", None, "Gone")
IMAGES = ServiceInfo(
    "images",
    methods=[MethodInfo("fetch", None, "fetch(url: str) -> Image", arguments=URL, result=AN_IMAGE)],
    errors=[MOVED, GONE, ErrorInfo("Full", None, "Overloaded")],
)
STORE = ServiceInfo(
    "store",
    methods=[
        MethodInfo("fetch", None, "fetch(url: str) -> str", arguments=URL, result={"type": "string"}),
        MethodInfo("put", None, "put(image: Image) -> int", arguments=TAKES_AN_IMAGE, result={"type": "integer"}),
    ],
    errors=[GONE],
)
USES = """
from warren import AsyncClient, Client, Overloaded, Pipeline
import apis
import calc_api

def pass_on(client: Client, url: str) -> int:
    try:
        return client.call(Pipeline(apis.images.fetch).then(apis.store.put), url)
    except apis.Gone as error:
        raise Overloaded(str(error)) from error

def use_several(client: Client) -> str:
    client.call(apis.store.put, apis.Image("https://", 2))
    return client.call(apis.store.fetch, "https://")

def use(client: Client) -> int:
    client.call(calc_api.place, calc_api.Item("tea", 1.5), 2)
    client.call(calc_api.untyped, 1)
    return client.call(calc_api.fib, 30)

async def use_async(client: AsyncClient) -> int:
    return await client.call(calc_api.fib, n=30)
"""
WRONG = """
from warren import Client, Pipeline
import apis
import calc_api

def misuse(client: Client) -> str:
    client.call(calc_api.place, "tea")
    return client.call(calc_api.fib, 30)

def mistake() -> None:
    Pipeline(apis.store.fetch).then(apis.store.put)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "calc_api.py").write_text(module(CALC))
    (tmp_path / "apis.py").write_text(module(IMAGES, STORE))
    (tmp_path / "uses.py").write_text(USES)
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_mypy_takes_them_strictly_and_knows_their_types(folder: Path) -> None:
    out, err, status = api.run(
        ["--strict", "--cache-dir=.mypy", "--no-error-summary", "calc_api.py", "apis.py", "uses.py"]
    )
    assert (out, err, status) == ("", "", 0)
    out, _err, _status = api.run(["--strict", "--cache-dir=.mypy", "--no-error-summary", "wrong.py"])
    assert [line.partition(": ")[0] for line in out.splitlines() if ": error:" in line] == [
        "wrong.py:7",
        "wrong.py:8",
        "wrong.py:11",
    ]


def test_pyright_takes_them(folder: Path) -> None:
    command = [sys.executable, "-m", "basedpyright", "--level=error", "--outputjson", f"--pythonpath={sys.executable}"]
    done = subprocess.run(
        [*command, "calc_api.py", "apis.py", "uses.py", "wrong.py"], cwd=folder, capture_output=True, text=True
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 4, done.stderr
    assert {Path(complaint["file"]).name for complaint in report["generalDiagnostics"]} == {"wrong.py"}
