"""What has happened between two looks, look by look: rates and durations of methods, and who called whom. Pure.

Processes count from their beginning; here one look is taken from the next. Time (`time.monotonic`) is passed in.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from warren.dashboard.reading import MOST_SERVICES
from warren.histogram import Histogram
from warren.operate.told import Caller, MethodStats, ServiceStats, Stats, durations
from warren.operate.totals import since

#: Looks that are remembered, and methods of which they are.
LOOKS, MOST_SERIES = 150, 1000
#: Looks over which the rates of the graph are taken: long enough to be read, short enough to follow.
WINDOW = 5
#: Pairs of the graph.
MOST_EDGES = 500
#: Instead of a method's name: all of a service.
ALL = ""


class Edge(NamedTuple):
    """A caller and a service."""

    caller: str
    service: str


class Sum:
    """What several processes did of a method since the look before; counts are per second."""

    __slots__ = ("ended", "failed", "refused", "wait", "work")

    def __init__(self) -> None:
        self.ended = self.failed = self.refused = 0.0
        self.wait, self.work = Histogram(), Histogram()

    def add(self, now: MethodStats, before: MethodStats, seconds: float) -> None:
        """Add what one process has counted."""
        ended = now.ended - before.ended
        if ended <= 0:
            return
        self.ended += ended / seconds
        self.failed += max(0, sum(now.failed.values()) - sum(before.failed.values())) / seconds
        self.wait.add(since(durations(now.wait), durations(before.wait)))
        self.work.add(since(durations(now.work), durations(before.work)))

    def join(self, other: Sum) -> None:
        """Add another method's."""
        self.ended += other.ended
        self.failed += other.failed
        self.refused += other.refused
        self.wait.add(other.wait)
        self.work.add(other.work)

    def point(self) -> list[float | None]:
        """Ended, failed and refused per second; wait p50 and p99, work p50 and p99 in seconds, None of nothing."""
        durations = [_percentile(h, percent) for h in (self.wait, self.work) for percent in (50, 99)]
        return [round(self.ended, 3), round(self.failed, 3), round(self.refused, 3), *durations]


class History:
    """The looks of late."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, Stats]] = {}
        self._last: float | None = None
        self._series: dict[tuple[str, str], deque[list[float | None]]] = {}
        self._edges: dict[Edge, deque[tuple[float, float]]] = {}

    def add(self, now: float, told: Mapping[str, Stats]) -> None:
        """Add a look: what each process says. One that says nothing this time is counted by its next answer."""
        sums: dict[tuple[str, str], Sum] = {}
        edges: dict[Edge, tuple[float, float]] = {}
        for instance, stats in told.items():
            earlier = self._earlier(instance, stats, now)
            if earlier is not None:
                then, before = earlier
                _add_up(sums, edges, stats, before, max(now - then, 0.001))
            self._before[instance] = (now, stats)
        self._forget_old(now)
        self._remember(sums, told)
        self._remember_edges(edges, told)
        self._last = now

    def _earlier(self, instance: str, stats: Stats, now: float) -> tuple[float, Stats] | None:
        """What this process said before; of one that has begun since, nothing, then; of one newly seen, not known."""
        known = self._before.get(instance)
        if known is None and self._last is not None and stats.uptime <= now - self._last:
            return self._last, Stats()
        return known

    def _forget_old(self, now: float) -> None:
        self._before = {name: pair for name, pair in self._before.items() if now - pair[0] < 60}

    def _remember(self, sums: dict[tuple[str, str], Sum], told: Mapping[str, Stats]) -> None:
        names = _names(told.values())
        for key in names - self._series.keys():
            if len(self._series) < MOST_SERIES:
                self._series[key] = deque(maxlen=LOOKS)
        for key, series in list(self._series.items()):
            series.append(sums.get(key, Sum()).point())
            if key not in names and not any(point[0] or point[2] for point in series) and len(series) == LOOKS:
                del self._series[key]

    def _remember_edges(self, edges: dict[Edge, tuple[float, float]], told: Mapping[str, Stats]) -> None:
        totals = edge_totals(told.values())
        self._edges = {edge: self._edges.get(edge, deque(maxlen=WINDOW)) for edge in totals}
        for edge, rates in self._edges.items():
            rates.append(edges.get(edge, (0.0, 0.0)))

    def series(self) -> dict[str, dict[str, list[list[float | None]]]]:
        """All that is remembered, by service and method, the oldest first."""
        found: dict[str, dict[str, list[list[float | None]]]] = {}
        for (service, method), points in self._series.items():
            found.setdefault(service, {})[method] = list(points)
        return found

    def points(self) -> dict[str, dict[str, list[list[float | None]]]]:
        """The last look alone."""
        return {
            service: {method: points[-1:] for method, points in methods.items()}
            for service, methods in self.series().items()
        }

    def rates(self, edge: Edge) -> tuple[float, float]:
        """Calls and failures per second of late."""
        rates = self._edges.get(edge)
        if not rates:
            return 0.0, 0.0
        return sum(rate for rate, _ in rates) / len(rates), sum(failed for _, failed in rates) / len(rates)


def edge_totals(told: Iterable[Stats]) -> dict[Edge, Caller]:
    """Who has called whom since the processes began, the busiest ones first."""
    counts: Counter[Edge] = Counter()
    failed: Counter[Edge] = Counter()
    for stats in told:
        for service, said in stats.services.items():
            for method in said.methods.values():
                for name, caller in method.callers.items():
                    counts[Edge(name, service)] += caller.count
                    failed[Edge(name, service)] += caller.failed
    return {edge: Caller(count, failed[edge]) for edge, count in counts.most_common(MOST_EDGES)}


def _add_up(
    sums: dict[tuple[str, str], Sum],
    edges: dict[Edge, tuple[float, float]],
    now: Stats,
    before: Stats,
    seconds: float,
) -> None:
    for service, said in now.services.items():
        earlier = before.services.get(service, ServiceStats())
        whole = sums.setdefault((service, ALL), Sum())
        for method, sum_ in _methods(said, earlier, seconds).items():
            sums.setdefault((service, method), Sum()).join(sum_)
            whole.join(sum_)
        for edge, rate, failed in _calls(service, said, earlier, seconds):
            known = edges.get(edge, (0.0, 0.0))
            edges[edge] = (known[0] + rate, known[1] + failed)


def _methods(now: ServiceStats, before: ServiceStats, seconds: float) -> dict[str, Sum]:
    sums: dict[str, Sum] = {}
    for method, stats in now.methods.items():
        sums.setdefault(method, Sum()).add(stats, before.methods.get(method, MethodStats()), seconds)
    for method, reasons in now.refused.items():
        grown = sum(reasons.values()) - sum(before.refused.get(method, {}).values())
        sums.setdefault(method or "(unknown)", Sum()).refused += max(0, grown) / seconds
    return sums


def _calls(
    service: str, now: ServiceStats, before: ServiceStats, seconds: float
) -> Iterator[tuple[Edge, float, float]]:
    for method, stats in now.methods.items():
        earlier = before.methods.get(method, MethodStats()).callers
        for name, caller in stats.callers.items():
            old = earlier.get(name, Caller())
            count, failed = max(0, caller.count - old.count), max(0, caller.failed - old.failed)
            if count or failed:
                yield Edge(name, service), count / seconds, failed / seconds


def _names(told: Iterable[Stats]) -> set[tuple[str, str]]:
    services = [pair for stats in told for pair in stats.services.items()][: 10 * MOST_SERVICES]
    return {(service, method) for service, said in services for method in (ALL, *said.methods)}


def _percentile(histogram: Histogram, percent: float) -> float | None:
    return float(f"{histogram.percentile(percent):.3g}") if histogram.count else None
