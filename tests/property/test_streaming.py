"""The credit of streams: whatever is lost, late or slow on the way, a worker is never far ahead, and never stuck.

The machine plays worker, network and caller with the parts that the real ones have, and an oracle that knows more than
each of them: what was yielded, and what is under way.
"""

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from warren.protocol.streaming import Ahead, Behind, Window, Written, together

_MOST = 50  # bytes of items that travel together


class Stream(RuleBasedStateMachine):
    """A worker whose buffer is flushed now and then; messages in order, credit that may be lost."""

    @initialize(items=st.integers(1, 8), size=st.integers(1, 60))
    def begin(self, items: int, size: int) -> None:
        self.window = Window(items, size)
        self.ahead, self.behind = Ahead(self.window), Behind(self.window)
        self.yielded: list[int] = []  # the oracle: sizes of all items
        self.buffer: list[bytes] = []
        self.flushed = 0
        self.under_way: deque[tuple[int, list[Written]]] = deque()
        self.kept: deque[tuple[int, int]] = deque()  # at the caller: numbers and sizes of messages
        self.taken: tuple[int, int] | None = None
        self.credit: deque[int] = deque()

    @precondition(lambda self: self.ahead.has_room)
    @rule(size=st.integers(0, 90))
    def the_worker_yields(self, size: int) -> None:
        self.ahead.send(size)
        self.yielded.append(size)
        self.buffer.append(b"x" * size)

    @precondition(lambda self: self.buffer)
    @rule()
    def the_worker_flushes(self) -> None:
        for group in together(self.buffer, _MOST):
            self.under_way.append((self.flushed, group))
            self.flushed += len(group)
        self.buffer = []

    @precondition(lambda self: self.under_way)
    @rule()
    def a_message_comes(self) -> None:
        seq, group = self.under_way.popleft()
        size = sum(map(len, group)) + len(group) + 1  # with what holds an array together
        assert self.behind.take(seq, len(group), size) == ""
        self.kept.append((len(group), size))

    @precondition(lambda self: self.kept)
    @rule()
    def the_caller_takes_a_message(self) -> None:
        self._consume()
        self.taken = self.kept.popleft()

    @precondition(lambda self: not self.kept)
    @rule()
    def the_caller_waits(self) -> None:
        self._consume()

    def _consume(self) -> None:
        taken, self.taken = self.taken, None
        if taken is not None and self.behind.consume(*taken):
            self.credit.append(self.behind.tell())

    @precondition(lambda self: self.credit)
    @rule()
    def credit_comes(self) -> None:
        self.ahead.consumed(self.credit.popleft())

    @precondition(lambda self: self.credit)
    @rule()
    def credit_is_lost(self) -> None:
        self.credit.popleft()

    @precondition(lambda self: len(self.credit) > 1)
    @rule()
    def credit_comes_twice_and_late(self) -> None:
        late = self.credit[0]
        for count in self.credit:
            self.ahead.consumed(count)
        self.ahead.consumed(late)
        self.credit.clear()

    @rule()
    def the_caller_tells_it_again(self) -> None:
        self.ahead.consumed(self.behind.tell())
        self.credit.clear()

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def what_is_kept_anywhere_is_bounded(self) -> None:
        if hasattr(self, "yielded"):
            unconsumed = self.yielded[self.behind.consumed :]
            assert len(unconsumed) <= self.window.items
            assert sum(unconsumed[:-1]) < self.window.bytes  # all but the last one

    @invariant()
    def the_worker_counts_as_the_oracle_does(self) -> None:
        if hasattr(self, "yielded"):
            assert self.ahead.sent == len(self.yielded)
            assert self.behind.came + sum(len(g) for _, g in self.under_way) + len(self.buffer) == len(self.yielded)

    @invariant()
    def nobody_waits_for_the_other(self) -> None:
        """A worker without room has something under way, at its caller, or credit coming; or it was lost."""
        if hasattr(self, "yielded") and not self.ahead.has_room:
            again = Ahead(self.window)
            for size in self.yielded:
                again.send(size)
            again.consumed(self.behind.consumed)
            moving = self.buffer or self.under_way or self.kept or self.taken or self.credit
            assert moving or again.has_room  # telling again, as a caller does that waits, is enough

    @invariant()
    def without_loss_nothing_has_to_be_told_again(self) -> None:
        """A caller that has consumed all of a used-up window has told it, or does so."""
        if hasattr(self, "yielded") and self.behind.consumed == len(self.yielded):
            untold = self.yielded[self.behind._told :]
            assert len(untold) < max(1, self.window.items // 2) or self.window.items == 1
            assert sum(untold) < self.window.bytes


TestStream = Stream.TestCase


def test_signs_of_life_take_nothing_of_the_window() -> None:
    """Each has two bytes, and nobody consumes it: a stream that had waited for long broke once its window was used."""
    behind = Behind(Window(4, 52))
    for _ in range(100):
        assert behind.take(0, 0, len(b"[]")) == ""
    assert behind.take(0, 1, 59) == ""
    assert behind.take(1, 1, 59) == ""
    assert "used up" in behind.take(2, 1, 59)
