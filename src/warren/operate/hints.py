"""JSON Schema as Python types, written: what stubs are made of. Pure.

Whatever a schema says comes from a peer: only names that are checked, and literals, get into what is written.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping
from typing import Any

from warren.operate.schemas import DEEPEST, Definitions

_PLAIN = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "None"}
_FORMATS = {
    "date-time": "datetime.datetime",
    "date": "datetime.date",
    "time": "datetime.time",
    "duration": "datetime.timedelta",
    "uuid": "uuid.UUID",
    "decimal": "decimal.Decimal",
}
_ANY = "Any"
#: What stands for a definition until all are known.
_KNOWN = "x-class"
#: Names that a module of stubs uses itself.
TAKEN = frozenset({"Any", "AsyncIterator", "Literal", "Service", "UNSET", "UnsetType"}) | {
    "service", "uuid", "list", "dict", "set", "tuple", "int", "str", "float", "bool", "bytes", "None",
    "dataclass", "datetime", "decimal", "field",
}  # fmt: skip


def name_of(text: str) -> str:
    """An identifier that is free to be used."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_") or "x"
    name = f"_{name}" if name[0].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in TAKEN else name


class Types:
    """The types of several schemas, and the classes that they need."""

    def __init__(self) -> None:
        self._definitions = Definitions(name_of)

    def hint(self, schema: Any) -> str:
        """A type, as it is written; what cannot be told is `Any`."""
        return _hint(self._definitions.taken_in(schema, lambda name: {_KNOWN: name}), 0)

    @property
    def names(self) -> set[str]:
        """The names of the classes."""
        return set(self._definitions.all)

    def classes(self) -> list[str]:
        """What is to be written for what the types refer to, in an order in which aliases find what they need."""
        written = {name: _definition(name, schema, self.names) for name, schema in self._definitions.all.items()}
        classes = [text for text in written.values() if text.startswith("@")]
        return [*classes, *_in_order({name: text for name, text in written.items() if not text.startswith("@")})]


def _in_order(aliases: Mapping[str, str]) -> list[str]:
    """Each alias behind those that it names; one that leads back to itself may be anything."""
    done: dict[str, str] = {}
    for _ in aliases:
        for name, text in aliases.items():
            needed = set(re.findall(r"\w+", text.partition(" = ")[2])) & set(aliases)
            if name not in done and needed <= set(done):
                done[name] = text
    return [*(f"{name} = {_ANY}" for name in aliases if name not in done), *done.values()]


def _definition(name: str, schema: Any, classes: set[str]) -> str:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or not _are_fields(properties, classes):
        return f"{name} = {_hint(schema, 0)}"
    required = schema.get("required")
    lines = [
        f"    {field}: {_field(one, isinstance(required, list) and field in required)}"
        for field, one in properties.items()
    ]
    given = [" = " not in line for line in lines]
    by_position = given == sorted(given, reverse=True)  # one without a default behind one that has it: by name only
    return "\n".join(["@dataclass" if by_position else "@dataclass(kw_only=True)", f"class {name}:", *lines])


def _are_fields(properties: Mapping[str, Any], classes: set[str]) -> bool:
    """Whether all can be fields of a class, without hiding a type that is used beside them."""
    plain = (re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) and not keyword.iskeyword(name) for name in properties)
    return bool(properties) and all(plain) and not (TAKEN | classes) & set(properties)


def _field(schema: Any, required: bool) -> str:
    hint = _hint(schema, 0)
    if required:
        return hint
    if isinstance(schema, Mapping) and "default" in schema:
        default = schema["default"]
        if (written := literal(default, hint)) is not None:
            return f"{hint} = {written}"
        if default in ([], {}) and hint.startswith(("list[", "dict[")):
            return f"{hint} = field(default_factory={hint[:4]})"
    return f"{hint} | UnsetType = UNSET"


def literal(value: Any, hint: str) -> str | None:
    """A value as it is written, if it is one that type checkers take for this type; else None."""
    kinds: dict[str, tuple[type, ...]] = {
        "int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "None": (type(None),)
    }  # fmt: skip
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return repr(value) if any(isinstance(value, kinds.get(part, ())) for part in hint.split(" | ")) else None


def _hint(schema: Any, depth: int) -> str:
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return _ANY
    if _KNOWN in schema:
        return name_of(str(schema[_KNOWN]))
    if "enum" in schema or "const" in schema:
        return _literal(schema.get("enum", [schema.get("const")]))
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            return _union([_hint(one, depth + 1) for one in schema[word]])
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union([_hint({**schema, "type": one}, depth + 1) for one in kind])
    if kind == "array":
        return _array(schema, depth)
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"dict[str, {_hint(values, depth + 1) if 'properties' not in schema else _ANY}]"
    if kind == "string":
        if schema.get("contentEncoding") == "base64":
            return "bytes"
        return _FORMATS.get(str(schema.get("format")), "str")
    return _PLAIN.get(str(kind), _ANY)


def _array(schema: Mapping[str, Any], depth: int) -> str:
    parts = schema.get("prefixItems")
    if isinstance(parts, list) and parts and schema.get("items") is False:
        return f"tuple[{', '.join(_hint(part, depth + 1) for part in parts)}]"
    items = _hint(schema.get("items"), depth + 1)
    return f"set[{items}]" if schema.get("uniqueItems") is True and items in _PLAIN.values() else f"list[{items}]"


def _literal(values: Any) -> str:
    plain = isinstance(values, list) and all(value is None or isinstance(value, bool | int | str) for value in values)
    return f"Literal[{', '.join(map(repr, values))}]" if plain and values else _ANY


def _union(hints: list[str]) -> str:
    return _ANY if _ANY in hints or not hints else " | ".join(dict.fromkeys(hints))
