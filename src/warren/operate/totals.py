"""What several processes have counted, added up; and what came between two looks. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warren.histogram import Histogram
from warren.operate.told import Caller, MethodStats, ServiceStats, Stats, durations


@dataclass
class Method:
    """What was done of a method.

    Attributes:
        ended: how many calls; failed by code and reason among them.
        refused: how many came no further than to the worker, by reason.
        wait, work: seconds before the handler, and in it.
        callers: count, failures and seconds by name.
    """

    ended: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wait: Histogram = field(default_factory=Histogram)
    work: Histogram = field(default_factory=Histogram)
    callers: dict[str, Caller] = field(default_factory=dict)

    def add(self, stats: MethodStats, before: MethodStats | None = None) -> None:
        """Add what one process has counted, since `before` if given."""
        before = before or MethodStats()
        self.ended += stats.ended - before.ended
        self.failed.update(_grown(stats.failed, before.failed))
        self.wait.add(since(durations(stats.wait), durations(before.wait)))
        self.work.add(since(durations(stats.work), durations(before.work)))
        for name, caller in stats.callers.items():
            self._add_caller(name, caller, before.callers.get(name, Caller()))

    def _add_caller(self, name: str, now: Caller, before: Caller) -> None:
        known = self.callers.get(name, Caller())
        self.callers[name] = Caller(
            known.count + now.count - before.count,
            known.failed + now.failed - before.failed,
            known.total + now.total - before.total,
        )

    def join(self, other: Method) -> None:
        """Add another method's, for a sum over all of a service."""
        self.ended += other.ended
        self.failed.update(other.failed)
        self.refused.update(other.refused)
        self.wait.add(other.wait)
        self.work.add(other.work)

    def as_object(self) -> dict[str, Any]:
        """As JSON can carry it; durations in seconds."""
        return {
            "ended": self.ended,
            "failed": dict(self.failed),
            "refused": dict(self.refused),
            "wait": percentiles(self.wait),
            "work": percentiles(self.work),
            "callers": {name: {"count": c.count, "failed": c.failed, "total": c.total} for name, c in self._callers()},
        }

    def _callers(self) -> list[tuple[str, Caller]]:
        return sorted(((name, c) for name, c in self.callers.items() if c.count), key=lambda pair: -pair[1].count)


@dataclass
class Service:
    """What was done of a service, and what it does now.

    Attributes:
        rate: calls that ended per second in the last ten or so; None where a process does not say it.
    """

    instances: int = 0
    rate: float | None = 0.0
    running: int = 0
    waiting: int = 0
    concurrency: int = 0
    methods: dict[str, Method] = field(default_factory=dict)

    def add(self, stats: ServiceStats, before: ServiceStats | None = None) -> None:
        """Add what one process says."""
        before = before or ServiceStats()
        self.instances += 1
        self.running += stats.running
        self.waiting += stats.waiting
        self.concurrency += stats.concurrency
        self.rate = None if self.rate is None or stats.lately is None else self.rate + stats.lately.rate
        for name, method in stats.methods.items():
            self.methods.setdefault(name, Method()).add(method, before.methods.get(name))
        for name, reasons in stats.refused.items():
            grown = _grown(reasons, before.refused.get(name, {}))
            self.methods.setdefault(name, Method()).refused.update(grown)

    def all_methods(self) -> Method:
        """Its methods together; callers are left out."""
        sum_ = Method()
        for method in self.methods.values():
            sum_.join(method)
        return sum_

    def as_object(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            "instances": self.instances,
            "running": self.running,
            "waiting": self.waiting,
            "concurrency": self.concurrency,
            "rate": self.rate,
            "methods": {name: method.as_object() for name, method in sorted(self.methods.items())},
        }


def add_up(now: Mapping[str, Stats], before: Mapping[str, Stats] | None = None) -> dict[str, Service]:
    """What all processes say, by service; with `before` what has come since. A process that is new counts as it is."""
    services: dict[str, Service] = {}
    for instance, stats in now.items():
        earlier = (before or {}).get(instance, Stats())
        for name, service in stats.services.items():
            services.setdefault(name, Service()).add(service, earlier.services.get(name))
    return dict(sorted(services.items()))


def percentiles(durations: Histogram) -> dict[str, float | None]:
    """What is said of durations: seconds, None of nothing."""
    values = {"mean": durations.mean} | {f"p{p}": durations.percentile(p) for p in (50, 90, 99)}
    values["max"] = durations.high
    return {name: value if durations.count else None for name, value in values.items()}


def _grown(now: Mapping[str, int], before: Mapping[str, int]) -> Counter[str]:
    return Counter(now) - Counter(before)


def since(now: Histogram, before: Histogram) -> Histogram:
    """What was recorded between the two; its shortest and its longest are not known exactly."""
    if not before.count:
        return now
    made = Histogram()
    made.buckets = now.buckets - before.buckets
    made.count = sum(made.buckets.values())
    made.total = now.total - before.total
    if made.count:
        made.low, made.high = now.low, now.high
    return made
