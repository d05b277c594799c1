"""Budgets on arrival, and timers in slices."""

from __future__ import annotations

import tracemalloc

import pytest

from warren.protocol.deadline import MAX_LATENESS, TICK, Timers, remaining_budget

NOW = 1_700_000_000.0
NOW_MS = 1_700_000_000_000


def test_a_request_without_a_timeout_has_no_limit() -> None:
    assert remaining_budget(None, NOW_MS, NOW) is None


def test_a_request_without_a_deadline_has_its_whole_timeout() -> None:
    assert remaining_budget(1500, None, NOW) == 1.5


def test_the_time_on_the_way_is_taken_off() -> None:
    assert remaining_budget(1500, NOW_MS + 500, NOW) == pytest.approx(0.5)


def test_a_late_request_has_less_than_nothing_left() -> None:
    assert remaining_budget(1500, NOW_MS - 500, NOW) == pytest.approx(-0.5)


def test_a_slow_clock_at_the_server_cannot_lengthen_a_call() -> None:
    assert remaining_budget(1500, NOW_MS + 60_000, NOW) == 1.5


def test_a_fast_clock_at_the_server_is_not_believed() -> None:
    assert remaining_budget(1500, NOW_MS - int(MAX_LATENESS * 1000) - 1, NOW) == 1.5


class Alarm:
    """What `Timers` asked to be woken at."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, when: float) -> None:
        self.times.append(when)


def test_nothing_is_due_at_first() -> None:
    timers: Timers[str] = Timers(Alarm())
    assert timers.due(1e9) == []
    assert timers.next_due() is None


def test_an_item_is_due_once_its_slice_is_over() -> None:
    timers: Timers[str] = Timers(Alarm())
    timers.add(1.0, "a")
    assert timers.due(1.0 - TICK) == []
    assert timers.due(1.0 + 2 * TICK) == ["a"]
    assert timers.due(1.0 + 3 * TICK) == []


def test_items_of_one_slice_share_one_alarm() -> None:
    alarm = Alarm()
    timers: Timers[str] = Timers(alarm)
    timers.add(1.001, "a")
    timers.add(1.002, "b")
    assert len(alarm.times) == 1
    assert timers.due(1.1) == ["a", "b"]


def test_only_an_earlier_item_asks_for_an_earlier_alarm() -> None:
    alarm = Alarm()
    timers: Timers[str] = Timers(alarm)
    for when in (5.0, 9.0, 2.0):
        timers.add(when, str(when))
    assert alarm.times == [pytest.approx(5.01), pytest.approx(2.01)]


def test_next_due_is_the_earliest_item_that_is_left() -> None:
    timers: Timers[str] = Timers(Alarm())
    timers.add(5.0, "later")
    timers.add(2.0, "sooner")
    timers.due(3.0)
    assert timers.next_due() == pytest.approx(5.01)


def test_a_removed_item_is_not_due() -> None:
    timers: Timers[str] = Timers(Alarm())
    key = timers.add(1.0, "a")
    timers.remove(key, "a")
    assert timers.due(2.0) == []


def test_slices_that_became_empty_are_forgotten_even_before_their_time() -> None:
    timers: Timers[str] = Timers(Alarm())
    timers.remove(timers.add(1.0, "a"), "a")
    timers.due(0.0)
    assert timers.next_due() is None


def test_removing_an_item_that_is_gone_is_ignored() -> None:
    timers: Timers[str] = Timers(Alarm())
    key = timers.add(1.0, "a")
    timers.due(2.0)
    timers.remove(key, "a")
    assert timers.due(3.0) == []


def test_an_item_that_is_due_already_asks_for_an_alarm() -> None:
    alarm = Alarm()
    timers: Timers[str] = Timers(alarm)
    timers.add(5.0, "a")
    timers.due(6.0)
    timers.add(4.0, "b")
    assert alarm.times[-1] == pytest.approx(4.01)


def test_an_item_of_a_slice_that_was_opened_again_is_not_forgotten_with_the_old_one() -> None:
    timers: Timers[str] = Timers(Alarm())
    old = timers.add(1.0, "a")
    timers.due(2.0)
    timers.add(1.0, "b")
    timers.remove(old, "a")
    assert timers.due(3.0) == ["b"]


def test_what_is_kept_is_bounded_by_the_items_waited_for_however_long_the_timeout() -> None:
    # One call in each tick, each over at once, with a timeout of a day.
    timers: Timers[object] = Timers(Alarm())
    tracemalloc.start()
    try:
        for tick in range(20_000):
            item = object()
            timers.remove(timers.add(tick * TICK + 86_400, item), item)
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000, f"{kept} bytes are kept of items that are gone"
    assert len(timers) == 0


def test_a_peak_leaves_nothing_behind() -> None:
    timers: Timers[int] = Timers(Alarm())
    slices = [timers.add(float(number), number) for number in range(5000)]
    for number, group in enumerate(slices):
        timers.remove(group, number)
    timers.add(9.0, 9)
    assert len(timers) == 1
    assert timers.due(1e6) == [9]
    assert timers.next_due() is None
