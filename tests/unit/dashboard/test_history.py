"""One look taken from the next: rates, durations, and who called whom."""

from __future__ import annotations

from typing import Any

from warren.dashboard.history import LOOKS, Edge, History
from warren.histogram import Histogram
from warren.operate.told import Caller, MethodStats, ServiceStats, Stats

#: What a point says, in this order.
RATE, FAILED, REFUSED, WAIT50, WAIT99, WORK50, WORK99 = range(7)


def durations(*seconds: float) -> dict[str, Any]:
    histogram = Histogram()
    histogram.record_all(seconds)
    return histogram.as_object()


def told(*work: float, failed: int = 0, uptime: float = 100.0, refused: int = 0) -> dict[str, Stats]:
    """One process that has done so much work for `shop`."""
    method = MethodStats(
        len(work), {"UNKNOWN/X": failed}, durations(), durations(*work), {"shop": Caller(len(work), failed)}
    )
    service = ServiceStats(methods={"fib": method}, refused={"fib": {"QUEUE_FULL": refused}})
    return {"one": Stats(uptime, services={"calc": service})}


def points(history: History, method: str = "fib") -> list[list[float | None]]:
    return history.series()["calc"][method]


def test_what_was_before_the_first_look_is_no_rate() -> None:
    history = History()
    history.add(0, told(0.1, 0.1))
    assert points(history)[-1][RATE] == 0


def test_rates_are_per_second_between_two_looks() -> None:
    history = History()
    history.add(0, told(0.1))
    history.add(2, told(0.1, 0.2, 0.2, failed=1, refused=4))
    assert points(history)[-1][: REFUSED + 1] == [1.0, 0.5, 2.0]


def test_durations_are_those_of_the_last_look_alone() -> None:
    history = History()
    history.add(0, told(9.0, 9.0, 9.0))
    history.add(2, told(9.0, 9.0, 9.0, 0.1))
    work = points(history)[-1][WORK99]
    assert work is not None
    assert 0.09 < work < 0.11


def test_nothing_done_has_no_duration() -> None:
    history = History()
    history.add(0, told(0.1))
    history.add(2, told(0.1))
    assert points(history)[-1] == [0, 0, 0, None, None, None, None]


def test_a_process_that_has_begun_since_counts_from_nothing() -> None:
    history = History()
    history.add(0, {})
    history.add(2, told(0.1, 0.1, uptime=1.0))
    assert points(history)[-1][RATE] == 1.0


def test_a_process_that_missed_a_look_is_counted_over_both() -> None:
    history = History()
    history.add(0, told())
    history.add(2, {})
    history.add(4, told(0.1, 0.1, 0.1, 0.1))
    assert [point[RATE] for point in points(history)] == [0, 0, 1.0]


def test_all_of_a_service_is_the_sum_of_its_methods() -> None:
    history = History()
    history.add(0, told())
    history.add(2, told(0.1, 0.1))
    assert points(history, "") == points(history, "fib")


def test_counts_that_fall_are_no_rate() -> None:
    history = History()
    history.add(0, told(0.1, 0.1, failed=2))
    history.add(2, told())
    assert points(history)[-1][:3] == [0, 0, 0]
    assert history.rates(Edge("shop", "calc")) == (0, 0)


def test_an_edge_has_the_rate_of_late() -> None:
    history = History()
    history.add(0, told())
    history.add(2, told(0.1, 0.1, failed=1))
    assert history.rates(Edge("shop", "calc")) == (0.5, 0.25)  # over two looks, the first of which saw nothing
    for n in range(2, 8):
        history.add(2 * n, told(0.1, 0.1, failed=1))
    assert history.rates(Edge("shop", "calc")) == (0, 0)


def test_only_so_much_is_remembered() -> None:
    history = History()
    for n in range(LOOKS + 20):
        history.add(2 * n, told())
    assert len(points(history)) == LOOKS


def test_a_service_that_is_gone_for_long_is_forgotten() -> None:
    history = History()
    history.add(0, told())
    for n in range(1, LOOKS + 1):
        history.add(2 * n, {})
    assert history.series() == {}
