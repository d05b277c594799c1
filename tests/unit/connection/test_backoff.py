"""Pauses between attempts; tests/property has the bounds of every pause."""

from __future__ import annotations

from random import Random

import pytest

from warren.connection.backoff import Backoff


class NoJitter(Random):
    """Chance that always takes the whole pause."""

    def random(self) -> float:
        return 1.0


def pauses(backoff: Backoff, *times: float) -> list[float]:
    return [backoff.next(now) for now in times]


def test_pauses_double() -> None:
    assert pauses(Backoff(NoJitter(), first=0.1, longest=10.0), 0, 0, 0, 0) == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_pauses_grow_up_to_the_longest() -> None:
    assert pauses(Backoff(NoJitter(), first=3.0, longest=10.0), 0, 0, 0, 0) == [3.0, 6.0, 10.0, 10.0]


def test_jitter_takes_off_up_to_half() -> None:
    low, high = (
        min(Backoff(Random(seed), first=1.0).next(0) for seed in range(200)),
        max(Backoff(Random(seed), first=1.0).next(0) for seed in range(200)),
    )
    assert 0.5 <= low < 0.6
    assert 0.9 < high <= 1.0


def test_a_calm_time_starts_over() -> None:
    backoff = Backoff(NoJitter(), first=1.0, longest=10.0, calm=30.0)
    pauses(backoff, 0, 1, 3)
    assert backoff.next(100) == 1.0


def test_a_broker_that_comes_and_goes_does_not_start_over() -> None:
    backoff = Backoff(NoJitter(), first=1.0, longest=10.0, calm=30.0)
    assert pauses(backoff, 0, 20, 40) == [1.0, 2.0, 4.0]
