"""Lines that come by the thousand are summed up; a few are all written."""

import logging

import pytest

from warren.flood import Flood


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def flood(clock: Clock, caplog: pytest.LogCaptureFixture) -> Flood:
    caplog.set_level(logging.INFO)
    return Flood(logging.getLogger("flood"), logging.WARNING, most=3, every=5.0, clock=clock)


def test_a_few_lines_are_all_written(flood: Flood, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(3):
        flood("line %d", n)
    flood.sum_up()

    assert caplog.messages == ["line 0", "line 1", "line 2"]


def test_those_beyond_are_counted_and_the_last_of_them_is_shown(
    flood: Flood, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(10):
        flood("line %d", n)
    clock.now = 5.0
    flood("line %s", "later")

    assert caplog.messages[3:] == ["7 more like this, the last of them: line 9", "line later"]


def test_what_was_swallowed_is_summed_up_once(flood: Flood, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(4):
        flood("line %d", n)
    flood.sum_up()
    flood.sum_up()

    assert caplog.messages[3:] == ["1 more like this, the last of them: line 3"]
