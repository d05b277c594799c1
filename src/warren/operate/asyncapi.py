"""A service as an AsyncAPI 3.1 document: for each method a request channel, a reply channel and an operation. Pure.

A method that yields has messages with items in its reply channel; one that takes items has a channel more for those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warren.operate.schemas import Definitions, errors, plain_name, terms
from warren.operate.told import MethodInfo, ServiceInfo
from warren.protocol import topology
from warren.protocol.streaming import ITEM
from warren.protocol.uploading import END, TAKEN, kind_between

_BINDING = "0.3.0"
_FORMAT = "application/schema+json;version=draft-07"


def document(service: ServiceInfo, host: str, vhost: str, *, tls: bool) -> dict[str, Any]:
    """The document; `host` is the broker's, without user and password."""
    definitions = Definitions(plain_name)
    methods = {plain_name(method.name): method for method in service.methods}
    messages = {name: _messages(method, definitions) for name, method in methods.items()}
    channels = {name: _channels(name, service.name, vhost, messages[name]) for name in methods}
    return {
        "asyncapi": "3.1.0",
        "info": _info(service),
        "defaultContentType": "application/json",
        "servers": {"broker": {"host": host, "protocol": "amqps" if tls else "amqp", "protocolVersion": "0-9-1"}},
        "channels": {name: channel for found in channels.values() for name, channel in found.items()},
        "operations": {
            name: operation
            for of, method in methods.items()
            for name, operation in _operations(of, method, messages[of]).items()
        },
        "components": {
            "messages": {f"{of}.{kind}": message for of, found in messages.items() for kind, message in found.items()},
            "schemas": {name: _schema(schema) for name, schema in sorted(definitions.all.items())},
        },
    }


def _info(service: ServiceInfo) -> dict[str, Any]:
    info: dict[str, Any] = {"title": service.name, "version": service.version or "0.0.0"}
    info["x-warren"] = {"errors": errors(service)}
    return info | ({"description": service.description} if service.description else {})


#: The messages of a call with items that are no replies: those that its caller sends behind the request.
_SENT = ("sent", "end")


def _replies(messages: Mapping[str, Any]) -> list[str]:
    return [kind for kind in messages if kind not in ("request", *_SENT)]


def _channels(name: str, service: str, vhost: str, messages: Mapping[str, Any]) -> dict[str, Any]:
    def of(*kinds: str) -> dict[str, Any]:
        return {kind: _ref(f"components/messages/{name}.{kind}") for kind in kinds}

    queue = topology.service_queue(service)
    said = {"name": queue, "durable": True, "exclusive": False, "autoDelete": False, "vhost": vhost}
    channels = {
        f"{name}.request": {
            "address": queue,
            "messages": of("request"),
            "bindings": {"amqp": {"is": "queue", "queue": said, "bindingVersion": _BINDING}},
        },
        f"{name}.reply": {
            "address": None,
            "messages": of(*_replies(messages)),
        },
    }
    if "sent" in messages:
        control = {"name": topology.CONTROL_EXCHANGE, "type": "direct", "durable": True, "vhost": vhost}
        channels[f"{name}.items"] = {
            "address": None,
            "description": "The routing key is that which the worker tells in the reply channel (taken).",
            "messages": of(*_SENT),
            "bindings": {"amqp": {"is": "routingKey", "exchange": control, "bindingVersion": _BINDING}},
        }
    return channels


def _operations(name: str, method: MethodInfo, messages: Mapping[str, Any]) -> dict[str, Any]:
    request, reply, items = (f"channels/{name}.{channel}" for channel in ("request", "reply", "items"))
    operation = {
        "action": "receive",
        "channel": _ref(request),
        "messages": [_ref(f"{request}/messages/request")],
        "x-warren": terms(method),
        "reply": {
            "address": {"location": "$message.header#/replyTo"},
            "channel": _ref(reply),
            "messages": [_ref(f"{reply}/messages/{kind}") for kind in _replies(messages)],
        },
    }
    operations = {name: operation | _described(method)}
    if "sent" in messages:
        sent = [_ref(f"{items}/messages/{kind}") for kind in _SENT]
        operations[f"{name}.items"] = {"action": "receive", "channel": _ref(items), "messages": sent}
    return operations


def _described(method: MethodInfo) -> dict[str, str]:
    lines = (method.doc or "").strip().splitlines()
    return {"summary": lines[0], "description": (method.doc or "").strip()} if lines else {}


def _messages(method: MethodInfo, definitions: Definitions) -> dict[str, Any]:
    def payload(schema: Any) -> dict[str, Any]:
        return _schema(definitions.taken_in(schema, lambda name: _ref(f"components/schemas/{name}/schema")))

    name, kind = method.name, kind_between(takes=method.takes, streams=method.streams)
    messages = {"request": _message(name, payload(method.arguments), "replyTo", type=name + kind.mark)}
    if method.streams:
        messages["item"] = _message(f"{name} items", _array(payload(method.result)), type=ITEM.decode())
    if method.takes:
        messages["taken"] = _message(f"{name} taken", None, type=TAKEN.decode())
        messages["sent"] = _message(f"{name} sent", _array(payload(method.taken)), "replyTo", type=ITEM.decode())
        messages["end"] = _message(f"{name} end", None, "replyTo", type=END.decode())
    result = _schema({"type": "integer", "minimum": 0}) if method.streams else payload(method.result)
    return messages | {
        "result": _message(f"{name} result", result),
        "error": _message(f"{name} error", _PROBLEM),
    }


def _message(name: str, payload: Any, *headers: str, type: str = "") -> dict[str, Any]:
    """A message; `type` is the AMQP property, `payload` None where the body is empty."""
    message = {
        "name": name,
        "correlationId": {"location": "$message.header#/correlationId"},
        "headers": _headers(*headers),
    }
    if payload is not None:
        message["payload"] = payload
    if type:
        message["bindings"] = {"amqp": {"messageType": type, "bindingVersion": _BINDING}}
    return message


def _array(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Several items, as they travel."""
    return {**payload, "schema": {"type": "array", "items": payload["schema"]}}


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
