"""A short soak, and the proof that its books show what they are kept for."""

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rabbit import Node
from tests.faults.books import TIMEOUT, WAIT, Deletion, Entry, Verdict, judge
from tests.faults.soak import CARDS, KILL, RESTART, Soak, growth, schedule

SECONDS = 60.0


@pytest.mark.scenario(
    110,
    "A soak of a minute under random faults from a seed: every call ends once, in its own result or a typed error,"
    " with true evidence; nothing that may not runs twice; nothing is left behind. `make soak` does it for 10 minutes.",
)
@pytest.mark.timeout(300)
async def test_every_call_of_a_soak_is_accounted_for(
    breakable_rabbit: Node, service_name: str, tmp_path: Path, seed: int
) -> None:
    report = await Soak(breakable_rabbit, service_name, tmp_path, SECONDS, seed).run()
    print(report)
    assert report.wrong == []
    assert report.endings["call: result"] > 100
    assert report.faults.total() > 3
    assert report.faults[KILL]


def test_each_fault_has_its_turn_in_a_pack_of_cards_and_the_broker_is_killed_early() -> None:
    cards, size = schedule(random.Random(1)), sum(CARDS.values()) + 1
    for end in (KILL, RESTART, KILL):
        pack = list(itertools.islice(cards, size))
        assert Counter(pack) == Counter(CARDS) + Counter([end])
        assert pack.index(end) < size / 3


GOOD = Entry("1", "s-classic", "report", "call", False, False, 100.0, 0.1, "result", "")
CAST = GOOD._replace(kind="cast")


def verdict(
    *entries: Entry,
    runs: int,
    begun: tuple[str, ...] = ("1",),
    dead: tuple[str, ...] = (),
    deletions: tuple[Deletion, ...] = (),
) -> Verdict:
    return judge(entries, set(begun), Counter({"1": runs}), set(dead), deletions)


def books(*entries: Entry, runs: int, begun: tuple[str, ...] = ("1",), dead: tuple[str, ...] = ()) -> list[str]:
    return verdict(*entries, runs=runs, begun=begun, dead=dead).wrong


def test_good_books_are_good() -> None:
    assert books(GOOD, runs=1) == []
    assert books(GOOD._replace(reason="WORKER_LOST", execution="UNKNOWN"), runs=0) == []
    assert books(GOOD._replace(mode="at-least-once"), runs=3) == []
    assert Entry.parse(GOOD.line()) == GOOD


@pytest.mark.parametrize(
    ("change", "runs", "what"),
    [
        ({}, 0, "no handler ran"),
        ({}, 2, "ran more than once"),
        ({"mode": "at-most-once", "reason": "CLIENT_TIMER", "execution": "UNKNOWN"}, 2, "ran more than once"),
        ({"reason": "NOT_CONNECTED", "execution": "NOT_SENT"}, 1, "evidence that it did not run"),
        ({"reason": "ON_ARRIVAL", "execution": "NOT_EXECUTED"}, 1, "evidence that it did not run"),
        ({"reason": "POISON", "execution": "EXECUTED"}, 0, "evidence that it ran"),
        ({"reason": "wrong: '2 done'"}, 1, "no fault of the schedule"),
        ({"reason": "RuntimeError()"}, 1, "no fault of the schedule"),
        ({"seconds": TIMEOUT + 60}, 1, "outlived its deadline"),
        ({"mode": "at-least-once", "kind": "cast"}, 0, "a confirmed cast is lost"),
        ({"kind": "cast"}, 0, "a confirmed cast is lost"),
    ],
)
def test_the_books_show_a_false_ending(change: dict[str, Any], runs: int, what: str) -> None:
    [wrong] = books(GOOD._replace(**change), runs=runs)
    assert what in wrong


def test_the_books_show_calls_that_never_ended_or_ended_twice_or_were_nobodys() -> None:
    assert books(runs=0) == ["1: ended 0 times"]
    assert "1: ended 2 times" in books(GOOD, GOOD, runs=1)
    assert books(GOOD, runs=1, begun=()) == ["1: ran, but nobody called it"]


def test_a_cast_may_be_set_aside() -> None:
    assert books(CAST, runs=0, dead=("1",)) == []
    assert books(CAST, runs=0, dead=("2",)) != []


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
