"""How calls grow: what the broker says is read, and the model computes. Measurements are not made here."""

from __future__ import annotations

import importlib.util
import re

import pytest
from benchmarks import growth, readme
from benchmarks.growth import BASE, Case, Place, Result, expected, full, shares, work
from benchmarks.together import Cost, median

pytestmark = pytest.mark.timeout(1200)  # it measures

#: Of 100 µs the client takes 20, the worker 30 and the broker 50; of these its queue takes 10, and a channel 5.
ONE = Result(Cost(8_000.0, 20.0, 30.0, 50.0), 10.0, 5.0)


def test_what_the_broker_says_of_its_work_is_read() -> None:
    assert work('[{"<0.1.0>",false,7},\n {"<0.22.3>",true,11}]') == {"<0.1.0>": (False, 7), "<0.22.3>": (True, 11)}


def test_an_answer_that_says_nothing_is_an_error_not_a_share_of_zero() -> None:
    with pytest.raises(ValueError, match="no reductions"):
        work("[]")


def test_shares_are_of_what_was_done_between_two_looks_by_old_and_new_processes() -> None:
    before = {"queue": (True, 100), "channel": (False, 1000), "ended": (False, 5)}
    after = {"queue": (True, 130), "channel": (False, 1050), "new": (False, 20)}
    assert shares(before, after) == growth.Shares(queues=0.3, busiest=0.5)


@pytest.mark.parametrize(
    ("place", "rate", "what"),
    [
        (Place("", 2, 1, 1, 1), 20_000.0, "cores"),
        (Place("", 8, 1, 1, 1), 33_333.3, "workers"),
        (Place("", 8, 1, 4, 1), 50_000.0, "clients"),
        (Place("", 64, 8, 8, 1), 100_000.0, "queues"),
        (Place("", 64, 8, 8, 4), 266_666.7, "workers"),
        (Place("", 8, 16, 16, 16, nodes=3), 342_857.1, "nodes"),
    ],
)
def test_the_rate_is_that_at_which_the_first_thing_is_full(place: Place, rate: float, what: str) -> None:
    limits = expected(ONE, place)
    assert (full(limits), round(limits[what], 1)) == (what, rate)
    assert what in growth.REMEDIES


def test_each_client_and_worker_has_a_connection_and_the_fewer_of_them_are_full_first() -> None:
    busy = Result(ONE.cost, 0.0, 40.0)
    assert expected(busy, Place("", 64, 4, 2, 1))["lines"] == 50_000.0


def test_calls_in_a_cluster_cost_hops_and_none_on_a_single_node() -> None:
    assert growth.clustered_us(ONE, 1) == ONE.cost.broker_us
    assert growth.clustered_us(ONE, 3) == ONE.cost.broker_us + 2 * growth.hop_us(ONE)


def test_a_queue_is_reckoned_with_the_most_that_it_did_for_a_small_call() -> None:
    found = {
        BASE: ONE,
        Case(clients=8): Result(ONE.cost, 14.0, 5.0),
        Case(queues=10): Result(ONE.cost, 70.0, 5.0),
        Case(size=1024): Result(ONE.cost, 80.0, 5.0),
    }
    assert growth.loaded(found) == Result(ONE.cost, 14.0, 5.0)


def test_every_figure_has_a_median_of_its_own() -> None:
    assert median([Cost(1, 9, 5, 2), Cost(2, 7, 6, 3), Cost(3, 8, 4, 1)]) == Cost(2, 8, 5, 2)


def test_the_axes_are_those_that_are_promised() -> None:
    for axis, most in (("clients", 8), ("workers", 8), ("queues", 100), ("size", 1024 * 1024)):
        values = {getattr(case, axis) for case in growth.CASES}
        assert (min(values), max(values)) == (10 if axis == "size" else 1, most)


def test_the_report_says_how_far_the_model_is_from_what_was_measured() -> None:
    text = growth.document(dict.fromkeys(growth.CASES, ONE), cores=2, rounds=3, seconds=1.2)
    assert "what was measured is 0.40 of what is computed (0.40 to 0.40)" in text
    assert len(growth.measured_table(dict.fromkeys(growth.CASES, ONE), 2).splitlines()) == len(growth.CASES) + 2


# --- the parts of the README --------------------------------------------------------------------------------------


def test_a_part_is_replaced_and_the_rest_stays() -> None:
    document = readme.README.read_text()
    once = readme.replaced(document, "growth", "some figures")
    assert readme.replaced(once, "growth", "others") == once.replace("some figures", "others")
    begin, end = readme.MARKS["growth"], "<!-- end of growth -->"
    assert [once.split(begin)[0], once.split(end)[1]] == [document.split(begin)[0], document.split(end)[1]]


@pytest.mark.parametrize("part", readme.MARKS)
def test_the_readme_has_a_place_for_each_part(part: str) -> None:
    assert readme.replaced(readme.README.read_text(), part, "figures").count("figures\n\n<!-- end") == 1


def test_a_document_without_its_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="each of these marks once"):
        readme.replaced("no marks", "growth", "figures")


@pytest.mark.parametrize("mark", readme.MARKS.values())
def test_a_mark_names_a_command_that_there_is(mark: str) -> None:
    module = re.search(r"python -m (\S+)", mark)
    assert "make bench" in mark if module is None else importlib.util.find_spec(module[1])
