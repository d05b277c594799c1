"""The JSON Schemas that a service tells, each with definitions of its own, brought together. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from warren.operate.told import MethodInfo, ServiceInfo

#: Levels of a schema that are followed; what lies deeper may be anything.
DEEPEST = 50
_REF = "#/$defs/"


class Definitions:
    """Definitions of several schemas in one place: those that are the same share a name."""

    def __init__(self, name_for: Callable[[str], str]) -> None:
        """`name_for` makes a name that may be used out of one that was told."""
        self._name_for = name_for
        self._of: dict[str, Any] = {}
        #: By their new names, with references to new names.
        self.all: dict[str, Any] = {}

    def taken_in(self, schema: Any, ref: Callable[[str], Any]) -> Any:
        """The schema without definitions of its own; `ref` makes a reference to a definition by its new name."""
        if not isinstance(schema, Mapping):
            return {}
        own = schema.get("$defs")
        definitions: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
        names = {old: self._name(str(old), definition, definitions) for old, definition in definitions.items()}

        def follow(name: str) -> Any:
            return ref(names[name]) if name in names else {}

        for old, new in names.items():
            if new not in self.all:
                self.all[new] = {}
                self.all[new] = _replaced(definitions[old], follow, 0)
        return _replaced({key: value for key, value in schema.items() if key != "$defs"}, follow, 0)

    def _name(self, old: str, definition: Any, among: Mapping[str, Any]) -> str:
        """A name that is free, or has the very same definition."""
        wanted, number = self._name_for(old), 1
        meaning = (definition, {name: among[name] for name in sorted(among)} if _REF in repr(definition) else None)
        while True:
            name = wanted if number == 1 else f"{wanted}{number}"
            if self._of.setdefault(name, meaning) == meaning:
                return name
            number += 1


def _replaced(schema: Any, follow: Callable[[str], Any], depth: int) -> Any:
    if depth > DEEPEST:
        return {}
    if isinstance(schema, list):
        return [_replaced(one, follow, depth + 1) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return follow(reference.removeprefix(_REF))
    return {str(key): _replaced(value, follow, depth + 1) for key, value in schema.items()}


def plain_name(name: str, other: str = "_") -> str:
    """A name of letters, digits, ``_``, ``-`` and ``.``."""
    return re.sub(r"[^A-Za-z0-9_.-]", other, name) or other


def as_object(service: ServiceInfo) -> dict[str, Any]:
    """A service's methods with their schemas, as it tells them."""
    return {
        "service": service.name,
        "version": service.version,
        "description": service.description,
        "methods": {method.name: _method(method) for method in service.methods},
        "errors": errors(service),
    }


def errors(service: ServiceInfo) -> list[dict[str, Any]]:
    """The errors that a service has registered."""
    return [{"name": error.name, "doc": error.doc, "base": error.base} for error in service.errors]


def _method(method: MethodInfo) -> dict[str, Any]:
    return {
        "signature": method.signature,
        "doc": method.doc,
        **terms(method),
        "arguments": method.arguments,
        "taken": method.taken,
        "result": method.result,
    }


def terms(method: MethodInfo) -> dict[str, Any]:
    """How a method is called and delivered, beside what it takes and returns."""
    return {
        "delivery": method.delivery,
        "max_attempts": method.max_attempts,
        "time_limit": method.time_limit,
        "default": method.default,
        "takes": method.takes,
        "streams": method.streams,
        "resumable": method.resumable,
        "broadcast": method.broadcast,
    }
