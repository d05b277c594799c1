"""AsyncAPI's own parser, of npm, takes the documents that `warren schema --asyncapi` writes.

Nothing here skips: without node or the parser it fails (`make interop-js` installs the latter).
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from warren.operate.asyncapi import document
from warren.operate.told import MethodInfo, ServiceInfo

_PROGRAM = Path(__file__).parent / "js" / "asyncapi.js"
_ERROR = 0  # the parser's number for the worst kind

ITEM = {
    "title": "Item",
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"type": "array", "prefixItems": [{"type": "integer"}, {}], "items": False, "minItems": 2},
        "parent": {"anyOf": [{"$ref": "#/$defs/Item"}, {"type": "null"}], "default": None},
    },
    "required": ["name"],
}
OTHER = {"title": "Item", "type": "string"}


def parsed(written: dict[str, Any]) -> Any:
    command = ["node", str(_PROGRAM)]
    done = subprocess.run(command, input=json.dumps(written), capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def place(name: str, definition: Any = ITEM, **more: Any) -> MethodInfo:
    arguments = {
        "type": "object",
        "properties": {"item": {"$ref": "#/$defs/Item"}},
        "required": ["item"],
        "additionalProperties": False,
        "$defs": {"Item": definition},
    }
    return MethodInfo(name, arguments=arguments, result={"type": "integer"}, **more)


@pytest.mark.parametrize(
    "service",
    [
        ServiceInfo("calc", version="1.2", description="Calculates.", methods=[place("fib", doc="Fib.\n\nMore.")]),
        ServiceInfo("two.words", methods=[place("a"), place("b", OTHER), place("take-it"), MethodInfo("any")]),
        ServiceInfo(
            "rows", methods=[place("list", streams=True), place("both", streams=True, takes=True, taken=OTHER)]
        ),
        ServiceInfo("odd", methods=[place("ä/~{x}"), MethodInfo("x", arguments=3, result=[], doc="\x1b[2J")]),
    ],
    ids=lambda service: service.name,
)
def test_the_parser_finds_nothing_to_complain_of(service: ServiceInfo) -> None:
    said = parsed(document(service, "localhost:5672", "/", tls=False))
    assert said["found"] == []
    calls = [operation[1:] for operation in said["operations"] if not operation[0].endswith(".items")]
    assert calls == [["receive", True]] * len(service.methods)


def test_items_have_messages_of_their_own() -> None:
    methods = [
        place("rows", streams=True),
        place("store", takes=True, taken=ITEM),
        place("talk", streams=True, takes=True),
    ]
    written = document(ServiceInfo("calc", methods=methods), "localhost:5672", "/", tls=False)
    messages = written["components"]["messages"]
    types = {name: messages[f"{name}.request"]["bindings"]["amqp"]["messageType"] for name in ("rows", "store", "talk")}
    assert types == {"rows": "rows[]", "store": "store[<]", "talk": "talk[<>]"}
    assert messages["rows.item"]["payload"]["schema"] == {"type": "array", "items": {"type": "integer"}}
    assert messages["rows.result"]["payload"]["schema"] == {"type": "integer", "minimum": 0}
    assert messages["store.sent"]["payload"]["schema"]["items"]["title"] == "Item"
    replies = {name: list(written["channels"][f"{name}.reply"]["messages"]) for name in types}
    assert replies == {
        "rows": ["item", "result", "error"],
        "store": ["taken", "result", "error"],
        "talk": ["item", "taken", "result", "error"],
    }
    assert [name for name in written["operations"] if name.endswith(".items")] == ["store.items", "talk.items"]
    assert parsed(written)["found"] == []


def test_the_parser_does_complain_of_what_is_wrong() -> None:
    written = document(ServiceInfo("calc", methods=[place("fib")]), "localhost:5672", "/", tls=True)
    written["operations"]["fib"]["messages"] = [{"$ref": "#/components/messages/fib.request"}]
    assert _ERROR in {complaint["severity"] for complaint in parsed(written)["found"]}
