"""What a method takes and returns, as JSON Schema: for people and tools that do not share its code. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from warren.protocol.signature import Method

#: Bytes of the largest schema that is told.
MAX_SCHEMA = 32 * 1024

Schema = dict[str, Any]


def arguments_schema(method: Method) -> Schema | None:
    """An object with one property for each argument, in their order; None where a type cannot be described."""
    try:
        properties, definitions = _described(method.hints, _as_it_is_read)
    except Exception:  # types of the user's may raise anything
        return None
    required = [name for name in method.hints if name in method.required_names]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return _bounded(schema, definitions)


def result_schema(method: Method) -> Schema | None:
    """What it returns, or each item that it yields; None where its type cannot be described."""
    hint = method.item_hint if method.streams else method.result_hint
    try:
        properties, definitions = _described({"result": hint}, _as_it_is_written)
    except Exception:  # see above
        return None
    return _bounded(properties["result"], definitions)


def taken_schema(method: Method) -> Schema | None:
    """Each item that it takes; None where it takes none, or their type cannot be described."""
    if not method.takes:
        return None
    try:
        properties, definitions = _described({"taken": method.taken_hint}, _as_it_is_read)
    except Exception:  # see above
        return None
    return _bounded(properties["taken"], definitions)


def _described(hints: Mapping[str, Any], own: Callable[[type], Schema]) -> tuple[Schema, Schema]:
    """The schema of each type, and what these refer to."""
    schemas, components = msgspec.json.schema_components(hints.values(), schema_hook=own, ref_template="#/$defs/{name}")
    definitions = dict(components)
    found = [_lifted(schema, definitions) for schema in schemas]
    for name in list(components):
        definitions[name] = _lifted(definitions[name], definitions)
    return dict(zip(hints, found, strict=True)), definitions


def _as_it_is_read(kind: type) -> Schema:
    """The schema of what a Pydantic model takes."""
    return _own_schema(kind, "validation")


def _as_it_is_written(kind: type) -> Schema:
    """The schema of what a Pydantic model is written as: computed fields are in it, and some names and types differ."""
    return _own_schema(kind, "serialization")


def _own_schema(kind: type, mode: str) -> Schema:
    """The schema of a Pydantic model.

    Raises:
        NotImplementedError: it is none, so that msgspec says that it does not know it either.
    """
    if not hasattr(kind, "model_json_schema"):
        raise NotImplementedError
    schema: Schema = kind.model_json_schema(mode=mode)
    return schema


def _lifted(schema: Any, definitions: Schema) -> Any:
    """A schema without definitions of its own: references are looked up from the top, so they have to be there.

    Raises:
        ValueError: two types have the same name there.
    """
    if isinstance(schema, list):
        return [_lifted(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    own = schema.get("$defs", {})
    for name, definition in own.items():
        if definitions.setdefault(name, definition) != definition:
            raise ValueError(f"two types are called {name!r}: rename one")
    return {key: _lifted(value, definitions) for key, value in schema.items() if key != "$defs"}


def _bounded(schema: Schema, definitions: Schema) -> Schema | None:
    whole = {**schema, "$defs": definitions} if definitions else schema
    try:
        fits = len(msgspec.json.encode(whole)) <= MAX_SCHEMA
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):  # a default that JSON cannot carry
        return None
    return whole if fits else None
