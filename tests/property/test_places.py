"""Places under any order of coming, ending and giving up, against a list that is searched from the beginning."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warren.server.places import Places

KINDS = "abc"
events = st.lists(st.tuples(st.sampled_from(["come", "come", "end", "give up"]), st.integers(0, 20)), max_size=60)
limits = st.dictionaries(st.sampled_from(KINDS), st.integers(1, 3), max_size=3)


class Plain:
    """What places promise, in the simplest words."""

    def __init__(self, limit: int, limits: dict[str, int]) -> None:
        self.limit, self.limits = limit, limits
        self.running: list[tuple[str, int]] = []
        self.waiting: list[tuple[str, int]] = []

    def begin(self) -> list[tuple[str, int]]:
        """Those that can begin now: the first of each kind, in the order in which they have come."""
        begun = []
        for item in list(self.waiting):
            kind = item[0]
            of_kind = sum(kind == other for other, _ in self.running)
            if len(self.running) < self.limit and of_kind < self.limits.get(kind, self.limit):
                self.waiting.remove(item)
                self.running.append(item)
                begun.append(item)
        return begun


@given(st.integers(1, 4), limits, events)
def test_places_go_to_whoever_can_begin_in_the_order_of_arrival(
    limit: int, limits: dict[str, int], events: list[tuple[str, int]]
) -> None:
    places: Places[tuple[str, int]] = Places(limit, limits)
    plain = Plain(limit, limits)
    for number, (what, choice) in enumerate(events):
        begun = []
        if what == "come":
            item = (KINDS[choice % len(KINDS)], number)
            plain.waiting.append(item)
            begun = [item] if places.take(item, item[0]) else []
        elif what == "end" and plain.running:
            places.leave(plain.running.pop(choice % len(plain.running)))
        elif what == "give up" and plain.waiting:
            assert places.withdraw(plain.waiting.pop(choice % len(plain.waiting)))
        while (item_or_none := places.next()) is not None:
            begun.append(item_or_none)
        assert begun == plain.begin()
        assert (places.waiting(), places.waits) == (plain.waiting, len(plain.waiting))
        assert set(places.taken) == set(plain.running)
