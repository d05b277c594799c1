"""The window of a batch: what is handed out, when, and in which order; tests/contract/test_map.py has real batches."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren import Client, Outcome, Service, star
from warren.client.batches import Begun, Window, make_window


def begin(window: Window, item: Any) -> Begun:
    begun = window.begin(item)
    begun.future = Future()
    return begun


@given(st.integers(1, 5), st.booleans(), st.lists(st.integers(0, 9), max_size=40))
def test_a_window_is_bounded_and_hands_everything_out_once(size: int, ordered: bool, choices: list[int]) -> None:
    window = Window(size, ordered=ordered)
    under_way: list[Begun] = []
    ended: list[int] = []
    handed_out: list[int] = []
    begun = 0
    for choice in [*choices, *range(100)]:
        if choice % 2 and window.has_room and begun < len(choices):
            begun += 1
            under_way.append(begin(window, begun))
        elif under_way:
            one = under_way.pop(choice % len(under_way))
            window.end(one.number)
            ended.append(one.item)
        if choice % 3 == 0 and (taken := window.take()) is not None:
            handed_out.append(taken.item)
        assert begun - len(handed_out) <= size
    while (taken := window.take()) is not None:
        handed_out.append(taken.item)
    assert window.is_empty
    assert handed_out == (sorted(ended) if ordered else ended)


def test_an_outcome_has_its_item_and_a_result_or_an_error() -> None:
    assert Outcome("tea", 3, None).result() == 3
    failed: Outcome[str, int] = Outcome("milk", None, KeyError("milk"))
    with pytest.raises(KeyError, match="milk"):
        failed.result()
    assert repr(failed) == "Outcome(item='milk', error=KeyError('milk'))"


def test_a_starred_function_takes_a_tuple() -> None:
    assert star(divmod)((7, 2)) == (3, 1)
    with pytest.raises(TypeError, match="is a name"):
        star("shop.place")(("tea", 1))


@pytest.mark.parametrize(
    ("given_options", "error", "words"),
    [
        ({"in_flight": 0}, ValueError, "in_flight=0 must be at least 1"),
        ({"in_flight": True}, TypeError, "in_flight=True is not a whole number"),
        ({"ordered": "yes"}, TypeError, "ordered='yes' must be True or False"),
        ({"errors": "ignore"}, ValueError, "errors='ignore' is not one of raise, return"),
        ({"progress": 3}, TypeError, "progress=3 cannot be called"),
    ],
)
def test_options_that_make_no_sense_are_refused(given_options: Any, error: type[Exception], words: str) -> None:
    options = {"errors": "raise", "in_flight": 1, "ordered": True, "progress": None, **given_options}
    with pytest.raises(error, match=words):
        make_window([], **options)


def test_targets_and_items_that_are_none_are_refused_before_anything_is_opened() -> None:
    service = Service("shop")
    service.method(name="place")(lambda item: item)
    client: Any = Client()
    with pytest.raises(TypeError, match="is nothing to take items from"):
        client.map("shop.place", 3)
    with pytest.raises(TypeError, match="is not a method of a service"):
        client.map(len, [1])
    with pytest.raises(ValueError, match="does not name a method"):
        client.map("place", [1])

    async def items() -> Any:
        yield 1

    with pytest.raises(TypeError, match="use an AsyncClient"):
        client.map("shop.place", items())
