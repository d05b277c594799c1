"""What the pages show, put together from what processes have said: one JSON object for each look. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from warren.dashboard.history import Edge, History, edge_totals
from warren.dashboard.reading import MOST_CALLS, MOST_INSTANCES, MOST_NAMES, MOST_SERVICES
from warren.operate.queues import Standing
from warren.operate.told import Caller, Calls, Health, Info, MethodInfo, MethodStats, ServiceInfo, ServiceStats, Stats

#: Seconds for which a process that says nothing is still shown, as silent.
SILENT = 30.0


@dataclass
class Instance:
    """A process: what it has said last, and when (`time.monotonic`)."""

    seen: float
    info: Info = field(default_factory=Info)
    stats: Stats = field(default_factory=Stats)
    health: Health | None = None
    calls: Calls = field(default_factory=Calls)
    cpu: float | None = None

    def counted(self, stats: Stats) -> None:
        """It has said what it did; of its processor's time the share since the last time is told."""
        passed, used, before = stats.uptime - self.stats.uptime, stats.process.cpu, self.stats.process.cpu
        known = passed > 0 and used is not None and before is not None
        self.cpu = max(0.0, used - before) / passed if known else None  # type: ignore[operator]
        self.stats = stats


@dataclass
class Picture:
    """What is known now."""

    instances: dict[str, Instance] = field(default_factory=dict)
    queues: dict[str, Standing] = field(default_factory=dict)
    history: History = field(default_factory=History)

    def heard(self, instance: str, now: float) -> Instance | None:
        """A process has said something; None where there are too many to be shown."""
        known = self.instances.get(instance)
        if known is None:
            if len(self.instances) >= MOST_INSTANCES:
                return None
            known = self.instances[instance] = Instance(now)
        known.seen = now
        return known

    def looked(self, now: float, told: Mapping[str, Stats]) -> None:
        """A look is over; who was not heard for long is gone."""
        self.instances = {name: one for name, one in self.instances.items() if now - one.seen < SILENT}
        for name, stats in told.items():
            if name in self.instances:
                self.instances[name].counted(stats)
        self.history.add(now, {name: stats for name, stats in told.items() if name in self.instances})
        self.queues = {name: self.queues[name] for name in self.queues.keys() & set(self.services())}

    def services(self) -> list[str]:
        """The names of all services that are shown, in order."""
        names = {name for one in self.instances.values() for name in one.stats.services}
        names |= {service.name for one in self.instances.values() for service in one.info.services}
        return sorted(names)[:MOST_SERVICES]

    def declared(self, name: str) -> ServiceInfo | None:
        """A service as the process that was started last declares it."""
        by_start = sorted(self.instances.values(), key=lambda one: one.info.started)
        found = [service for one in by_start for service in one.info.services if service.name == name]
        return found[-1] if found else None

    def as_object(self, now: float) -> dict[str, Any]:
        """All of it but the history, as JSON can carry it."""
        calls = self._calls()
        return {
            "instances": [self._instance(name, one, now) for name, one in sorted(self.instances.items())],
            "services": [self._service(name) for name in self.services()],
            "edges": self._edges(),
            "calls": calls[:MOST_CALLS],
            "calls_left_out": len(calls) - len(calls[:MOST_CALLS]),
        }

    def _instance(self, name: str, one: Instance, now: float) -> dict[str, Any]:
        info, usage = one.info, one.stats.process
        silent = now - one.seen
        return {
            "id": name,
            **{key: getattr(info, key) for key in ("name", "host", "pid", "state", "control", "warren", "python")},
            "state": one.health.state if one.health else info.state,
            "healthy": one.health.healthy if one.health else None,
            "uptime": one.stats.uptime,
            "cpu": one.cpu,
            **{key: getattr(usage, key) for key in ("memory", "lag", "reconnects")},
            "services": sorted({*one.stats.services, *(service.name for service in info.services)})[:MOST_SERVICES],
            "silent": round(silent, 1),
        }

    def _service(self, name: str) -> dict[str, Any]:
        declared = self.declared(name)
        said = [one.stats.services[name] for one in self.instances.values() if name in one.stats.services]
        queue = self.queues.get(name, Standing(name))
        numbers = {key: sum(getattr(one, key) for one in said) for key in ("running", "waiting", "concurrency")}
        return {
            "name": name,
            "version": declared.version if declared else None,
            "description": declared.description if declared else None,
            "instances": len(said),
            **numbers,
            **{key: getattr(queue, key) for key in ("ready", "consumers", "dead")},
            "methods": _methods(declared, said),
        }

    def _edges(self) -> list[dict[str, Any]]:
        totals = edge_totals(one.stats for one in self.instances.values())
        return [self._edge(edge, total) for edge, total in totals.items()]

    def _edge(self, edge: Edge, total: Caller) -> dict[str, Any]:
        rate, failing = self.history.rates(edge)
        return {
            **edge._asdict(),
            "count": total.count,
            "failed": total.failed,
            "rate": round(rate, 3),
            "failing": round(failing, 3),
        }

    def _calls(self) -> list[dict[str, Any]]:
        found = [
            {"instance": name, **msgspec.to_builtins(call)}
            for name, one in self.instances.items()
            for call in one.calls.calls
        ]
        return sorted(found, key=lambda call: -call["age"])


def _methods(declared: ServiceInfo | None, said: Iterable[ServiceStats]) -> list[dict[str, Any]]:
    said = list(said)
    known = {method.name: method for method in (declared.methods if declared else [])}
    names = dict.fromkeys([*known, *(name for one in said for name in one.methods)])
    return [_method(name, known.get(name), said) for name in names]


def _method(name: str, declared: MethodInfo | None, said: Iterable[ServiceStats]) -> dict[str, Any]:
    stats = [one.methods[name] for one in said if name in one.methods]
    refused: Counter[str] = Counter()
    for one in said:
        refused.update(one.refused.get(name, {}))
    return {
        "name": name,
        "signature": declared.signature if declared else "",
        "delivery": declared.delivery if declared else "",
        "ended": sum(one.ended for one in stats),
        "failed": dict(sum((Counter(one.failed) for one in stats), Counter[str]())),
        "refused": dict(refused),
        "callers": _callers(stats),
    }


def _callers(stats: Iterable[MethodStats]) -> dict[str, dict[str, int]]:
    count: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for one in stats:
        count.update({name: caller.count for name, caller in one.callers.items()})
        failed.update({name: caller.failed for name, caller in one.callers.items()})
    return {name: {"count": number, "failed": failed[name]} for name, number in islice(count.most_common(), MOST_NAMES)}
