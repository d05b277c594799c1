"""The watch over a connection, with time passed in."""

from __future__ import annotations

import pytest

from warren.connection.liveness import Liveness, Verdict

LIMIT = 10.0


class Watch:
    """Looks at a connection every tick, as its owner does."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.liveness = Liveness(LIMIT, self.now)
        self.received = 0
        self.waiting = 0
        self.blocked = False

    def look(self, after: float | None = None) -> Verdict:
        self.now += self.liveness.tick if after is None else after
        return self.liveness.look(self.now, received=self.received, waiting=self.waiting, blocked=self.blocked)

    def until(self, verdict: Verdict) -> float:
        """Seconds until a look says so, waiting all the time before."""
        since = self.now
        while (found := self.look()) is Verdict.WAIT:
            assert self.now - since < 10 * LIMIT
        assert found is verdict
        return self.now - since


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_the_peer_is_asked_after_half_of_the_limit(watch: Watch) -> None:
    assert watch.until(Verdict.PROBE) == pytest.approx(LIMIT / 2)


def test_a_peer_that_does_not_answer_is_dead_at_the_limit(watch: Watch) -> None:
    assert watch.until(Verdict.PROBE) + watch.until(Verdict.DEAD) == pytest.approx(LIMIT)


def test_an_answer_begins_anew(watch: Watch) -> None:
    watch.until(Verdict.PROBE)
    watch.look()
    watch.liveness.answered()
    assert watch.until(Verdict.PROBE) == pytest.approx(LIMIT / 2)


def test_bytes_that_come_put_the_end_off(watch: Watch) -> None:
    watch.until(Verdict.PROBE)
    for _ in range(50):
        watch.received += 1
        assert watch.look() is Verdict.WAIT
    assert watch.until(Verdict.DEAD) == pytest.approx(LIMIT / 2)


def test_output_that_drains_puts_the_end_off(watch: Watch) -> None:
    watch.waiting = 100
    watch.until(Verdict.PROBE)
    for _ in range(50):
        watch.waiting -= 1
        assert watch.look() is Verdict.WAIT


def test_output_that_only_grows_does_not(watch: Watch) -> None:
    watch.until(Verdict.PROBE)
    verdicts = []
    for _ in range(5):
        watch.waiting += 1
        verdicts.append(watch.look())
    assert verdicts[-1] is Verdict.DEAD


def test_a_blocked_peer_is_not_expected_to_answer(watch: Watch) -> None:
    watch.until(Verdict.PROBE)
    watch.blocked = True
    assert [watch.look() for _ in range(50)] == [Verdict.WAIT] * 50
    watch.blocked = False
    assert watch.until(Verdict.DEAD) == pytest.approx(LIMIT / 2)


def test_a_stall_of_our_own_is_not_held_against_the_peer(watch: Watch) -> None:
    watch.until(Verdict.PROBE)
    assert watch.look(after=1000.0) is Verdict.WAIT


@pytest.mark.parametrize(("limit", "tick"), [(1.0, 0.1), (10.0, 1.0), (300.0, 1.0)])
def test_looks_are_a_tenth_of_the_limit_apart_and_a_second_at_most(limit: float, tick: float) -> None:
    assert Liveness(limit, 0.0).tick == pytest.approx(tick)
