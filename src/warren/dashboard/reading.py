"""What running processes say of themselves, as far as it is shown. Pure.

All of it is claims of peers, whose shape `warren.operate.told` checks. Here names and texts are escaped and cut, and
there are so many of each at the most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

import msgspec

from warren.operate import told
from warren.operate.told import Call, Calls, Health, Info, MethodInfo, MethodStats, ServiceInfo, ServiceStats, Stats
from warren.printable import printable

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

#: What is shown of all processes together, and what of one service.
MOST_INSTANCES, MOST_SERVICES, MOST_METHODS, MOST_CALLS = 200, 100, 200, 300
#: Characters of a name, and of a longer text; names below a method: callers, ways to fail.
NAME, TEXT, MOST_NAMES = 200, 4000, 50
#: Bytes of a schema that is shown.
MOST_SCHEMA = 64 * 1024


def read(kind: type[T], body: Mapping[str, Any]) -> T:
    """What a process has said, with all texts escaped and cut.

    Raises:
        ValueError: it is not of the shape that is agreed.
    """
    return _CLEAN[kind](told.read(kind, body))  # type: ignore[no-any-return]


def name(text: str) -> str:
    """A name that is safe to show."""
    return _cut(printable(text), NAME)


def prose(text: str | None) -> str | None:
    """A text of several lines that is safe to show."""
    return None if text is None else _cut(printable(text, keep="\n"), TEXT)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def first(mapping: Mapping[str, V], most: int) -> dict[str, V]:
    """So many of them, their names safe to show."""
    return {name(key): value for key, value in islice(mapping.items(), most)}


def _firsts(items: Iterable[T], most: int) -> list[T]:
    return list(islice(items, most))


def _stats(stats: Stats) -> Stats:
    services = {key: _service_stats(said) for key, said in first(stats.services, MOST_SERVICES).items()}
    return msgspec.structs.replace(stats, services=services)


def _service_stats(stats: ServiceStats) -> ServiceStats:
    methods = {key: _method_stats(said) for key, said in first(stats.methods, MOST_METHODS).items()}
    refused = {key: first(said, MOST_NAMES) for key, said in first(stats.refused, MOST_METHODS).items()}
    return msgspec.structs.replace(stats, methods=methods, refused=refused)


def _method_stats(stats: MethodStats) -> MethodStats:
    failed, callers = first(stats.failed, MOST_NAMES), first(stats.callers, 4 * MOST_NAMES)
    return msgspec.structs.replace(stats, failed=failed, callers=callers)


def _info(info: Info) -> Info:
    names = {field: name(getattr(info, field)) for field in ("name", "host", "state", "warren", "python", "control")}
    services = [_service_info(service) for service in _firsts(info.services, MOST_SERVICES)]
    return msgspec.structs.replace(info, services=services, **names)


def _service_info(info: ServiceInfo) -> ServiceInfo:
    methods = [_method_info(method) for method in _firsts(info.methods, MOST_METHODS)]
    return msgspec.structs.replace(
        info,
        name=name(info.name),
        version=None if info.version is None else name(info.version),
        description=prose(info.description),
        queue=name(info.queue),
        methods=methods,
    )


def _method_info(info: MethodInfo) -> MethodInfo:
    return msgspec.structs.replace(
        info,
        name=name(info.name),
        doc=prose(info.doc),
        signature=prose(info.signature),
        delivery=name(info.delivery),
        arguments=_schema(info.arguments),
        result=_schema(info.result),
    )


def _schema(schema: Any) -> Any:
    """A schema that is not larger than a person reads; the browser shows its texts as texts."""
    return schema if isinstance(schema, dict) and len(msgspec.json.encode(schema)) <= MOST_SCHEMA else None


def _calls(said: Calls) -> Calls:
    return Calls([_call(call) for call in _firsts(said.calls, MOST_CALLS)])


def _call(call: Call) -> Call:
    names = {
        field: None if (text := getattr(call, field)) is None else name(text)
        for field in ("service", "method", "call_id", "caller", "user", "kind", "state")
    }
    return msgspec.structs.replace(call, **names)


def _health(health: Health) -> Health:
    return msgspec.structs.replace(health, state=name(health.state))


_CLEAN: Mapping[type, Any] = {Stats: _stats, Info: _info, Calls: _calls, Health: _health}
