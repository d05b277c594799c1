"""Numbers of several processes are added up, and nothing is counted twice."""

import pytest

from warren.histogram import Histogram
from warren.operate.told import Caller, Lately, MethodStats, ServiceStats, Stats
from warren.operate.totals import add_up, percentiles


def histogram(*seconds: float) -> dict[str, object]:
    made = Histogram()
    made.record_all(seconds)
    return made.as_object()


def process(*seconds: float, failed: int = 0) -> Stats:
    """A process that has run `calc.fib` for so long each time, for `front`."""
    callers = {"front": Caller(len(seconds), failed, sum(seconds))}
    method = MethodStats(len(seconds), {"UNKNOWN/HANDLER": failed}, work=histogram(*seconds), callers=callers)
    return Stats(services={"calc": ServiceStats(1, 2, 3, {"fib": method}, {"": {"METHOD": 1}})})


def test_processes_are_added_up_without_losing_percentiles() -> None:
    services = add_up({"a": process(*[0.1] * 98, failed=1), "b": process(9.0, 9.0, failed=1)})
    calc = services["calc"]
    assert (calc.instances, calc.running, calc.waiting, calc.concurrency) == (2, 2, 4, 6)
    fib = calc.methods["fib"]
    assert (fib.ended, fib.failed.total()) == (100, 2)
    assert fib.work.percentile(50) == pytest.approx(0.1, rel=0.01)
    assert fib.work.percentile(99) == pytest.approx(9.0, rel=0.01)
    assert fib.callers["front"].count == 100
    assert calc.methods[""].refused == {"METHOD": 2}
    assert calc.all_methods().ended == 100


def test_since_a_look_before_only_what_came_is_counted() -> None:
    now = {"a": process(*[0.1] * 10, *[2.0] * 5, failed=3), "new": process(3.0)}
    services = add_up(now, {"a": process(*[0.1] * 10, failed=1), "gone": process(7.0)})
    fib = services["calc"].methods["fib"]
    assert (fib.ended, fib.failed) == (6, {"UNKNOWN/HANDLER": 2})
    assert fib.work.count == 6
    assert fib.work.percentile(1) == pytest.approx(2.0, rel=0.02)
    front = fib.callers["front"]
    assert (front.count, front.failed) == (6, 2)
    assert front.total == pytest.approx(13.0)


def test_nothing_has_no_percentiles() -> None:
    assert set(percentiles(Histogram()).values()) == {None}
    services = add_up({"a": process(1.0)}, {"a": process(1.0)})
    assert services["calc"].methods["fib"].as_object()["work"]["p99"] is None


def test_the_rate_is_that_of_all_processes_together_or_not_known() -> None:
    young, old = ServiceStats(lately=Lately(2, 0.1)), ServiceStats(lately=Lately(30, 10.0))
    both = {name: Stats(services={"calc": one}) for name, one in (("a", young), ("b", old))}
    assert add_up(both)["calc"].rate == 5.0
    assert add_up(both | {"c": Stats(services={"calc": ServiceStats()})})["calc"].rate is None
