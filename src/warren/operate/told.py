"""What running processes say of themselves, as far as tools read it. Pure.

All of it is what peers claim: it is checked here and nowhere else, and escaped where it is shown. What is unknown in it
is left out, so that versions can mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from warren.histogram import Histogram

T = TypeVar("T", bound=msgspec.Struct)

#: Levels of an answer, schemas included.
DEEPEST = 100
#: How often something happened: a number that a float can hold, too.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: A time that can be shown, before or after another.
Seconds = Annotated[float, msgspec.Meta(ge=-(2**53), le=2**53)]


class Process(msgspec.Struct, frozen=True):
    """A server process: what it says to ``ping``."""

    name: str = ""
    host: str = ""
    pid: Count = 0
    started: Seconds = 0.0
    state: str = ""
    warren: str = ""
    python: str = ""
    services: list[str] = []
    consumers: dict[str, Count] = {}


class MethodInfo(msgspec.Struct, frozen=True):
    """A method, as it is declared; schemas are JSON Schema.

    `result` is that of an item where it `streams`, and `taken` that of an item where it `takes` some.
    """

    name: str
    doc: str | None = None
    signature: str = ""
    delivery: str = "report"
    max_attempts: Count | None = None
    time_limit: Seconds | None = None
    concurrency: Count | None = None
    default: bool = False
    is_async: bool = False
    streams: bool = False
    takes: bool = False
    broadcast: bool = False
    resumable: bool = False
    arguments: Any = None
    taken: Any = None
    result: Any = None


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error that a service has registered; `base` is what callers know it by, if they do not know it."""

    name: str
    doc: str | None = None
    base: str = "Exception"


class ServiceInfo(msgspec.Struct, frozen=True):
    """A service, as it is declared."""

    name: str
    version: str | None = None
    description: str | None = None
    queue: str = "classic"
    concurrency: Count | None = None
    max_length: Count | None = None
    methods: list[MethodInfo] = []
    errors: list[ErrorInfo] = []


class Info(msgspec.Struct, frozen=True):
    """What a process says to ``info``."""

    name: str = ""
    host: str = ""
    pid: Count = 0
    started: Seconds = 0.0
    state: str = ""
    warren: str = ""
    python: str = ""
    control: str = ""
    connection: str | None = None
    services: list[ServiceInfo] = []

    def service(self, name: str) -> ServiceInfo | None:
        """The service of this name."""
        return next((service for service in self.services if service.name == name), None)


class Caller(msgspec.Struct, frozen=True):
    """What a caller has asked of a method; `total` is seconds of work."""

    count: Count = 0
    failed: Count = 0
    total: Seconds = 0.0


class MethodStats(msgspec.Struct, frozen=True):
    """What a method has done; durations are what `Histogram.from_object` reads."""

    ended: Count = 0
    failed: dict[str, Count] = {}
    wait: dict[str, Any] = {}
    work: dict[str, Any] = {}
    callers: dict[str, Caller] = {}


class Lately(msgspec.Struct, frozen=True):
    """How many calls have ended in the last seconds."""

    ended: Count = 0
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    @property
    def rate(self) -> float:
        """Per second; of what has just begun, as if it were there for a second."""
        return self.ended / max(1.0, self.seconds)


class ServiceStats(msgspec.Struct, frozen=True):
    """What a process has done of a service."""

    running: Count = 0
    waiting: Count = 0
    concurrency: Count = 0
    methods: dict[str, MethodStats] = {}
    refused: dict[str, dict[str, Count]] = {}
    lately: Lately | None = None


class Usage(msgspec.Struct, frozen=True):
    """What a process takes: seconds of CPU, bytes of memory, seconds that its loop was late; None is not known."""

    cpu: Seconds | None = None
    memory: Count | None = None
    lag: Seconds | None = None
    reconnects: Count = 0


class Stats(msgspec.Struct, frozen=True):
    """What a process says to ``stats``."""

    uptime: Seconds = 0.0
    process: Usage = Usage()
    services: dict[str, ServiceStats] = {}


class Call(msgspec.Struct, frozen=True):
    """A call that a process has; `age` and `left` are seconds."""

    service: str
    method: str | None = None
    call_id: str | None = None
    caller: str | None = None
    user: str | None = None
    age: Seconds = 0.0
    left: Seconds | None = None
    attempt: Count = 1
    kind: str = "call"
    state: str = "running"


class Calls(msgspec.Struct, frozen=True):
    """What a process says to ``calls``, and how many it left out, as they were too many."""

    calls: list[Call] = []
    left_out: Count = 0


class Checks(msgspec.Struct, frozen=True):
    """What was looked at for ``health``."""

    connection: bool = False
    consuming: dict[str, bool] = {}


class Health(msgspec.Struct, frozen=True):
    """What a process says to ``health``."""

    healthy: bool = False
    state: str = ""
    checks: Checks = Checks()


class Done(msgspec.Struct, frozen=True):
    """What a process says to a verb that acts."""

    state: str = ""
    cancelled: Count = 0


class Places(msgspec.Struct, frozen=True):
    """What a process says to ``concurrency``: how many calls of a service it serves at a time."""

    service: str = ""
    concurrency: int = 0
    was: int | None = None


class Loudness(msgspec.Struct, frozen=True):
    """What a process says to ``log-level``: from which level on somebody logs."""

    logger: str = ""
    level: str = ""
    was: str | None = None


def read(kind: type[T], body: Mapping[str, Any]) -> T:
    """What a process has said.

    Raises:
        ValueError: it is not of the shape that is agreed.
    """
    if _deep(body):
        raise ValueError(f"it is nested deeper than {DEEPEST} levels: send less")
    told = msgspec.convert(body, kind)
    if isinstance(told, Stats):
        for service in told.services.values():
            for method in service.methods.values():
                durations(method.wait), durations(method.work)
    return told


def _deep(value: Any) -> bool:
    """Whether something is nested deeper than what it is written with could follow."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inner(one)]
    return bool(level)


def _inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def durations(said: Mapping[str, Any]) -> Histogram:
    """Durations as a process has counted them; nothing said is none.

    Raises:
        ValueError: they are no histogram.
    """
    return Histogram.from_object(said) if said else Histogram()
