"""A short soak, and the proof that its books show what they are kept for."""

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rabbit import Node
from tests.faults.books import TIMEOUT, WAIT, Books, Break, Deletion, Entry, Run, SetAside, Verdict
from tests.faults.soak import CARDS, KILL, RESTART, Soak, growth, schedule

pytestmark = pytest.mark.timeout(1200)  # a minute, and what comes after

SECONDS = 60.0


@pytest.mark.scenario(
    110,
    "A soak of a minute under random faults from a seed, with hasty and cancelled callers, odd exceptions, poison and"
    " workers of two versions: every call ends once, in its own result or a typed error, with true evidence; nothing"
    " runs, or is set aside, more often than it may; nothing is left behind, and no table of a client or a worker holds"
    " anything. `make soak` does it for 10 minutes.",
)
async def test_every_call_of_a_soak_is_accounted_for(
    breakable_rabbit: Node, service_name: str, tmp_path: Path, seed: int
) -> None:
    report = await Soak(breakable_rabbit, service_name, tmp_path, SECONDS, seed).run()
    print(report)
    assert report.wrong == []
    assert report.endings["call: result"] > 100
    assert report.faults.total() > 3
    assert report.faults[KILL]
    assert report.endings["call: cancelled"]
    assert report.endings["call: HANDLER_EXCEPTION EXECUTED"]


def test_each_fault_has_its_turn_in_a_pack_of_cards_and_the_broker_is_killed_early() -> None:
    cards, size = schedule(random.Random(1)), sum(CARDS.values()) + 1
    for end in (KILL, RESTART, KILL):
        pack = list(itertools.islice(cards, size))
        assert Counter(pack) == Counter(CARDS) + Counter([end])
        assert pack.index(end) < size / 3


GOOD = Entry("1", "s-classic", "report", "report", "call", begun=100.0, seconds=0.1)
CAST = GOOD._replace(kind="cast")
FAILED = CAST._replace(act="error")
AGAIN = GOOD._replace(method="at-least-once", mode="at-least-once")


def verdict(
    *entries: Entry, runs: int, begun: tuple[str, ...] = ("1",), dead: tuple[str | None, ...] = (), **more: Any
) -> Verdict:
    """The books of some entries of key 1, which ran so often and was set aside for these reasons."""
    deaths = {"1": [SetAside(cause) for cause in dead]} if dead else {}
    return Books(entries, set(begun), [Run("1", 100.0 + number) for number in range(runs)], deaths, **more).judge()


def books(*entries: Entry, runs: int, **more: Any) -> list[str]:
    return verdict(*entries, runs=runs, **more).wrong


def test_good_books_are_good() -> None:
    assert books(GOOD, runs=1) == []
    assert books(GOOD._replace(reason="WORKER_LOST", execution="UNKNOWN"), runs=0) == []
    assert books(AGAIN, runs=3) == []
    assert books(GOOD._replace(act="error", reason="HANDLER_EXCEPTION", execution="EXECUTED"), runs=1) == []
    assert books(GOOD._replace(method="new", reason="METHOD", execution="NOT_EXECUTED"), runs=0) == []
    assert books(GOOD._replace(cancelled=True, reason="cancelled"), runs=1) == []
    assert books(AGAIN._replace(act="die", reason="POISON", execution="UNKNOWN"), runs=3, dead=("POISON",)) == []
    assert Entry.parse(GOOD.line()) == GOOD


@pytest.mark.parametrize(
    ("change", "runs", "what"),
    [
        ({}, 0, "no handler ran"),
        ({}, 2, "ran more than once"),
        ({"mode": "at-most-once", "reason": "CLIENT_TIMER", "execution": "UNKNOWN"}, 2, "ran more than once"),
        ({"mode": "at-least-once"}, 4, "ran more than 3 times"),
        ({"reason": "NOT_CONNECTED", "execution": "NOT_SENT"}, 1, "evidence that it did not run"),
        ({"reason": "ON_ARRIVAL", "execution": "NOT_EXECUTED"}, 1, "evidence that it did not run"),
        ({"method": "new", "reason": "METHOD", "execution": "NOT_EXECUTED"}, 1, "evidence that it did not run"),
        ({"reason": "WORKER_LOST", "execution": "EXECUTED"}, 0, "evidence that it ran"),
        ({"act": "error", "reason": "HANDLER_EXCEPTION", "execution": "UNKNOWN"}, 1, "without the evidence"),
        ({"act": "error"}, 1, "nothing explains"),
        ({"reason": "HANDLER_EXCEPTION", "execution": "EXECUTED"}, 1, "nothing explains"),
        ({"reason": "METHOD", "execution": "UNKNOWN"}, 1, "nothing explains"),
        ({"reason": "wrong: '2 done'"}, 1, "nothing explains"),
        ({"reason": "RuntimeError()"}, 1, "nothing explains"),
        ({"reason": "cancelled"}, 1, "nothing explains"),
        ({"reason": "POISON", "execution": "UNKNOWN"}, 1, "not in the dead queue"),
        ({"seconds": TIMEOUT + 60}, 1, "outlived its deadline"),
        ({"seconds": 20.0, "timeout": 0.05}, 1, "outlived its deadline"),
        ({"mode": "at-least-once", "kind": "cast"}, 0, "neither done nor set aside"),
        ({"kind": "cast"}, 0, "neither done nor set aside"),
        ({"kind": "cast", "act": "error"}, 1, "neither done nor set aside"),
    ],
)
def test_the_books_show_a_false_ending(change: dict[str, Any], runs: int, what: str) -> None:
    [wrong] = books(GOOD._replace(**change), runs=runs)
    assert what in wrong


def test_the_books_show_calls_that_never_ended_or_ended_twice_or_were_nobodys() -> None:
    assert books(runs=0) == ["1: ended 0 times"]
    assert "1: ended 2 times" in books(GOOD, GOOD, runs=1)
    assert books(GOOD, runs=1, begun=()) == ["1: ran, but nobody called it"]


def test_a_cast_may_be_set_aside_once_for_a_cause_that_fits() -> None:
    assert books(CAST, runs=0, dead=("WORKER_LOST",)) == []
    assert books(FAILED, runs=1, dead=("HANDLER_EXCEPTION",)) == []
    assert books(CAST._replace(act="large"), runs=0, dead=("rejected",)) == []
    assert "is dead, but nobody called it" in books(CAST, runs=0, dead=("WORKER_LOST",), begun=())[0]
    for dead, what in [
        ((None,), "without a cause"),
        (("HANDLER_EXCEPTION",), "set aside as HANDLER_EXCEPTION"),
        (("WORKER_LOST", "WORKER_LOST"), "more than once"),
    ]:
        assert what in books(CAST, runs=0, dead=dead)[0]


@pytest.mark.parametrize(
    ("broke", "excused"),
    [
        (Break(100.0, 103.0), True),
        (Break(50.0, 60.0), False),  # it was over before
        (Break(200.0, 203.0), False),  # by then it had run
        (Break(100.0, 100.0, by="2"), True),  # another request killed a worker
        (Break(100.0, 100.0, by="1"), False),  # it did so itself
    ],
)
def test_the_break_of_a_link_may_bring_a_request_back(broke: Break, excused: bool) -> None:
    again = books(AGAIN, runs=4, breaks=[broke])
    assert (again == []) is excused
    twice = books(CAST, runs=1, dead=("WORKER_LOST", "WORKER_LOST"), breaks=[broke])
    assert (twice == []) is excused


@pytest.mark.parametrize(
    ("again", "excused"),
    [
        (121.0, True),  # setting it aside took until a link broke
        (101.0, False),  # it was done before
        (None, False),  # nobody knows
    ],
)
def test_a_break_before_it_was_set_aside_again_explains_that(again: float | None, excused: bool) -> None:
    twice = {"1": [SetAside("HANDLER_EXCEPTION", 100.5), SetAside("HANDLER_EXCEPTION", again)]}
    broke = Break(120.0, 120.5)
    wrong = Books([FAILED], {"1"}, [Run("1", 100.0)], twice, breaks=[broke]).judge().wrong
    assert (wrong == []) is excused


@pytest.mark.parametrize(
    ("deletion", "excused"),
    [
        (Deletion("s-classic", 101.0), 1),
        (Deletion("s-classic", 99.0), 0),  # it came later
        (Deletion("s-classic", 101.0 + WAIT), 0),  # by then it had run
        (Deletion("s-quorum", 101.0), 0),
    ],
)
def test_a_cast_may_be_lost_with_the_queue_that_it_waited_in(deletion: Deletion, excused: int) -> None:
    got = verdict(CAST, runs=0, deletions=(deletion,))
    assert got.excused == excused
    assert len(got.wrong) == 1 - excused


def test_growth_compares_the_last_third_with_the_first() -> None:
    assert growth([100, 100, 900, 150, 150, 150]) == 50
    assert growth([7]) == 0
