"""Stubs are a module that Python and type checkers take, whatever a service says of itself."""

import ast
import sys
from types import ModuleType
from typing import Any, get_type_hints

import msgspec
import pytest

from warren import Overloaded, Service
from warren.operate.stubs import module
from warren.operate.told import ErrorInfo, MethodInfo, ServiceInfo
from warren.protocol.problems import class_name
from warren.protocol.signature import method_of

ITEM = {
    "title": "Item",
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "price": {"type": "number", "default": 1.5},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        "when": {"type": "string", "format": "date-time", "default": "2020-01-01"},
        "parent": {"anyOf": [{"$ref": "#/$defs/Item"}, {"type": "null"}], "default": None},
    },
    "required": ["name"],
}


def method(name: str, signature: str = "", result: Any = None, **properties: Any) -> MethodInfo:
    definitions = properties.pop("definitions", {})
    arguments = {"type": "object", "properties": properties, "required": list(properties), "$defs": definitions}
    return MethodInfo(name, signature=signature, arguments=arguments, result=result)


def load(text: str, name: str = "made_by_a_test") -> ModuleType:
    made = ModuleType(name)
    sys.modules[name] = made  # classes are looked up there
    exec(text, made.__dict__)
    return made


def parameters(text: str) -> list[str]:
    return [ast.unparse(node.args) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]


def test_kinds_and_defaults_are_those_of_the_signature() -> None:
    integer, text = {"type": "integer"}, {"type": "string"}
    signed = method("f", "f(a: int, /, b: str = 'x', *, c: int = …) -> int", integer, a=integer, b=text, c=integer)
    written = module(ServiceInfo("calc", methods=[signed]))
    assert parameters(written) == ["a: int, /, b: str='x', *, c: int=ITS_OWN"]
    assert load(written).service.name == "calc"


def test_a_signature_that_does_not_fit_or_was_cut_is_not_believed() -> None:
    said = method("f", "f(a: int, …", a={"type": "integer"}, b={})
    assert parameters(module(ServiceInfo("calc", methods=[said]))) == ["a: int, b: Any"]


@pytest.mark.parametrize(
    ("schema", "hint"),
    [
        ({"type": "integer", "minimum": 0}, "int"),
        ({"type": "null"}, "None"),
        ({"type": "string", "contentEncoding": "base64"}, "bytes"),
        ({"type": "string", "format": "uuid"}, "uuid.UUID"),
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "set[int]"),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {}], "items": False}, "tuple[int, Any]"),
        ({"type": "object", "additionalProperties": {"type": "array"}}, "dict[str, list[Any]]"),
        ({"enum": ["a", 1, None]}, "Literal['a', 1, None]"),
        ({"enum": [1.5]}, "Any"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "int | None"),
        ({"type": ["integer", "string"]}, "int | str"),
        ({"$ref": "#/$defs/Nothing"}, "Any"),
        ({"type": "no such type"}, "Any"),
        (None, "Any"),
        ("text", "Any"),
    ],
)
def test_schemas_are_types(schema: Any, hint: str) -> None:
    written = module(ServiceInfo("calc", methods=[MethodInfo("f", signature="f()", arguments={}, result=schema)]))
    assert f"def f() -> {hint}:" in written
    load(written)


def test_objects_are_classes_that_travel_and_leave_out_what_is_not_given() -> None:
    said = method("place", item={"$ref": "#/$defs/Item"}, definitions={"Item": ITEM})
    made = load(module(ServiceInfo("shop", methods=[said])))
    item = msgspec.convert({"name": "tea", "parent": {"name": "drinks"}}, made.Item)
    assert item.parent == made.Item(name="drinks")
    assert "when" not in msgspec.to_builtins(item)
    assert method_of(made.place).full_name == "shop.place"


def test_the_same_class_of_two_methods_is_written_once_and_others_of_its_name_beside_it() -> None:
    other = {"title": "Item", "type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    reference = {"$ref": "#/$defs/Item"}
    methods = [
        method("a", x=reference, definitions={"Item": ITEM}),
        method("b", x=reference, definitions={"Item": ITEM}),
        method("c", x=reference, definitions={"Item": other}),
    ]
    written = module(ServiceInfo("shop", methods=methods))
    assert parameters(written) == ["x: Item", "x: Item", "x: Item2"]
    load(written)


def test_delivery_and_names_that_are_none_in_python_stay() -> None:
    methods = [MethodInfo("take-it", delivery="at-least-once", arguments={}), MethodInfo("class", arguments={})]
    made = load(module(ServiceInfo("shop", methods=methods)))
    assert method_of(made.take_it).name == "take-it"
    assert method_of(made.take_it).delivery == "at-least-once"
    assert method_of(made.class_).name == "class"


def test_what_is_resumable_stays_so() -> None:
    rows = MethodInfo("rows", delivery="at-least-once", streams=True, resumable=True, arguments={}, result={})
    assert method_of(load(module(ServiceInfo("shop", methods=[rows]))).rows).resumable


EVIL = "x(): pass\nimport os; os.abort()\n'''\"\"\"\\"


def error(name: str, base: str = "Exception", doc: str | None = None) -> ErrorInfo:
    return ErrorInfo(name, doc, base)


def test_registered_errors_are_classes_that_are_raised_as_themselves() -> None:
    errors = [error("Moved", "Gone"), error("Gone", "KeyError", "It is gone."), error("Full", "Overloaded")]
    made = load(module(ServiceInfo("shop", methods=[MethodInfo("f", arguments={})], errors=errors)))
    assert issubclass(made.Moved, made.Gone)
    assert issubclass(made.Gone, KeyError)
    assert issubclass(made.Full, Overloaded)
    assert method_of(made.f).errors == {"Moved": made.Moved, "Gone": made.Gone, "Full": made.Full}


@pytest.mark.parametrize("name", ["Item", "Any", "ValueError", "Überfüllt", "class", "No Name", EVIL])
def test_an_error_whose_name_is_taken_or_none_is_known_by_it_all_the_same(name: str) -> None:
    said = method("place", item={"$ref": "#/$defs/Item"}, definitions={"Item": ITEM})
    made = load(module(ServiceInfo("shop", methods=[said], errors=[error(name, EVIL, EVIL)])))
    assert list(method_of(made.place).errors) == [class_name(made.service.errors[name])] == [name]
    assert made.service.errors[name].__mro__[1] is Exception


def test_bases_that_lead_in_a_circle_are_none() -> None:
    made = load(module(ServiceInfo("shop", errors=[error("A", "B"), error("B", "A"), error("C", "C")])))
    assert issubclass(made.B, made.A) or issubclass(made.A, made.B)


def test_several_services_are_classes_that_share_what_is_the_same() -> None:
    fetch = method("fetch", result={"$ref": "#/$defs/Item", "$defs": {"Item": ITEM}})
    take = method("fetch", item={"$ref": "#/$defs/Item"}, definitions={"Item": ITEM})
    gone, other = error("Gone"), error("Gone", "KeyError")
    made = load(
        module(
            ServiceInfo("a", methods=[fetch], errors=[gone]),
            ServiceInfo("b.c", methods=[take], errors=[gone]),
            ServiceInfo("Item", methods=[MethodInfo("Item", arguments={})], errors=[other]),
        )
    )
    found = [made.a.fetch, made.b_c.fetch, made.Item_.Item_]
    assert [method_of(stub).full_name for stub in found] == ["a.fetch", "b.c.fetch", "Item.Item"]
    assert get_type_hints(made.a.fetch)["return"] is get_type_hints(made.b_c.fetch)["item"] is made.Item
    assert [method_of(stub).errors["Gone"] for stub in found] == [made.Gone, made.Gone, made.Gone_]
    assert made.a_service.name == "a"


def test_classes_are_made_by_position_where_no_field_without_a_default_comes_behind_one_with() -> None:
    late = {"type": "object", "properties": {"a": {"type": "integer", "default": 1}, "b": {"type": "integer"}}}
    definitions = {"Item": ITEM, "Late": {**late, "required": ["b"]}}
    said = method("f", a={"$ref": "#/$defs/Item"}, b={"$ref": "#/$defs/Late"}, definitions=definitions)
    made = load(module(ServiceInfo("shop", methods=[said])))
    assert made.Item("tea", 2.5) == made.Item(name="tea", price=2.5)
    assert made.Late(b=2).a == 1
    with pytest.raises(TypeError):
        made.Late(1, 2)


@pytest.mark.parametrize(
    "said",
    [
        ServiceInfo(EVIL, methods=[]),
        ServiceInfo("a", methods=[MethodInfo("f", doc=EVIL, arguments={})]),
        ServiceInfo("a", methods=[MethodInfo("f", doc="\n\n", arguments={})]),
        ServiceInfo("a", methods=[MethodInfo(EVIL, arguments={})]),
        ServiceInfo("a", methods=[MethodInfo("f", signature=f"f({EVIL})", arguments=None)]),
        ServiceInfo("a", methods=[MethodInfo("f", signature="f(a=__import__('os').abort())", arguments=None)]),
        ServiceInfo(
            "a", methods=[MethodInfo("f", signature="f(a) -> 0: __import__('os').abort()\ndef g(", arguments=None)]
        ),
        ServiceInfo("a", methods=[method("f", "", None, **{EVIL: {"type": "integer"}})]),
        ServiceInfo("a", methods=[method("f", "f(int: list)", int={"type": "integer"}, definitions={EVIL: ITEM})]),
        ServiceInfo("a", methods=[method("f", a={"$ref": f"#/$defs/{EVIL}"}, definitions={EVIL: ITEM})]),
        ServiceInfo("a", methods=[method("f", a={"enum": [EVIL]})]),
        ServiceInfo("a", methods=[method("f", a={"$ref": "#/$defs/A"}, definitions={"A": {"$ref": "#/$defs/A"}})]),
        ServiceInfo(
            "a",
            methods=[
                method(
                    "Any",
                    a={"$ref": "#/$defs/Service"},
                    definitions={
                        "Service": {
                            "type": "object",
                            "properties": {
                                "a": {"type": "string", "default": EVIL},
                                "f": {"type": "number", "default": 1e999},
                                "Literal": {},
                            },
                        }
                    },
                )
            ],
        ),
        ServiceInfo("a", methods=[MethodInfo("f", arguments={"properties": 3, "required": 4, "$defs": 5}, result=[])]),
        ServiceInfo("a", methods=[MethodInfo("f", arguments={}), MethodInfo("f", arguments={})]),
    ],
)
def test_nothing_that_a_peer_says_gets_out_of_its_place(said: ServiceInfo) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.ClassDef, ast.FunctionDef, ast.Expr)
    tree = ast.parse(module(said))
    assert {type(node) for node in tree.body} <= set(allowed)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert all(isinstance(node.body[-1], ast.Raise) and len(node.body) <= 2 for node in functions)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert calls <= {"Service", "service.stub", "dataclass", "field"}


def test_stubs_are_what_calls_are_made_with() -> None:
    made = load(module(ServiceInfo("calc", methods=[method("fib", "fib(n: int) -> int", n={"type": "integer"})])))
    assert isinstance(made.service, Service)
    assert method_of(made.fib).encode_arguments("application/json", (30,), {}) == b"[30]"
    with pytest.raises(TypeError):
        method_of(made.fib).encode_arguments("application/json", (), {"m": 1})


def test_a_method_that_yields_is_a_stub_of_a_stream() -> None:
    rows = MethodInfo("rows", signature="rows(n: int)", arguments={"properties": {}}, result={"type": "integer"})
    written = module(ServiceInfo("calc", methods=[msgspec.structs.replace(rows, streams=True)]))
    assert "-> AsyncIterator[int]:" in written
    made = method_of(load(written).rows)
    assert made.streams
    assert made.item_hint is int


@pytest.mark.parametrize(("streams", "written"), [(False, "async def f("), (True, "def f(")])
def test_items_that_it_takes_stand_in_front_of_its_arguments(streams: bool, written: str) -> None:
    integer, text = {"type": "integer"}, {"type": "string"}
    arguments = {"type": "object", "properties": {"a": integer}, "required": ["a"]}
    signature = "f(rows: Iterator[str], a: int)"
    takes = MethodInfo(
        "f", signature=signature, takes=True, streams=streams, taken=text, result=integer, arguments=arguments
    )
    made = module(ServiceInfo("calc", methods=[takes]))
    assert f"\n{written}rows: AsyncIterator[str], a: int) -> " in made
    found = method_of(load(made, f"made_{streams}").f)
    assert (found.takes, found.streams, found.taken_hint) == (True, streams, str)
    assert found.encode_arguments("application/json", (7,), {}) == b"[7]"


def test_items_of_a_method_that_tells_no_types_are_written_too() -> None:
    made = module(ServiceInfo("calc", methods=[MethodInfo("f", takes=True)]))
    assert "async def f(items: AsyncIterator[Any], *args: Any, **kwargs: Any) -> Any:" in made
