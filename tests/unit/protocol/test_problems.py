"""How exceptions travel: described at the server, made again at the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from warren import CallError, Code, DeadlineExceeded, Execution, InvalidArgument, Origin, RemoteError, Unavailable
from warren.protocol import codecs, problems
from warren.protocol.problems import Problem, describe, rebuild, registry


def through(error: BaseException) -> tuple[Exception | None, CallError, Problem]:
    """What a caller makes of an exception, and what it is told of it, after the way over the wire."""
    known: Any = {problems.class_name(type(error)): type(error)}
    status, problem = describe(error, known)
    status = problems.harmless(status)
    arrived: Problem = codecs.decoder(codecs.PROBLEM, Problem)(problems.encode(problem, status))
    return rebuild(arrived, status, known), status, arrived


class ApiError(Exception):
    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(f"[{code}] {message}")
        self.code = code


class KeywordOnly(Exception):
    def __init__(self, *, limit: int) -> None:
        self.limit = limit

    def __str__(self) -> str:
        return f"over {self.limit}"


@dataclass(frozen=True)
class Frozen(Exception):
    sku: str
    left: int


class Slotted(Exception):
    __slots__ = ("where",)

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where


class OutOfStock(CallError):
    code = Code.FAILED_PRECONDITION

    def __init__(self, sku: str) -> None:
        super().__init__(f"no {sku} left", reason="STOCK")
        self.sku = sku


def not_there() -> OSError:
    try:
        open("/no/such/file").close()
    except OSError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        ValueError(1.5, [1, {"a": None}], True),
        ApiError("gone", code=404),
        KeywordOnly(limit=3),
        Frozen("nut", 2),
        Slotted("here"),
        not_there(),
        ImportError("no", name="numpy"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_registered_error_arrives_as_it_was_raised(error: Exception) -> None:
    arrived, _status, _problem = through(error)
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.args) == (str(error), error.args)
    for name in ("code", "limit", "sku", "left", "where", "errno", "filename", "name"):
        assert getattr(arrived, name, None) == getattr(error, name, None)


def test_attributes_and_notes_arrive() -> None:
    error = KeyError("k")
    error.hint = {"try": ["later"]}  # type: ignore[attr-defined]
    error.add_note("seen twice")
    arrived, _status, _problem = through(error)
    assert vars(arrived) == {"hint": {"try": ["later"]}, "__notes__": ["seen twice"]}


@pytest.mark.parametrize(
    "error",
    [
        ValueError((1, 2)),  # JSON has lists only
        ValueError(b"raw"),
        ValueError(float("nan")),
        ValueError({1: 2}),
        ValueError("\udcff"),
        ValueError(2**70),
        ExceptionGroup("several", [ValueError()]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    ],
    ids=repr,
)
def test_an_error_that_would_arrive_as_another_does_not_arrive_as_itself(error: Exception) -> None:
    arrived, status, problem = through(error)
    assert arrived is None
    assert isinstance(status, CallError)
    assert (status.code, problem.error) == (Code.UNKNOWN, type(error).__name__)


def test_an_attribute_that_json_cannot_carry_keeps_an_error_from_arriving_as_itself() -> None:
    error = KeyError("k")
    error.lock = object()  # type: ignore[attr-defined]
    assert through(error)[0] is None


def test_no_constructor_runs_at_the_caller() -> None:
    class Counted(Exception):
        made = 0

        def __init__(self) -> None:
            type(self).made += 1

    through(Counted())
    assert Counted.made == 1


def test_a_registered_kind_of_call_error_arrives_as_itself_with_the_evidence_of_this_call() -> None:
    error = OutOfStock("nut")
    error.execution, error.call_id, error.method = Execution.NOT_EXECUTED, "nested", "stock.take"
    arrived, _status, _problem = through(error)
    assert isinstance(arrived, OutOfStock)
    assert (arrived.message, arrived.code, arrived.reason) == ("no nut left", Code.FAILED_PRECONDITION, "STOCK")
    assert (arrived.execution, arrived.origin, arrived.sku) == (Execution.EXECUTED, Origin.HANDLER, "nut")
    assert (arrived.call_id, arrived.method) == (None, None)


def test_the_error_of_a_nested_call_says_of_which_call_it_is() -> None:
    nested = DeadlineExceeded("cut off", method="bank.charge", reason="TIME_LIMIT")
    status, problem = describe(nested, {})
    assert (status.message, status.reason, problem.error) == ("bank.charge: cut off", "TIME_LIMIT", None)
    status, _problem = describe(status.locate(method="orders.place", queue=None, call_id=None), {})
    assert status.message == "orders.place: bank.charge: cut off"
    status, _problem = describe(InvalidArgument("what the handler itself has to say"), {})
    assert status.message == "what the handler itself has to say"


def test_the_error_of_a_nested_call_names_only_what_is_a_name() -> None:
    odd, long = InvalidArgument("no"), InvalidArgument("n" * 20_000, method="a.b")
    odd.method = 7  # type: ignore[assignment]
    assert describe(odd, {})[0].message == "no"
    assert len(describe(long, {})[0].message) <= 10_001


def test_middleware_that_fails_before_the_handler_has_not_executed_it() -> None:
    status, _problem = describe(KeyError("k"), {}, entered=False)
    assert status.execution is Execution.NOT_EXECUTED
    status, _problem = describe(InvalidArgument("no"), {}, entered=False, earlier=True)
    assert status.execution is Execution.UNKNOWN


def test_a_class_of_the_same_name_is_not_the_registered_one() -> None:
    class KeyError(Exception): ...

    status, problem = describe(KeyError("k"), {"KeyError": LookupError})
    assert problem.state is None
    assert type(status) is RemoteError


def test_two_classes_of_one_name_are_refused() -> None:
    def make() -> type[Exception]:
        class Gone(Exception): ...

        return Gone

    with pytest.raises(ValueError, match=r"have one name on the wire, Gone: rename one"):
        registry([LookupError, make(), make()])
    assert registry([LookupError, LookupError]) == {"LookupError": LookupError}


@pytest.mark.parametrize("no_error", [ValueError("x"), int, BaseException, "KeyError"])
def test_what_is_no_class_of_exceptions_is_refused(no_error: Any) -> None:
    with pytest.raises(TypeError, match="is not an exception class"):
        registry([no_error])


# --- whatever the exception is ------------------------------------------------------------------------------------


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyboardInterrupt


class Nasty(Exception, metaclass=Meta):
    """Everything that can fail does."""

    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__

    @property
    def args(self) -> Any:  # type: ignore[override]
        raise KeyboardInterrupt

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise KeyboardInterrupt

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise KeyboardInterrupt


class Model:
    def model_dump(self, **_options: Any) -> Any:
        raise KeyboardInterrupt


class NastyCallError(CallError):
    @property
    def message(self) -> Any:
        raise KeyboardInterrupt

    @message.setter
    def message(self, _text: str) -> None: ...


#: Makers, not exceptions: pytest would look at those.
ODD: list[Callable[[], BaseException]] = [
    lambda: Nasty("x"),
    lambda: ValueError(Model()),
    lambda: NastyCallError("x"),
    lambda: Unavailable(ConnectionError("db is down")),  # type: ignore[arg-type]
    lambda: Unavailable("x", code="no code"),  # type: ignore[arg-type]
    lambda: Unavailable("x", reason="\udcff"),
    lambda: Unavailable("x", reason="a" * 1000),
    lambda: Unavailable("x", execution="?", origin=7),  # type: ignore[arg-type]
    lambda: Unavailable("\udcff" * 100_000),
    lambda: ValueError("x" * 10_000_000),
    lambda: ValueError([[]] * 100_000),
    lambda: KeyboardInterrupt(),
    lambda: GeneratorExit(),
    lambda: SystemExit(2),
]


@pytest.mark.parametrize("make", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("tracebacks", [False, True])
def test_whatever_is_raised_can_be_described_within_bounds(make: Callable[[], BaseException], tracebacks: bool) -> None:
    error = make()
    for known in ({}, {problems.class_name(type(error)): type(error)}):
        status, problem = describe(error, known, tracebacks=tracebacks)  # type: ignore[arg-type]
        harmless = problems.harmless(status)
        assert isinstance(harmless.code, Code)
        assert isinstance(harmless.execution, Execution)
        assert harmless.reason.isascii()
        assert len(harmless.reason) <= 100
        assert len(problems.encode(problem, harmless)) < 400_000


def test_an_exception_as_the_message_is_its_text() -> None:
    assert describe(Unavailable(ConnectionError("db is down")), {})[0].message == "db is down"  # type: ignore[arg-type]


def test_a_code_that_is_written_as_text_counts() -> None:
    assert describe(Unavailable("x", code="NOT_FOUND"), {})[0].code is Code.NOT_FOUND  # type: ignore[arg-type]


def test_a_problem_that_cannot_be_encoded_goes_without_its_details() -> None:
    body = problems.encode(Problem(error="E", details=[object()]), CallError("text"))
    assert b'"detail":"text"' in body
    assert b"details" not in body
