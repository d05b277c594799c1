"""What a service has done: always counted, at about a microsecond for each call."""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any, Final

from warren.errors import CallError
from warren.histogram import Histogram
from warren.printable import printable_bytes
from warren.protocol import evidence
from warren.protocol.request import Request
from warren.protocol.signature import Method
from warren.protocol.uploading import own_name
from warren.server.attempt import Attempt
from warren.server.replies import Reply

#: Callers of one method that are counted by name; all others together.
MOST_CALLERS: Final = 200
OTHERS: Final = b"others"
#: Calls of one method that are added up together.
_AT_ONCE: Final = 1024


class CallerStats:
    """What one caller has asked of one method."""

    __slots__ = ("count", "failed", "total")

    def __init__(self) -> None:
        self.count = 0
        self.failed = 0
        self.total = 0.0


class MethodStats:
    """What one method has done.

    A call leaves three numbers and a name in lists; from time to time they are added up, which costs less than adding
    each by itself.

    Attributes:
        failed: how many calls ended in an error, by code and reason.
        wait, work, callers: valid once it was `added_up`. Wait is from the caller's write to the handler's start, of
            calls, as casts do not say when they were sent; work is from there to the reply.
    """

    __slots__ = (
        "add_name", "add_wait", "add_work", "callers", "failed", "names", "wait", "waits", "work", "works",
    )  # fmt: skip

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.works: list[float] = []
        self.names: list[bytes | None] = []
        self.add_wait, self.add_work, self.add_name = self.waits.append, self.works.append, self.names.append
        self.failed: dict[tuple[str, str], int] = {}
        self.wait = Histogram()
        self.work = Histogram()
        self.callers: dict[bytes | None, CallerStats] = {}

    def caller(self, name: bytes | None) -> CallerStats:
        """What is counted for this caller, or for all those beyond the first ones."""
        known = self.callers.get(name)
        if known is None:
            if len(self.callers) >= MOST_CALLERS:
                name = OTHERS
            known = self.callers.setdefault(name, CallerStats())
        return known

    def added_up(self) -> MethodStats:
        """Itself, with nothing left in its lists."""
        names = set(self.names)
        if len(names) == 1:
            caller = self.caller(names.pop())
            caller.count += len(self.works)
            caller.total += sum(self.works)
        else:
            for name, work in zip(self.names, self.works, strict=True):
                caller = self.caller(name)
                caller.count += 1
                caller.total += work
        self.wait.record_all(self.waits)
        self.work.record_all(self.works)
        self.waits.clear()
        self.works.clear()
        self.names.clear()
        return self


def _was_left(attempt: Attempt, failure: CallError) -> bool:
    """Whether the caller of a stream has left its loop, as is usual for one that has no end: that is no failure.

    Where the link is gone, nobody takes its items either.
    """
    given_up = evidence.GIVEN_UP
    said_so = failure.reason == given_up.reason and failure.code is given_up.code
    return said_so and attempt.method.streams and attempt.channel.closed is None


class Statistics:
    """What one service's worker has done.

    Attributes:
        methods: what was begun.
        refusals: how many requests were refused before their handler, by method and reason; the name of a method that
            does not exist is not kept.
    """

    def __init__(self, service: str, known: Container[str | None]) -> None:
        """`known` are the names of the service's methods."""
        self._service = service
        self._known = known
        self.methods: dict[Method, MethodStats] = {}
        self.refusals: dict[tuple[str, str], int] = {}

    def ended(self, attempt: Attempt, reply: Reply) -> float:
        """A handler has ended; returns the seconds that it took."""
        of = self.methods.get(attempt.method)
        if of is None:
            of = self.methods[attempt.method] = MethodStats()
        request, began, deadline = attempt.request, attempt.began, attempt.deadline
        assert request is not None
        work = time.monotonic() - began
        of.add_work(work)
        of.add_name(request.properties.app_id)
        if deadline is not None:  # so it came with a time
            of.add_wait(began - deadline + (request.timeout_ms or 0) / 1000)
        if reply.failure is not None and not _was_left(attempt, reply.failure):
            self._failed(of, request.properties.app_id, reply.failure)
        if len(of.works) >= _AT_ONCE:
            of.added_up()
        return work

    def _failed(self, of: MethodStats, caller: bytes | None, failure: CallError) -> None:
        key = (failure.code.value, failure.reason)
        of.failed[key] = of.failed.get(key, 0) + 1
        of.caller(caller).failed += 1

    def refused(self, request: Request, reason: str) -> None:
        """A request has ended before its handler."""
        method = own_name(request.method, self._service)
        key = (method if method is not None and method in self._known else "", reason)
        self.refusals[key] = self.refusals.get(key, 0) + 1

    @property
    def count(self) -> int:
        """How many handlers have ended."""
        return sum(stats.work.count + len(stats.works) for stats in self.methods.values())

    def as_object(self) -> dict[str, Any]:
        """All of it, as JSON can carry it: by method."""
        return {
            "methods": {method.name: _method_as_object(stats.added_up()) for method, stats in self.methods.items()},
            "refused": _by_method(self.refusals),
        }


def _by_method(refused: dict[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    by_method: dict[str, dict[str, int]] = {}
    for (method, reason), count in refused.items():
        by_method.setdefault(method, {})[reason] = count
    return by_method


def _method_as_object(stats: MethodStats) -> dict[str, Any]:
    return {
        "ended": stats.work.count,
        "failed": {f"{code}/{reason}": count for (code, reason), count in stats.failed.items()},
        "wait": stats.wait.as_object(),
        "work": stats.work.as_object(),
        "callers": {
            "" if name is None else printable_bytes(name): {"count": c.count, "failed": c.failed, "total": c.total}
            for name, c in stats.callers.items()
        },
    }
