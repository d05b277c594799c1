"""What the worker machine has found, each as the shortest story of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.property.test_worker_machine import WorkerMachine
from tests.support.worker_parts import Wish
from warren.amqp.frames import decode_properties
from warren.amqp.tables import decode_table
from warren.protocol.control import Cancel


def wish(method: str = "report", **how: Any) -> Wish:
    plain = {
        "kind": "cast",
        "timeout": None,
        "now": "return",
        "around": "",
        "around_again": "",
        "on_cancel": "give in",
        "odd": "ValueError",
        "flaw": "",
        "before": "",
        "cut": "",
    }
    return Wish(method=method, **{**plain, **how})


@pytest.fixture
def machine() -> Iterator[WorkerMachine]:
    machine = WorkerMachine()
    yield machine
    machine.teardown()  # which checks all that the machine checks


def begin(machine: WorkerMachine, *wishes: Wish, broken: Any = None) -> None:
    machine.begin(1, middleware=False, tracebacks=False, broken=broken, wishes=list(wishes))


def test_who_waited_for_a_place_begins_in_a_context_of_its_own(machine: WorkerMachine) -> None:
    begin(machine, wish("once", now="wait"), wish("once"))
    machine.work_goes_on("return")
    assert [asked.ran for asked in machine.requests] == [1, 1]


def test_who_waited_for_a_place_begins_only_when_all_acks_behind_copies_are_proven(machine: WorkerMachine) -> None:
    begin(machine, wish(now="wait"), wish("again", before="attempt"))
    machine.attempts_were_lost_elsewhere([wish("again", before="redelivered")], "take")
    machine.work_goes_on("return")
    assert machine.requests[1].entries == 0
    machine.broker_reads(outlet=False, count=3, fate="take")
    machine.work_goes_on("return")
    assert machine.requests[1].entries == 1


def test_what_was_dead_before_is_handed_back_as_a_later_attempt(machine: WorkerMachine) -> None:
    begin(machine)
    machine.drain()
    machine.deliver([wish(kind="call", before="died", timeout=0.0)])
    machine.finish()
    machine.copies_are_taken()
    machine._come_to_rest()
    assert machine.requests[0].told == ["UNKNOWN"]


@pytest.mark.parametrize("kind", ["call", "cast"])
def test_what_is_safe_in_the_dead_queue_is_not_set_aside_again(machine: WorkerMachine, kind: str) -> None:
    dying = wish("again", kind=kind, before="last attempt")
    begin(machine, dying, broken=("ending", "_let_go", 1, RuntimeError))
    machine.copies_are_taken()
    machine.work_goes_on("return")
    assert machine.sabotage.done
    assert [message.request for message in machine.broker.dead] == machine.requests


def test_the_caller_of_what_was_handed_back_hears_of_no_end(machine: WorkerMachine) -> None:
    begin(machine, broken=("ending", "_let_go", 1, RuntimeError))
    machine.drain()
    machine.deliver([wish(kind="call")])
    machine.hand_back()
    machine.copies_are_taken()
    assert machine.sabotage.done
    assert machine.requests[0].told == []


def test_what_comes_back_with_its_channel_is_not_set_aside_any_more(machine: WorkerMachine) -> None:
    begin(machine, wish("gone"))
    machine.broker_reads(outlet=True, count=1, fate="refuse")
    machine.copies_are_taken()
    machine.something_goes("channel")
    machine.pass_time(6.0)
    machine.copies_are_taken()
    assert machine.broker.dead == []


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_suspect_that_can_be_given_no_place_is_settled(machine: WorkerMachine, kind: type[BaseException]) -> None:
    begin(machine, wish(), broken=("places", "take", 2, kind))
    machine.attempts_were_lost_elsewhere([wish("again", before="redelivered")], "take")
    machine.broker_reads(outlet=False, count=3, fate="take")
    machine._come_to_rest()
    assert machine.sabotage.done


def test_a_suspect_that_is_too_late_leaves_its_place_to_the_one_behind_it(machine: WorkerMachine) -> None:
    begin(machine, wish("again", before="redelivered"))  # its copy stays unconfirmed
    machine.deliver([wish("again", timeout=0.3, before="attempt"), wish("again", before="attempt")])
    machine.pass_time(6.0)
    machine.pass_time(6.0)
    assert [asked.entries for asked in machine.requests] == [0, 0, 1]


def test_a_suspect_does_not_begin_while_its_worker_closes(machine: WorkerMachine) -> None:
    begin(machine, wish("again", before="redelivered"))  # its copy stays unconfirmed
    machine.deliver([wish("again_threaded", before="attempt")])
    threads = machine.threads
    machine.something_goes("process")
    assert threads.jobs == []


@pytest.mark.parametrize("fate", ["refuse", "return"])
@pytest.mark.parametrize("kind", ["call", "cast"])
def test_what_was_dead_before_is_of_unknown_end_also_when_it_cannot_be_handed_back(
    machine: WorkerMachine, kind: str, fate: str
) -> None:
    begin(machine)
    machine.drain()
    machine.deliver([wish(kind=kind, before="died")])
    machine.hand_back()
    for _ in range(4):  # by both ways, and again when its patience is over
        machine.broker_reads(outlet=True, count=1, fate=fate)
        machine.broker_answers(2, old=False)
        machine.pass_time(6.0)
    machine.broker_reads(outlet=False, count=1, fate="take")
    machine.copies_are_taken()
    told = machine.requests[0].told
    if kind == "cast":
        told = [
            decode_table(decode_properties(dead.properties).table or b"")["rpc-dead-executed"]
            for dead in machine.broker.dead
        ]
    assert told == ["UNKNOWN"]


def test_what_its_caller_has_given_up_waits_for_no_place_as_others_come_for_it(machine: WorkerMachine) -> None:
    begin(machine, wish("single", now="wait"))
    for _ in range(3):
        machine.deliver([wish("single", kind="call", timeout=30.0)])
        machine.callers_give_up(0, 1, 30_000)
    assert machine.worker._places.waiting() == []
    machine.work_goes_on("return")
    assert [asked.entries for asked in machine.requests] == [1, 0, 0, 0]


def test_a_suspect_that_its_caller_has_given_up_is_not_kept(machine: WorkerMachine) -> None:
    begin(machine, wish("again", before="redelivered"))  # its copy stays unconfirmed
    machine.deliver([wish("again", kind="call", before="attempt")])
    machine.callers_give_up(0, 1, 30_000)
    assert machine.worker._settler.releases.waiting == []


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_call_that_cannot_be_withdrawn_is_settled_and_the_others_are_withdrawn(
    machine: WorkerMachine, kind: type[BaseException]
) -> None:
    begin(machine, wish(now="wait"), broken=("endings", "withdraw", 1, kind))
    machine.deliver([wish(kind="call"), wish(kind="call")])
    calls = {str(asked.number): 1000 for asked in machine.requests[1:]}
    for asked in machine.requests[1:]:
        asked.given_up = True
    machine.loop.turn(lambda: machine.worker.withdrawals.apply([Cancel(calls, "replies")]))
    assert machine.sabotage.done
    assert [len(handed.settled) for handed in machine.broker.handed] == [0, 1, 1]


@pytest.mark.parametrize("method", ["report", "threaded", "wrapped", "once"])
def test_a_call_that_fails_between_its_start_and_its_handler_is_not_said_to_be_unexecuted_and_then_executed(
    machine: WorkerMachine, method: str
) -> None:
    begin(machine, wish(method, kind="call", cut="give up"), broken=("endings", "withdraw", 1, RuntimeError))
    machine.broker_reads(outlet=False, count=3, fate="take")
    machine.work_goes_on("return")
    asked = machine.requests[0]
    assert machine.sabotage.done
    assert (asked.told, asked.entries) in ((["NOT_EXECUTED"], 0), (["UNKNOWN"], 1))


def test_a_copy_whose_original_may_run_as_well_proves_nothing_of_it(machine: WorkerMachine) -> None:
    machine.begin(1, middleware=True, tracebacks=False, broken=None, wishes=[wish()])
    machine.drain()
    machine.deliver([wish("again", kind="call", around="raise")])  # which is refused at its first attempt only
    machine.finish()
    machine.broker_reads(outlet=True, count=1, fate="take")
    machine.something_goes("channel")  # before the ack behind the copy
    machine._come_to_rest()
    asked = machine.requests[1]
    assert (asked.entries, sorted(asked.told)) == (1, ["UNKNOWN", "result"])


def test_who_has_given_up_a_copy_may_hear_of_the_original_that_was_handed_back(machine: WorkerMachine) -> None:
    begin(machine)
    machine.drain()
    machine.deliver([wish(kind="call"), wish(kind="call")])
    machine.hand_back()
    machine.broker_reads(outlet=True, count=1, fate="take")
    machine.deliver_from_queue("give up")  # the copy of the first, while the broker has not confirmed it
    machine.broker_reads(outlet=True, count=1, fate="close")
    assert [asked.told for asked in machine.requests] == [["UNKNOWN"], ["UNKNOWN"]]
