"""What running processes say of themselves, as far as it is shown. Pure.

All of it is claims of peers. Here its shape is checked, names and texts are escaped and cut, and the number of
each is bounded. What is unknown in it is left out, so that versions can mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec

from warren.histogram import Histogram
from warren.printable import printable

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

#: What is shown of all processes together, and what of one service.
MOST_INSTANCES, MOST_SERVICES, MOST_METHODS, MOST_CALLS = 200, 100, 200, 300
#: Characters of a name, and of a longer text; names below a method: callers, ways to fail.
NAME, TEXT, MOST_NAMES = 200, 4000, 50
#: Bytes of a schema that is shown.
MOST_SCHEMA = 64 * 1024


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: The number of a bucket: beyond the largest that `Histogram` makes there are no durations.
Bucket = Annotated[int, msgspec.Meta(ge=0, le=3000)]


class Durations(msgspec.Struct, frozen=True):
    """What `Histogram.from_object` reads."""

    total: float = 0.0
    low: float = 0.0
    high: float = 0.0
    buckets: dict[Bucket, Count] = {}

    def histogram(self) -> Histogram:
        return Histogram.from_object({"total": self.total, "low": self.low, "high": self.high, "buckets": self.buckets})


class Caller(msgspec.Struct, frozen=True):
    """What a caller has asked of a method."""

    count: Count = 0
    failed: Count = 0


class MethodStats(msgspec.Struct, frozen=True):
    """What a process has done of a method."""

    ended: Count = 0
    failed: dict[str, Count] = {}
    wait: Durations = Durations()
    work: Durations = Durations()
    callers: dict[str, Caller] = {}


class ServiceStats(msgspec.Struct, frozen=True):
    """What a process has done of a service, and does now."""

    running: Count = 0
    waiting: Count = 0
    concurrency: Count = 0
    methods: dict[str, MethodStats] = {}
    refused: dict[str, dict[str, Count]] = {}


class Usage(msgspec.Struct, frozen=True):
    """What a process takes: seconds of CPU, bytes of memory, seconds that its loop was late."""

    cpu: float = 0.0
    memory: Count | None = None
    lag: float = 0.0
    reconnects: Count = 0


class Stats(msgspec.Struct, frozen=True):
    """What a process says to ``stats``."""

    uptime: float = 0.0
    process: Usage = Usage()
    services: dict[str, ServiceStats] = {}


class MethodInfo(msgspec.Struct, frozen=True):
    """A method, as it is declared."""

    name: str
    doc: str | None = None
    signature: str = ""
    delivery: str = ""
    max_attempts: int | None = None
    time_limit: float | None = None
    concurrency: int | None = None
    default: bool = False
    is_async: bool = False
    arguments: Any = None
    result: Any = None


class ServiceInfo(msgspec.Struct, frozen=True):
    """A service, as it is declared."""

    name: str
    version: str | None = None
    description: str | None = None
    queue: str = ""
    max_length: int | None = None
    methods: list[MethodInfo] = []


class Info(msgspec.Struct, frozen=True):
    """What a process says to ``info``."""

    name: str = ""
    host: str = ""
    pid: int = 0
    started: float = 0.0
    state: str = ""
    warren: str = ""
    python: str = ""
    control: str = ""
    services: list[ServiceInfo] = []


class Call(msgspec.Struct, frozen=True):
    """A request that a process has in hand; `age` and `left` are seconds."""

    service: str
    method: str | None = None
    call_id: str | None = None
    caller: str | None = None
    age: float = 0.0
    left: float | None = None
    attempt: int = 1
    kind: str = ""
    state: str = ""


class Calls(msgspec.Struct, frozen=True):
    """What a process says to ``calls``."""

    calls: list[Call] = []


class Health(msgspec.Struct, frozen=True):
    """What a process says to ``health``."""

    healthy: bool = False
    state: str = ""


def read(kind: type[T], body: Mapping[str, Any]) -> T:
    """What a process has said, with all texts escaped and cut.

    Raises:
        ValueError: it is not of the shape that is agreed.
    """
    said = msgspec.convert(body, kind, str_keys=True)
    return _CLEAN[kind](said)  # type: ignore[no-any-return]


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
        for field in ("service", "method", "call_id", "caller", "kind", "state")
    }
    return msgspec.structs.replace(call, **names)


def _health(health: Health) -> Health:
    return msgspec.structs.replace(health, state=name(health.state))


_CLEAN: Mapping[type, Any] = {Stats: _stats, Info: _info, Calls: _calls, Health: _health}
