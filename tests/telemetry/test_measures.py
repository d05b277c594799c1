"""Measures: what processes report, added up and written as Prometheus reads it."""

import math
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from warren.client.statistics import ClientStatistics
from warren.histogram import Histogram
from warren.telemetry.measures import BUCKETS, FAMILIES, Measures, of_client, of_server, samples
from warren.telemetry.openmetrics import OPENMETRICS, PLAIN, content_type, written

read_openmetrics: Any = openmetrics_parser.text_string_to_metric_families  # neither has types
read_plain: Any = parser.text_string_to_metric_families


def durations(*seconds: float) -> Histogram:
    made = Histogram()
    made.record_all(seconds)
    return made


def report(*, ended: int = 3, lag: float = 0.1, healthy: bool = True) -> Measures:
    """What a worker says, as the control verbs have it."""
    work = durations(*[0.02] * ended).as_object()
    method = {"ended": ended, "failed": {"UNKNOWN/HANDLER_EXCEPTION": 1, "UNKNOWN/OTHER": 1}, "wait": work}
    service: dict[str, Any] = {"running": 2, "waiting": 1, "concurrency": 10}
    service |= {"methods": {"fib": {**method, "work": work, "callers": {}}}, "refused": {"": {"METHOD": 4}}}
    process = {"cpu": 1.5, "memory": 1000, "lag": lag, "reconnects": 1}
    return of_server({"uptime": 1.0, "process": process, "services": {"calc": service}}, {"healthy": healthy})


def values(measures: Measures, name: str) -> dict[tuple[str, ...], float]:
    return {(s.suffix, *(f"{k}={v}" for k, v in s.labels)): s.value for s in samples(measures, name)}


def test_what_was_handled_is_counted_by_code() -> None:
    assert values(report(ended=5), "warren_server_handled") == {
        ("_total", "service=calc", "method=fib", "code=OK"): 3,
        ("_total", "service=calc", "method=fib", "code=UNKNOWN"): 2,
    }


def test_processes_are_added_up_but_the_worst_delay_is_told() -> None:
    both = report(lag=0.1)
    both.add(report(lag=0.7, healthy=False))
    both.add(report(lag=0.3))
    assert values(both, "warren_server_running") == {("", "service=calc"): 6}
    assert values(both, "warren_server_handling_seconds")["_count", "service=calc", "method=fib"] == 9
    assert values(both, "warren_server_event_loop_lag_seconds") == {("",): 0.7}
    assert values(both, "warren_server_workers") == {("",): 3}
    assert values(both, "warren_server_workers_ready") == {("",): 2}


def test_what_was_counted_outlasts_its_process_and_levels_do_not() -> None:
    left = report().lasting()
    assert values(left, "warren_server_refused") == {("_total", "service=calc", "method=", "reason=METHOD"): 4}
    assert values(left, "warren_server_handling_seconds")["_count", "service=calc", "method=fib"] == 3
    assert values(left, "warren_server_running") == values(left, "warren_server_workers") == {}


def test_buckets_count_all_that_is_shorter() -> None:
    measures = Measures()
    measures.duration("warren_client_handling_seconds", durations(0.0005, 0.02, 0.02, 3.0, 100.0), method="fib")
    found = values(measures, "warren_client_handling_seconds")
    buckets = {float(key[2].removeprefix("le=")): n for key, n in found.items() if key[0] == "_bucket"}
    assert list(buckets) == [*BUCKETS, math.inf]
    assert (buckets[0.001], buckets[0.01], buckets[0.025], buckets[5.0], buckets[60.0], buckets[math.inf]) == (
        1, 1, 3, 4, 4, 5,
    )  # fmt: skip
    assert found["_sum", "method=fib"] == pytest.approx(103.0405)


def everything() -> Measures:
    """A value for each family, and a label that has to be escaped."""
    measures = report()
    measures.number("warren_server_workers_wanted", 2)
    measures.add(of_client(ClientStatistics(1, 2, 3, 4, 5, True, False)))
    measures.number("warren_client_handled", 7, service='a"b\\c\nd', method="fib", kind="call", code="OK")
    measures.duration("warren_client_handling_seconds", durations(0.1), service="calc", method="fib", kind="call")
    return measures


def as_read(families: Any) -> dict[str, tuple[str, str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]]:
    return {
        family.name: (
            family.type,
            family.documentation,
            {(sample.name, tuple(sample.labels.items())): sample.value for sample in family.samples},
        )
        for family in families
    }


def test_both_formats_are_read_back_as_what_was_written() -> None:
    measures = everything()
    expected = {
        name: (family.kind, family.help, {(name + s.suffix, s.labels): s.value for s in samples(measures, name)})
        for name, family in FAMILIES.items()
    }
    assert all(family[2] for family in expected.values())
    assert as_read(read_openmetrics(written(measures, OPENMETRICS))) == expected
    assert as_read(read_plain(written(measures, PLAIN))) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", OPENMETRICS),
        ("text/plain", PLAIN),
        ("*/*", PLAIN),
        ("", PLAIN),
    ],
)
def test_openmetrics_goes_to_those_who_ask_for_it(accept: str, expected: str) -> None:
    assert content_type(accept) == expected


def test_every_family_keeps_to_prometheus_rules_of_naming() -> None:
    for name, family in FAMILIES.items():
        assert not name.endswith("_total"), "samples of counters have it anyway"
        assert family.unit in ("", "seconds", "bytes")
        assert name.endswith(family.unit)
        assert family.help.endswith(".")
