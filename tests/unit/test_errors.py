"""What a call can end in: classes, evidence, messages, pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

from warren import errors
from warren.errors import (
    CallError,
    Cancelled,
    Code,
    DeadlineExceeded,
    Execution,
    InvalidArgument,
    LifespanError,
    MethodNotFound,
    Origin,
    Overloaded,
    PermissionDenied,
    RemoteError,
    Unavailable,
    WorkerLost,
    error_class,
    make_error,
)

CLASSES = [
    CallError,
    Unavailable,
    DeadlineExceeded,
    Overloaded,
    InvalidArgument,
    MethodNotFound,
    PermissionDenied,
    Cancelled,
    LifespanError,
    WorkerLost,
    RemoteError,
]


def full(kind: type[CallError]) -> CallError:
    """An error of this class with every attribute set to something of its own."""
    return kind(
        "what happened",
        code=Code.DATA_LOSS,
        reason="SOME_REASON",
        execution=Execution.NOT_EXECUTED,
        origin=Origin.BROKER,
        method="calc.fib",
        queue="calc",
        call_id="abc.7",
    )


def test_the_list_of_classes_above_is_complete() -> None:
    found = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, CallError)}
    assert found == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling_with_all_its_attributes(kind: type[CallError]) -> None:
    error = full(kind)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), vars(again), str(again), again.args) == (kind, vars(error), str(error), error.args)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_can_be_copied(kind: type[CallError]) -> None:
    error = full(kind)
    again = copy.copy(error)
    assert (type(again), vars(again)) == (kind, vars(error))


def test_a_remote_error_survives_pickling_with_details_and_traceback() -> None:
    error = RemoteError("boom")
    error.type, error.details, error.traceback = "KeyError", [1, {"a": None}], "Traceback …"
    again = pickle.loads(pickle.dumps(error))
    assert (again.type, again.details, again.traceback) == ("KeyError", [1, {"a": None}], "Traceback …")


def test_notes_survive_pickling() -> None:
    error = CallError("boom")
    error.add_note("while serving")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while serving"]


@pytest.mark.parametrize(
    ("execution", "safe"),
    [
        (Execution.NOT_SENT, True),
        (Execution.NOT_EXECUTED, True),
        (Execution.UNKNOWN, False),
        (Execution.EXECUTED, False),
    ],
)
def test_sending_again_is_safe_exactly_when_the_handler_cannot_have_run(execution: Execution, safe: bool) -> None:
    assert CallError("", execution=execution).safe_to_retry is safe


@pytest.mark.parametrize("kind", [c for c in CLASSES if c not in (RemoteError, LifespanError)])
def test_without_evidence_the_handler_may_have_run(kind: type[CallError]) -> None:
    assert kind("").execution is Execution.UNKNOWN


def test_a_remote_error_says_that_the_handler_ran() -> None:
    error = RemoteError("boom")
    assert (error.execution, error.origin) == (Execution.EXECUTED, Origin.HANDLER)


def test_deadline_exceeded_is_a_timeout_error() -> None:
    with pytest.raises(TimeoutError):
        raise DeadlineExceeded("too late")


def test_invalid_argument_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="negative"):
        raise InvalidArgument("negative")


def test_a_lost_worker_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        raise WorkerLost("gone")


@pytest.mark.parametrize("kind", CLASSES)
def test_the_text_says_which_call_what_happened_and_what_it_means(kind: type[CallError]) -> None:
    expected = "calc.fib: what happened [DATA_LOSS/SOME_REASON, execution NOT_EXECUTED, call abc.7]"
    assert str(full(kind)) == expected


def test_the_text_leaves_out_what_is_not_known() -> None:
    assert str(Overloaded("full")) == "full [RESOURCE_EXHAUSTED/RESOURCE_EXHAUSTED, execution UNKNOWN]"


def test_locating_fills_in_which_call_it_is() -> None:
    error = CallError("").locate(method="calc.fib", queue="calc", call_id="1")
    assert (error.method, error.queue, error.call_id) == ("calc.fib", "calc", "1")


def test_locating_leaves_what_is_known() -> None:
    error = full(CallError).locate(method="x.y", queue="x", call_id="2")
    assert (error.method, error.queue, error.call_id) == ("calc.fib", "calc", "abc.7")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.UNAVAILABLE, Unavailable),
        (Code.DEADLINE_EXCEEDED, DeadlineExceeded),
        (Code.RESOURCE_EXHAUSTED, Overloaded),
        (Code.INVALID_ARGUMENT, InvalidArgument),
        (Code.OUT_OF_RANGE, InvalidArgument),
        (Code.UNIMPLEMENTED, MethodNotFound),
        (Code.PERMISSION_DENIED, PermissionDenied),
        (Code.UNAUTHENTICATED, PermissionDenied),
        (Code.CANCELLED, Cancelled),
        (Code.UNKNOWN, RemoteError),
        (Code.INTERNAL, CallError),
        (Code.ABORTED, CallError),
    ],
)
def test_each_code_has_its_class(code: Code, kind: type[CallError]) -> None:
    assert error_class(code, "WHATEVER") is kind


def test_a_lost_worker_has_a_class_of_its_own() -> None:
    assert error_class(Code.UNAVAILABLE, "WORKER_LOST") is WorkerLost


def test_a_made_error_has_the_class_of_its_code_and_carries_its_evidence() -> None:
    error = make_error(Code.UNAVAILABLE, "NO_ROUTE", "nobody", execution=Execution.NOT_EXECUTED, queue="q")
    assert (type(error), error.code, error.reason, error.message) == (
        Unavailable,
        Code.UNAVAILABLE,
        "NO_ROUTE",
        "nobody",
    )
    assert (error.execution, error.queue) == (Execution.NOT_EXECUTED, "q")


def test_the_codes_are_grpcs_seventeen() -> None:
    assert len(Code) == 17
    assert all(code.name == code.value for code in Code)


def test_the_text_of_an_error_is_escaped_and_its_attributes_are_as_they_came() -> None:
    evil = "\x1b[2J\n2026-01-01 ERROR forged\u202e"
    error = CallError(evil, method=evil, call_id=evil)
    assert str(error).isprintable()
    assert (error.message, error.method, error.call_id) == (evil, evil, evil)
