"""What is measured, whoever shows it: counts, levels and durations, by name and labels. Pure; needs no extra.

Processes count for themselves all the time (`warren.server.statistics`). Here their reports become measures with the
names, units and few labels that Prometheus wants, and those of several processes are added up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from warren.client.statistics import ClientStatistics
from warren.errors import Code
from warren.histogram import Histogram

#: Seconds: upper bounds of the buckets that durations are shown in.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """What there is to know of a measure but its values.

    Attributes:
        unit: the last word of its name, where it has one.
        largest: several processes together have the largest of their values, not the sum.
    """

    kind: Kind
    help: str
    unit: str = ""
    largest: bool = False


#: All measures, in the order in which they are shown. A counter's samples have ``_total`` behind the name.
FAMILIES: Mapping[str, Family] = {
    "warren_server_handled": Family("counter", "Calls and casts whose handler has ended, by the code it ended in."),
    "warren_server_handling_seconds": Family("histogram", "From the handler's start to its end.", "seconds"),
    "warren_server_wait_seconds": Family("histogram", "From the caller's write to the handler's start.", "seconds"),
    "warren_server_refused": Family("counter", "Requests that were refused before their handler, by reason."),
    "warren_server_running": Family("gauge", "Handlers that run now."),
    "warren_server_waiting": Family("gauge", "Requests that were taken from the queue and wait for a place."),
    "warren_server_concurrency": Family("gauge", "Handlers that may run at a time."),
    "warren_server_workers": Family("gauge", "Worker processes that answer."),
    "warren_server_workers_ready": Family("gauge", "Worker processes that are connected and consume."),
    "warren_server_workers_wanted": Family("gauge", "Worker processes that there shall be."),
    "warren_server_reconnects": Family("counter", "Connections that were opened after the first one."),
    "warren_server_cpu_seconds": Family("counter", "CPU time, of user and system.", "seconds"),
    "warren_server_resident_memory_bytes": Family("gauge", "Resident memory.", "bytes"),
    "warren_server_event_loop_lag_seconds": Family(
        "gauge", "By how much the event loop was late, at worst, in the last seconds.", "seconds", largest=True
    ),
    "warren_client_handled": Family("counter", "Calls and casts that have ended, by the code they ended in."),
    "warren_client_handling_seconds": Family("histogram", "From the call to its end, at the caller.", "seconds"),
    "warren_client_in_flight": Family("gauge", "Calls and casts that have not ended."),
    "warren_client_waiting": Family("gauge", "Requests that wait to be sent."),
    "warren_client_waiting_bytes": Family("gauge", "Bytes of requests that wait to be sent, or sent again.", "bytes"),
    "warren_client_late_replies": Family("counter", "Replies that nobody waited for any more."),
    "warren_client_reconnects": Family("counter", "Connections that were opened after the first one."),
    "warren_client_connected": Family("gauge", "Clients that have a connection."),
    "warren_client_blocked": Family("gauge", "Clients whose broker takes no publishes."),
}


class Measures:
    """Values by name and labels; those of several processes can be added.

    Attributes:
        numbers: of counters and gauges.
        durations: of histograms.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, Counter[Labels]] = {}
        self.durations: dict[str, dict[Labels, Histogram]] = {}

    def number(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter or gauge."""
        self._put(name, tuple(labels.items()), value)

    def duration(self, name: str, durations: Histogram, **labels: str) -> None:
        """Add to a histogram."""
        self.durations.setdefault(name, {}).setdefault(tuple(labels.items()), Histogram()).add(durations)

    def add(self, other: Measures) -> None:
        """Add all that another one has."""
        for name, numbers in other.numbers.items():
            for labels, value in numbers.items():
                self._put(name, labels, value)
        for name, by_labels in other.durations.items():
            for labels, durations in by_labels.items():
                self.duration(name, durations, **dict(labels))

    def _put(self, name: str, labels: Labels, value: float) -> None:
        numbers = self.numbers.setdefault(name, Counter())
        numbers[labels] = max(numbers[labels], value) if FAMILIES[name].largest else numbers[labels] + value  # type: ignore[assignment]

    def lasting(self) -> Measures:
        """What stays true when its process has ended: what was counted, not how much there is."""
        left = Measures()
        left.numbers = {name: values for name, values in self.numbers.items() if FAMILIES[name].kind == "counter"}
        left.durations = self.durations
        return left


class Sample(NamedTuple):
    """One value. `suffix` goes behind the family's name."""

    suffix: str
    labels: Labels
    value: float


def samples(measures: Measures, name: str) -> Iterator[Sample]:
    """All values of one family."""
    suffix = "_total" if FAMILIES[name].kind == "counter" else ""
    for labels, value in measures.numbers.get(name, {}).items():
        yield Sample(suffix, labels, value)
    for labels, durations in measures.durations.get(name, {}).items():
        for bound in BUCKETS:
            yield Sample("_bucket", (*labels, ("le", repr(bound))), durations.below(bound))
        yield Sample("_bucket", (*labels, ("le", "+Inf")), durations.count)
        yield Sample("_count", labels, durations.count)
        yield Sample("_sum", labels, durations.total)


def of_server(stats: Mapping[str, Any], health: Mapping[str, Any]) -> Measures:
    """What one server process says of itself, as the control verbs ``stats`` and ``health`` do."""
    made = Measures()
    made.number("warren_server_workers", 1)
    made.number("warren_server_workers_ready", int(health["healthy"]))
    process = stats["process"]
    made.number("warren_server_reconnects", process["reconnects"])
    made.number("warren_server_cpu_seconds", process["cpu"])
    if process["memory"] is not None:
        made.number("warren_server_resident_memory_bytes", process["memory"])
    made.number("warren_server_event_loop_lag_seconds", process["lag"])
    for service, said in stats["services"].items():
        for level in ("running", "waiting", "concurrency"):
            made.number(f"warren_server_{level}", said[level], service=service)
        for method, of in said["methods"].items():
            _add_method(made, of, service=service, method=method)
        for method, reasons in said["refused"].items():
            for reason, count in reasons.items():
                made.number("warren_server_refused", count, service=service, method=method, reason=reason)
    return made


def _add_method(made: Measures, of: Mapping[str, Any], **labels: str) -> None:
    made.number("warren_server_handled", of["ended"] - sum(of["failed"].values()), **labels, code=Code.OK)
    for ending, count in of["failed"].items():
        made.number("warren_server_handled", count, **labels, code=ending.partition("/")[0])
    made.duration("warren_server_handling_seconds", Histogram.from_object(of["work"]), **labels)
    made.duration("warren_server_wait_seconds", Histogram.from_object(of["wait"]), **labels)


def of_client(statistics: ClientStatistics) -> Measures:
    """What one client says of itself."""
    made = Measures()
    made.number("warren_client_in_flight", statistics.in_flight)
    made.number("warren_client_waiting", statistics.waiting)
    made.number("warren_client_waiting_bytes", statistics.waiting_bytes)
    made.number("warren_client_late_replies", statistics.ignored_replies)
    made.number("warren_client_reconnects", statistics.reconnects)
    made.number("warren_client_connected", statistics.connected)
    made.number("warren_client_blocked", statistics.blocked)
    return made
