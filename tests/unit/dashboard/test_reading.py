"""What peers claim is checked, escaped and bounded before anything is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from warren.dashboard.reading import MOST_METHODS, NAME, read
from warren.histogram import Histogram
from warren.operate.told import Calls, Health, Info, Stats
from warren.operate.told import durations as read_durations


def stats(**method: Any) -> dict[str, Any]:
    return {"uptime": 1.0, "services": {"calc": {"methods": {"fib": method}}}}


def test_what_a_server_says_is_read() -> None:
    durations = Histogram()
    durations.record_all([0.1, 0.2])
    said = read(Stats, stats(ended=2, wait=durations.as_object(), work=durations.as_object()))
    method = said.services["calc"].methods["fib"]
    assert method.ended == 2
    assert read_durations(method.work).percentile(99) == pytest.approx(0.2, rel=0.02)


def test_what_is_not_known_is_left_out() -> None:
    assert read(Health, {"healthy": True, "state": "serving", "mood": "good"}).healthy


@pytest.mark.parametrize(
    "body",
    [
        {"services": "many"},
        {"uptime": None},
        stats(ended=-1),
        stats(ended=10**400),
        stats(work={"buckets": {"9999999": 1}}),  # a duration that no float can hold
        stats(work={"buckets": {"1200": -1}}),
        stats(callers={"x": {"count": "many"}}),
    ],
)
def test_what_makes_no_sense_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(Stats, body)


def test_names_are_escaped_and_cut() -> None:
    said = read(Info, {"host": "a\x1b[2Jb\u202e", "services": [{"name": "x" * 10_000}]})
    assert said.host == "a\\x1b[2Jb\\u202e"
    assert len(said.services[0].name) == NAME


def test_texts_keep_their_lines_and_nothing_else_that_is_not_printable() -> None:
    said = read(Info, {"services": [{"name": "calc", "description": "one\ntwo\r\x00"}]})
    assert said.services[0].description == "one\ntwo\\r\\x00"


def test_a_crowd_of_methods_is_cut() -> None:
    crowd: dict[str, Any] = {f"m{n}": {} for n in range(MOST_METHODS + 100)}
    said = read(Stats, {"services": {"calc": {"methods": crowd}}})
    assert len(said.services["calc"].methods) == MOST_METHODS


def test_a_schema_that_nobody_can_read_is_left_out() -> None:
    method = {"name": "fib", "arguments": {"description": "x" * 1_000_000}, "result": {"type": "integer"}}
    (found,) = read(Info, {"services": [{"name": "calc", "methods": [method]}]}).services[0].methods
    assert (found.arguments, found.result) == (None, {"type": "integer"})


def test_calls_are_read_without_the_names_that_are_not_there() -> None:
    (call,) = read(Calls, {"calls": [{"service": "calc", "method": None, "call_id": None, "age": 1}]}).calls
    assert (call.method, call.call_id, call.age) == (None, None, 1.0)
