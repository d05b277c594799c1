"""What a call ends in says whether it ran: decided in one place, from facts, and documented with the proofs."""

import ast
import asyncio
from pathlib import Path

import pytest

import warren
from warren import Execution, Unavailable
from warren.protocol import evidence
from warren.protocol.evidence import Ending, conclude, endings, weigh

SOURCE = Path(warren.__file__).parent

#: Where the evidence's words may stand: where they are defined, and where they are decided.
HOMES = frozenset({"errors", "protocol.evidence"})
#: Modules that still decide for themselves. Lines only go out of this list.
OTHERS = frozenset({"protocol.problems"})
ENDINGS = list(endings())


@pytest.mark.parametrize(("name", "ending"), ENDINGS, ids=[name for name, _ in ENDINGS])
@pytest.mark.parametrize("entered", [False, True])
def test_an_ending_proves_no_more_after_an_earlier_attempt_than_that_one_leaves_open(
    name: str, ending: Ending, entered: bool
) -> None:
    alone = conclude(ending, "it ended", entered=entered).execution
    after = conclude(ending, "it ended", entered=entered, earlier=True).execution
    assert ending.proof, name
    assert (alone is Execution.EXECUTED) == (after is Execution.EXECUTED)
    assert after not in (Execution.NOT_SENT, Execution.NOT_EXECUTED)


@pytest.mark.parametrize(("name", "ending"), ENDINGS, ids=[name for name, _ in ENDINGS])
def test_no_ending_says_that_nothing_ran_once_the_handler_was_entered(name: str, ending: Ending) -> None:
    if ending.proves is None:
        assert conclude(ending, "it ended", entered=True).execution is Execution.EXECUTED
        assert conclude(ending, "it ended", entered=False).execution is Execution.NOT_EXECUTED
    else:
        assert conclude(ending, "it ended").execution is ending.proves


def test_what_is_unknown_or_executed_stays_so_whatever_was_before() -> None:
    for execution in (Execution.UNKNOWN, Execution.EXECUTED):
        assert weigh(execution, earlier=True) is weigh(execution, earlier=False) is execution


def test_every_ending_is_told_apart_or_means_the_same() -> None:
    known: dict[tuple[object, ...], set[object]] = {}
    for _, ending in ENDINGS:
        known.setdefault((ending.code, ending.reason, ending.origin), set()).add(ending.proves)
    doubled = {key: proofs for key, proofs in known.items() if len(proofs) > 1}
    told_by_evidence = {
        ("CLIENT_TIMER", evidence.TIMER.origin),
        ("CLOSED", evidence.CLOSED.origin),
        ("IO_THREAD", evidence.IO_THREAD.origin),
        ("DECODE_REPLY", evidence.DECODE_REPLY.origin),
        ("PERMISSION_DENIED", evidence.PUBLISH_DENIED.origin),
        ("QUEUE_FULL", evidence.QUEUE_FULL.origin),
        ("TOO_LARGE", evidence.REPLY_TOO_LARGE.origin),
        ("TOO_LARGE", evidence.REQUEST_REFUSED.origin),
    }
    assert {(reason, origin) for _, reason, origin in doubled} <= told_by_evidence


def test_of_several_attempts_the_most_is_certain() -> None:
    attempts, seen = evidence.Attempts(), []

    def end(ended: BaseException | None, *, is_cast: bool = False) -> None:
        attempts.end(ended, is_cast=is_cast)
        seen.append(attempts.execution)

    seen.append(attempts.execution)
    attempts.begin()
    attempts.begin()
    end(Unavailable(execution=Execution.NOT_EXECUTED))  # of the other nothing is known yet
    end(Unavailable(execution=Execution.NOT_SENT))
    attempts.begin()
    end(asyncio.CancelledError())
    attempts.begin()
    end(None, is_cast=True)
    attempts.begin()
    end(KeyError())
    error = Unavailable(execution=Execution.NOT_EXECUTED)
    attempts.weigh(error)
    assert [*seen, error.execution] == [
        Execution.NOT_SENT,
        Execution.UNKNOWN,
        Execution.NOT_EXECUTED,
        Execution.UNKNOWN,
        Execution.UNKNOWN,
        Execution.EXECUTED,
        Execution.EXECUTED,
    ]


def deciding() -> set[str]:
    """Modules that name a word of the evidence in their code."""
    found = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Execution":
                found.add(".".join(file.relative_to(SOURCE).with_suffix("").parts))
    return found


def test_the_evidence_is_decided_in_one_place() -> None:
    found = deciding() - HOMES
    assert found - OTHERS == set(), "use protocol.evidence"
    assert OTHERS - found == set(), "clean now: take it out of the list"
