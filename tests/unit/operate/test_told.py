"""What processes say is checked before tools use it."""

from typing import Any

import pytest

from warren.histogram import Histogram
from warren.operate.told import Calls, Info, Process, Stats, read


def stats(**method: Any) -> dict[str, Any]:
    return {"services": {"calc": {"methods": {"fib": method}}}}


def test_what_versions_to_come_say_in_addition_is_left_out() -> None:
    assert read(Process, {"name": "a", "colour": "red", "services": ["calc"]}) == Process("a", services=["calc"])


def test_a_histogram_comes_as_it_was_sent() -> None:
    made = Histogram()
    made.record_all([0.1, 0.2])
    told = read(Stats, stats(ended=2, work=made.as_object()))
    assert told.services["calc"].methods["fib"].work == made.as_object()


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"items": value}
    return value


def test_a_schema_is_as_deep_as_people_make_them() -> None:
    said = {"services": [{"name": "calc", "methods": [{"name": "f", "result": nested(50)}]}]}
    assert read(Info, said).services[0].methods[0].result == nested(50)
    said["services"][0]["methods"][0]["result"] = nested(900)  # type: ignore[index]
    with pytest.raises(ValueError, match="deeper than 100 levels"):
        read(Info, said)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Process, {"services": "calc"}),
        (Process, {"pid": "one"}),
        (Calls, {"calls": [{"method": "no service"}]}),
        (Stats, stats(ended="many")),
        (Stats, stats(work={"buckets": {"1": 1}})),
        (Stats, stats(work={"total": 1, "low": 1, "high": 1, "buckets": {"999999999": 1}})),
        (Stats, stats(work={"total": 1, "low": 1, "high": 1, "buckets": {"1200": -1}})),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, body: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read(kind, body)
