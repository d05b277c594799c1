"""Functions, classes and files stay short enough to be read at once; `make map` prints the figures."""

from functools import cache

import pytest

from floorplan import Size, floors, percentile, read, rooms, sizes

TREES = cache(read)  # not when the tests are collected: each parallel worker does that
SIZES = cache(lambda: sizes(TREES()))

CLASS, FILE = 200, 450

#: Longer than they should be, from before these limits. Lines only go out of these lists.
LONG_CLASSES: frozenset[str] = frozenset()
LONG_FILES: frozenset[str] = frozenset()


def longer(found: list[Size], limit: int) -> dict[str, int]:
    return {size.name: size.lines for size in found if size.lines > limit}


def test_functions_are_short() -> None:
    assert percentile(SIZES().functions, 0.5) <= 5
    assert percentile(SIZES().functions, 0.95) <= 17


@pytest.mark.parametrize(
    ("kind", "limit", "excused"),
    [
        pytest.param("classes", CLASS, LONG_CLASSES, id="classes"),
        pytest.param("files", FILE, LONG_FILES, id="files"),
    ],
)
def test_nothing_else_grows_long(kind: str, limit: int, excused: frozenset[str]) -> None:
    long = longer(getattr(SIZES(), kind), limit)
    assert {name: lines for name, lines in long.items() if name not in excused} == {}
    assert excused - long.keys() == set(), "short now, or gone: take it out of the list"


def test_no_rooms_import_each_other() -> None:
    assert floors(rooms(TREES()))["warren"] > 0  # it raises CycleError where they do
