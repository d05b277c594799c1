"""Acknowledgements against a model of the broker's channel."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from warren.amqp.acks import Acks


class Channel:
    """What the broker knows: which deliveries are unacknowledged."""

    def __init__(self) -> None:
        self.unacknowledged: list[int] = []
        self.settled: list[int] = []

    def deliver(self, tag: int) -> None:
        self.unacknowledged.append(tag)

    def take(self, tag: int, multiple: bool) -> list[int]:
        """Settle as RabbitMQ does; an unknown tag would close the channel."""
        assert tag in self.unacknowledged, f"406 PRECONDITION_FAILED, unknown delivery tag {tag}"
        covered = [t for t in self.unacknowledged if t == tag or (multiple and t < tag)]
        self.unacknowledged = [t for t in self.unacknowledged if t not in covered]
        self.settled += covered
        return covered


steps = st.lists(
    st.one_of(
        st.just(("deliver", 0)),
        st.tuples(st.just("finish"), st.integers(0, 50)),
        st.tuples(st.just("reject"), st.integers(0, 50)),
        st.just(("collect", 0)),
    ),
    max_size=60,
)


class Session:
    """One channel's `Acks` beside the model."""

    def __init__(self) -> None:
        self.acks, self.channel = Acks(), Channel()
        self.last = 0
        self.finished: set[int] = set()
        self.sent: list[tuple[int, bool]] = []

    def step(self, what: str, which: int) -> None:
        if what == "deliver":
            self.last += 1
            self.channel.deliver(self.last)
            self.acks.open(self.last)
        elif what == "finish":
            fresh = which in self.channel.unacknowledged and which not in self.finished
            assert self.acks.done(which) is fresh
            if fresh:
                self.finished.add(which)
        elif what == "reject":
            if which in self.channel.unacknowledged:
                self.channel.take(which, multiple=False)
            self.finished.discard(which)
            self.acks.forget(which)
        else:
            self.collect()

    def collect(self) -> None:
        for tag, multiple in self.acks.collect():
            self.sent.append((tag, multiple))
            covered = self.channel.take(tag, multiple)
            assert set(covered) <= self.finished, "an ack covers a delivery that is not finished"
            assert not multiple or len(covered) > 1

    def run(self, given_steps: list[tuple[str, int]]) -> Session:
        for what, which in given_steps:
            self.step(what, which)
        return self


@given(steps)
def test_an_ack_names_an_outstanding_delivery_and_covers_finished_ones_only(
    given_steps: list[tuple[str, int]],
) -> None:
    Session().run(given_steps).collect()


@given(steps)
def test_a_collect_leaves_nothing_finished_behind(given_steps: list[tuple[str, int]]) -> None:
    session = Session().run(given_steps)
    session.collect()
    assert not session.finished & set(session.channel.unacknowledged)


@given(steps, st.randoms(use_true_random=False))
def test_every_delivery_is_settled_exactly_once(given_steps: list[tuple[str, int]], random: Random) -> None:
    session = Session().run(given_steps)
    rest = list(session.channel.unacknowledged)
    random.shuffle(rest)
    for tag in rest:
        session.step("finish", tag)
        if random.random() < 0.3:
            session.collect()
    session.collect()
    assert sorted(session.channel.settled) == list(range(1, session.last + 1))


@given(st.integers(1, 40))
def test_deliveries_finished_together_share_one_ack(count: int) -> None:
    given_steps = [("deliver", 0)] * count + [("finish", tag) for tag in range(count, 0, -1)]
    session = Session().run(given_steps)
    session.collect()
    assert session.sent == [(count, count > 1)]
