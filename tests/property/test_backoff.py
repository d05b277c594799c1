"""The pauses between attempts to connect."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from warren.connection.backoff import Backoff

firsts = st.floats(0.01, 1.0)
longests = st.floats(1.0, 60.0)
seeds = st.integers()
CALM = 30.0


def doubling(first: float, longest: float, count: int) -> list[float]:
    return [min(first * 2**n, longest) for n in range(count)]


@given(seeds, firsts, longests, st.integers(1, 12))
def test_a_pause_is_between_half_and_the_whole_of_a_doubling_value_up_to_the_longest(
    seed: int, first: float, longest: float, count: int
) -> None:
    backoff = Backoff(Random(seed), first=first, longest=longest, calm=CALM)
    now = 1000.0
    for value in doubling(first, longest, count):
        pause = backoff.next(now)
        assert value / 2 <= pause <= value
        now += pause


@given(seeds, firsts, longests, st.integers(1, 12), st.floats(0.1, 1e6))
def test_after_a_calm_time_it_begins_again(seed: int, first: float, longest: float, count: int, extra: float) -> None:
    backoff = Backoff(Random(seed), first=first, longest=longest, calm=CALM)
    for _ in range(count):
        backoff.next(1000.0)
    pause = backoff.next(1000.0 + CALM + longest + extra)
    assert first / 2 <= pause <= first


@given(seeds, seeds)
def test_two_clients_with_the_same_random_numbers_pause_alike_so_jitter_is_all_there_is(seed: int, now: int) -> None:
    one, other = Backoff(Random(seed)), Backoff(Random(seed))
    assert [one.next(now) for _ in range(5)] == [other.next(now) for _ in range(5)]
