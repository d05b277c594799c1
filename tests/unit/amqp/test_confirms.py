"""Publish numbers of one channel."""

from __future__ import annotations

import pytest

from warren.amqp.confirms import Confirms


@pytest.fixture
def confirms() -> Confirms[str]:
    """Three publishes."""
    made: Confirms[str] = Confirms()
    for tag, item in enumerate("abc", start=1):
        made.sent(tag, item)
    return made


def test_one_is_settled(confirms: Confirms[str]) -> None:
    assert confirms.take(2, False) == ["b"]
    assert len(confirms) == 2


def test_all_up_to_one_are_settled_oldest_first(confirms: Confirms[str]) -> None:
    assert confirms.take(2, True) == ["a", "b"]
    assert 3 in confirms


def test_all_are_settled_by_the_last(confirms: Confirms[str]) -> None:
    assert confirms.take(3, True) == ["a", "b", "c"]


@pytest.mark.parametrize("multiple", [False, True])
def test_a_publish_is_settled_once(confirms: Confirms[str], multiple: bool) -> None:
    confirms.take(2, True)
    assert confirms.take(2, multiple) == []


@pytest.mark.parametrize("tag", [0, 4, -1])
def test_unknown_numbers_are_ignored(confirms: Confirms[str], tag: int) -> None:
    assert confirms.take(tag, False) == []
    confirms.forget(tag)
    assert len(confirms) == 3


def test_what_was_forgotten_is_not_settled(confirms: Confirms[str]) -> None:
    confirms.forget(1)
    assert confirms.take(2, True) == ["b"]


def test_a_lost_channel_gives_back_what_it_left_unsettled(confirms: Confirms[str]) -> None:
    confirms.take(2, False)
    assert confirms.lost() == ["a", "c"]
    assert len(confirms) == 0
