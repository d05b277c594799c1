"""Places: how much runs at a time, of all methods and of one; tests/property/test_places.py has any order of events."""

from __future__ import annotations

import pytest

from warren.server.places import Places


@pytest.fixture
def places() -> Places[str]:
    """Three of them, of which the letter a may have one."""
    return Places(3, {"a": 1})


def take(places: Places[str], *items: str) -> list[str]:
    """Those of the items that get a place at once."""
    return [item for item in items if places.take(item, item[0])]


def test_a_full_kind_is_overtaken_by_others(places: Places[str]) -> None:
    assert take(places, "a1", "a2", "b1", "b2") == ["a1", "b1", "b2"]
    assert places.waiting() == ["a2"]


def test_a_place_that_comes_back_goes_to_the_first_that_can_begin(places: Places[str]) -> None:
    take(places, "a1", "b1", "b2", "a2", "b3")
    places.leave("b1")
    assert (places.next(), places.next()) == ("b3", None)
    places.leave("a1")
    assert (places.next(), places.next()) == ("a2", None)


def test_of_those_that_can_begin_the_oldest_does(places: Places[str]) -> None:
    take(places, "a1", "b1", "b2", "a2", "b3")
    places.leave("a1")
    assert places.next() == "a2"


def test_nobody_overtakes_within_a_kind(places: Places[str]) -> None:
    take(places, "a1", "a2")
    places.leave("a1")
    assert take(places, "a3") == []
    assert (places.next(), places.next()) == ("a2", None)


def test_a_limit_beyond_that_of_all_changes_nothing() -> None:
    places: Places[str] = Places(2, {"a": 5})
    assert take(places, "a1", "a2", "a3", "b1") == ["a1", "a2"]
    assert places.waiting() == ["a3", "b1"]


def test_what_is_withdrawn_waits_no_more(places: Places[str]) -> None:
    take(places, "a1", "a2", "a3")
    assert places.withdraw("a2")
    assert not places.withdraw("a2")
    assert not places.withdraw("a1")  # it does not wait
    places.leave("a1")
    assert (places.next(), places.waits) == ("a3", 0)


def test_leaving_without_a_place_changes_nothing(places: Places[str]) -> None:
    take(places, "a1", "a2")
    places.leave("a2")
    assert (places.next(), places.waiting(), list(places.taken)) == (None, ["a2"], ["a1"])
