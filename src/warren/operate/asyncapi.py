"""A service as an AsyncAPI 3.1 document: for each method a request channel, a reply channel and an operation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warren.operate.schemas import Definitions, plain_name
from warren.operate.told import MethodInfo, ServiceInfo
from warren.protocol import topology

_BINDING = "0.3.0"
_FORMAT = "application/schema+json;version=draft-07"


def document(service: ServiceInfo, host: str, vhost: str, *, tls: bool) -> dict[str, Any]:
    """The document; `host` is the broker's, without user and password."""
    definitions = Definitions(plain_name)
    methods = {plain_name(m.name): m for m in service.methods if not (m.streams or m.takes)}
    messages = {name: _messages(method, definitions) for name, method in methods.items()}
    channels = {name: _channels(name, service.name, vhost) for name in methods}
    return {
        "asyncapi": "3.1.0",
        "info": _info(service),
        "defaultContentType": "application/json",
        "servers": {"broker": {"host": host, "protocol": "amqps" if tls else "amqp", "protocolVersion": "0-9-1"}},
        "channels": {name: channel for found in channels.values() for name, channel in found.items()},
        "operations": {name: _operation(name, method) for name, method in methods.items()},
        "components": {
            "messages": {f"{of}.{kind}": message for of, found in messages.items() for kind, message in found.items()},
            "schemas": {name: _schema(schema) for name, schema in sorted(definitions.all.items())},
        },
    }


def _info(service: ServiceInfo) -> dict[str, Any]:
    info = {"title": service.name, "version": service.version or "0.0.0"}
    return info | ({"description": service.description} if service.description else {})


def _channels(name: str, service: str, vhost: str) -> dict[str, Any]:
    queue = topology.service_queue(service)
    said = {"name": queue, "durable": True, "exclusive": False, "autoDelete": False, "vhost": vhost}
    return {
        f"{name}.request": {
            "address": queue,
            "messages": {"request": _ref(f"components/messages/{name}.request")},
            "bindings": {"amqp": {"is": "queue", "queue": said, "bindingVersion": _BINDING}},
        },
        f"{name}.reply": {
            "address": None,
            "messages": {kind: _ref(f"components/messages/{name}.{kind}") for kind in ("result", "error")},
        },
    }


def _operation(name: str, method: MethodInfo) -> dict[str, Any]:
    request, reply = f"channels/{name}.request", f"channels/{name}.reply"
    operation = {
        "action": "receive",
        "channel": _ref(request),
        "messages": [_ref(f"{request}/messages/request")],
        "reply": {
            "address": {"location": "$message.header#/replyTo"},
            "channel": _ref(reply),
            "messages": [_ref(f"{reply}/messages/{kind}") for kind in ("result", "error")],
        },
    }
    return operation | _described(method)


def _described(method: MethodInfo) -> dict[str, str]:
    lines = (method.doc or "").strip().splitlines()
    return {"summary": lines[0], "description": (method.doc or "").strip()} if lines else {}


def _messages(method: MethodInfo, definitions: Definitions) -> dict[str, Any]:
    def payload(schema: Any) -> dict[str, Any]:
        return _schema(definitions.taken_in(schema, lambda name: _ref(f"components/schemas/{name}/schema")))

    identified = {"correlationId": {"location": "$message.header#/correlationId"}}
    return {
        "request": {
            "name": method.name,
            **identified,
            "headers": _headers("replyTo"),
            "payload": payload(method.arguments),
        },
        "result": {
            "name": f"{method.name} result",
            **identified,
            "headers": _headers(),
            "payload": payload(method.result),
        },
        "error": {"name": f"{method.name} error", **identified, "headers": _headers(), "payload": _PROBLEM},
    }


#: What an error says, beside its status in the headers: docs/wire.md has all of it.
_PROBLEM: dict[str, Any] = {
    "schemaFormat": _FORMAT,
    "schema": {
        "type": "object",
        "properties": {"detail": {"type": "string"}, "type": {"type": "string"}},
        "additionalProperties": True,
    },
}


def _headers(*more: str) -> dict[str, Any]:
    """The AMQP properties that matter: AsyncAPI has no other place for them."""
    return {"type": "object", "properties": {name: {"type": "string"} for name in ("correlationId", *more)}}


def _schema(schema: Any) -> dict[str, Any]:
    return {"schemaFormat": _FORMAT, "schema": _as_draft_07(schema)}


def _as_draft_07(schema: Any) -> Any:
    """Tuples were written otherwise in draft 7, which is what AsyncAPI takes."""
    if isinstance(schema, list):
        return [_as_draft_07(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _as_draft_07(value) for key, value in schema.items()}
    if isinstance(made.get("prefixItems"), list):
        made["additionalItems"] = made.pop("items", True)
        made["items"] = made.pop("prefixItems")
    return made


def _ref(path: str) -> dict[str, str]:
    return {"$ref": f"#/{path}"}
