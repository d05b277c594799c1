"""Timers and budgets."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from warren.protocol.deadline import MAX_LATENESS, TICK, Timers, remaining_budget

#: Seconds of a monotonic clock, up to a year of uptime; its floats are good to some nanoseconds there.
moments = st.floats(0, 3e7)
ROUNDING = 1e-6

timeouts = st.integers(0, 2**31 - 1)
epoch_ms = st.integers(0, 2**42)


@given(st.none() | epoch_ms, st.floats(0, 4e9))
def test_without_a_timeout_there_is_no_budget(deadline_ms: int | None, wall_now: float) -> None:
    assert remaining_budget(None, deadline_ms, wall_now) is None


@given(timeouts, st.floats(0, 4e9))
def test_without_a_deadline_the_budget_is_the_timeout(timeout_ms: int, wall_now: float) -> None:
    assert remaining_budget(timeout_ms, None, wall_now) == timeout_ms / 1000


@given(timeouts, epoch_ms, st.floats(0, 4e9))
def test_the_budget_is_never_longer_than_the_timeout(timeout_ms: int, deadline_ms: int, wall_now: float) -> None:
    budget = remaining_budget(timeout_ms, deadline_ms, wall_now)
    assert budget is not None
    assert budget <= timeout_ms / 1000


@given(st.integers(1, 2**31 - 1), st.integers(10**12, 2 * 10**12), st.data())
def test_with_clocks_that_agree_the_budget_is_what_is_left(timeout_ms: int, sent_ms: int, data: st.DataObject) -> None:
    passed_ms = data.draw(st.integers(0, timeout_ms), label="passed")
    budget = remaining_budget(timeout_ms, sent_ms + timeout_ms, (sent_ms + passed_ms) / 1000)
    assert budget is not None
    assert abs(budget - (timeout_ms - passed_ms) / 1000) < 1e-3


@given(timeouts, epoch_ms, st.floats(MAX_LATENESS + 0.01, 1e9))
def test_a_deadline_absurdly_long_ago_is_not_believed(timeout_ms: int, deadline_ms: int, late: float) -> None:
    assert remaining_budget(timeout_ms, deadline_ms, deadline_ms / 1000 + late) == timeout_ms / 1000


@given(timeouts, epoch_ms, st.floats(0.01, MAX_LATENESS - 0.01))
def test_a_request_a_little_late_has_nothing_left(timeout_ms: int, deadline_ms: int, late: float) -> None:
    budget = remaining_budget(timeout_ms, deadline_ms, deadline_ms / 1000 + late)
    assert budget is not None
    assert budget < 0


class Item:
    """Told apart by identity, as calls are."""

    def __init__(self, when: float) -> None:
        self.when = when


def fill(deadlines: list[float]) -> tuple[Timers[Item], list[Item], list[float]]:
    alarms: list[float] = []
    timers: Timers[Item] = Timers(alarms.append)
    items = [Item(when) for when in deadlines]
    for item in items:
        timers.add(item.when, item)
    return timers, items, alarms


@given(st.lists(moments, max_size=20), moments)
def test_items_are_due_not_before_their_time_and_at_most_a_tick_after(deadlines: list[float], now: float) -> None:
    timers, items, _alarms = fill(deadlines)
    due = timers.due(now)
    assert all(item.when <= now + ROUNDING for item in due)
    assert all(item in due for item in items if item.when <= now - TICK - ROUNDING)


@given(st.lists(moments, max_size=20), st.lists(moments, max_size=5))
def test_every_item_is_due_exactly_once(deadlines: list[float], looks: list[float]) -> None:
    timers, items, _alarms = fill(deadlines)
    due = list(itertools.chain.from_iterable(timers.due(now) for now in (*looks, 4e7)))
    assert sorted(map(id, due)) == sorted(map(id, items))


@given(st.lists(st.tuples(moments, st.booleans()), max_size=20))
def test_a_removed_item_is_never_due(entries: list[tuple[float, bool]]) -> None:
    timers: Timers[Item] = Timers(lambda _when: None)
    kept = []
    for when, removed in entries:
        item = Item(when)
        key = timers.add(when, item)
        if removed:
            timers.remove(key, item)
        else:
            kept.append(item)
    assert sorted(map(id, timers.due(4e7))) == sorted(map(id, kept))


@given(st.lists(moments, min_size=1, max_size=20))
def test_the_last_alarm_is_for_the_earliest_item(deadlines: list[float]) -> None:
    timers, _items, alarms = fill(deadlines)
    assert alarms[-1] == timers.next_due() == min(alarms)
    assert 0 <= alarms[-1] - min(deadlines) + ROUNDING <= TICK + 2 * ROUNDING


@given(st.lists(moments, max_size=20))
def test_whoever_sleeps_until_next_due_finds_somebody_each_time_and_misses_nobody(
    deadlines: list[float],
) -> None:
    timers, items, _alarms = fill(deadlines)
    found: list[Item] = []
    while (when := timers.next_due()) is not None:
        due = timers.due(when)
        assert due
        found += due
    assert sorted(map(id, found)) == sorted(map(id, items))
