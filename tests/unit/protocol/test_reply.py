"""Replies, case by case; tests/property holds their bytes against Pika's."""

from __future__ import annotations

from typing import Any

import pytest
from pika import spec
from tests.support import pika_frames
from tests.support.messages import properties_of, request_with, warren_request

from warren.amqp.frames import Properties, decode_properties, encode_properties
from warren.amqp.tables import encode_table
from warren.errors import CallError, Code, Execution, Origin, Overloaded, RemoteError, WorkerLost, make_error
from warren.protocol import codecs
from warren.protocol.problems import Problem
from warren.protocol.reply import error_reply, read_reply, reply_too_large, result_properties
from warren.protocol.request import Request


def nothing_registered(_problem: Problem, _status: CallError) -> Exception | None:
    return None


def read(encoded: bytes, body: bytes) -> str:
    return read_reply(decode_properties(encoded), body, nothing_registered)


def refusal(encoded: bytes, body: bytes) -> CallError:
    """The error that a reply carries."""
    with pytest.raises(CallError) as caught:
        read(encoded, body)
    return caught.value


@pytest.mark.parametrize("content_type", [codecs.JSON, codecs.MSGPACK, codecs.TEXT, codecs.OCTETS])
def test_a_result_says_how_it_is_encoded(content_type: str) -> None:
    assert read(result_properties(warren_request(), content_type), b"") == content_type


@pytest.mark.parametrize(
    ("content_type", "read_as"),
    [(None, codecs.TEXT), ("Application/JSON; charset=utf-8", codecs.JSON), ("image/png", "image/png")],
)
def test_a_foreign_results_content_type_is_normalised(content_type: str | None, read_as: str) -> None:
    encoded = pika_frames.properties(spec.BasicProperties(content_type=content_type))
    assert read(encoded, b"") == read_as


def test_a_result_echoes_the_correlation_id() -> None:
    p = properties_of(result_properties(warren_request(), codecs.JSON))
    assert p.correlation_id == "p.1"


def test_a_result_for_a_request_without_correlation_id_has_an_empty_one() -> None:
    assert properties_of(result_properties(request_with(), codecs.TEXT)).correlation_id == ""


def test_a_result_may_have_headers_of_its_own() -> None:
    encoded = pika_frames.properties(spec.BasicProperties(headers={"server": "7"}))
    assert read(encoded, b"") == codecs.TEXT


def test_an_error_reply_says_all_there_is_to_say_about_it() -> None:
    error = Overloaded("too much", reason="QUOTA", execution=Execution.NOT_EXECUTED, origin=Origin.SERVER)
    encoded, body = error_reply(warren_request(), error, Problem(details=[1]))
    p = properties_of(encoded)
    assert (p.type, p.content_type, p.headers) == (
        "error",
        "application/problem+json",
        {"rpc-status": "RESOURCE_EXHAUSTED", "rpc-reason": "QUOTA", "rpc-executed": "NOT_EXECUTED"},
    )
    # `origin` is the server's by default, and defaults are left out.
    assert body == b'{"title":"RESOURCE_EXHAUSTED/QUOTA","detail":"too much","details":[1]}'


def test_a_handlers_exception_arrives_with_its_type_details_and_traceback() -> None:
    problem = Problem(error="KeyError", details=["x"], traceback="Traceback …")
    error = refusal(*error_reply(warren_request(), RemoteError("KeyError: 'x'"), problem))
    assert isinstance(error, RemoteError)
    assert (error.type, error.details, error.traceback) == ("KeyError", ["x"], "Traceback …")
    assert (error.message, error.execution, error.origin) == ("KeyError: 'x'", Execution.EXECUTED, Origin.HANDLER)


def test_a_lost_worker_arrives_as_itself() -> None:
    assert type(refusal(*error_reply(warren_request(), WorkerLost("gone"), Problem()))) is WorkerLost


def test_a_registered_exception_is_raised_as_itself() -> None:
    encoded, body = error_reply(warren_request(), RemoteError("x"), Problem(error="KeyError", details=["x"]))

    def registered(problem: Problem, _status: CallError) -> Exception | None:
        return KeyError(*problem.details) if problem.error == "KeyError" else None

    with pytest.raises(KeyError, match="x"):
        read_reply(decode_properties(encoded), body, registered)


def test_an_error_for_a_bare_caller_is_readable_text() -> None:
    error = make_error(Code.NOT_FOUND, "NO_SUCH", "there is no such thing")
    encoded, body = error_reply(request_with(correlation_id="7"), error, Problem())
    p = properties_of(encoded)
    assert (body, p.type, p.content_type, p.correlation_id) == (b"NOT_FOUND: there is no such thing", None, None, "7")


def test_an_error_as_text_is_recognised_by_its_status() -> None:
    error = make_error(Code.NOT_FOUND, "NO_SUCH", "nothing", execution=Execution.EXECUTED)
    arrived = refusal(*error_reply(request_with(), error, Problem()))
    assert (arrived.code, arrived.reason, arrived.execution, arrived.message) == (
        Code.NOT_FOUND,
        "NO_SUCH",
        Execution.EXECUTED,
        "nothing",  # without the code that is written before it, for those that read only the body
    )


@pytest.mark.parametrize("request_", [request_with(), warren_request()], ids=["bare", "warren"])
def test_an_error_whose_text_is_not_unicode_can_be_sent(request_: Request) -> None:
    error = RemoteError("FileNotFoundError: caf\udce9")
    assert b"FileNotFoundError: caf" in error_reply(request_, error, Problem())[1]


def test_an_error_of_a_newer_peer_is_read_as_far_as_it_is_known() -> None:
    encoded = encode_properties(
        Properties(
            type=b"error",
            table=encode_table({"rpc-status": "NEW", "rpc-reason": 7, "rpc-executed": ["?"]}),
        )
    )
    error = refusal(encoded, b'{"detail": "?", "origin": "moon", "news": 1}')
    assert (type(error), error.code, error.reason, error.execution, error.origin) == (
        RemoteError,
        Code.UNKNOWN,
        "7",
        Execution.UNKNOWN,
        Origin.SERVER,
    )


def test_an_error_without_headers_is_an_error_all_the_same() -> None:
    error = refusal(encode_properties(Properties(type=b"error")), b"{}")
    assert (error.code, error.reason) == (Code.UNKNOWN, "UNKNOWN")


@pytest.mark.parametrize(
    ("headers", "execution"),
    [
        ({}, Execution.UNKNOWN),
        ({"rpc-executed": "NOT_EXECUTED"}, Execution.NOT_EXECUTED),
        ({"rpc-executed": "EXECUTED"}, Execution.EXECUTED),
        ({"rpc-executed": "perhaps"}, Execution.UNKNOWN),
    ],
)
def test_a_damaged_error_says_of_execution_what_its_headers_say(headers: dict[str, Any], execution: Execution) -> None:
    error = refusal(encode_properties(Properties(type=b"error", table=encode_table(headers))), b"\xff")
    assert (error.code, error.reason, error.execution) == (Code.INTERNAL, "DECODE_REPLY", execution)


def test_damaged_reply_headers_are_an_error_about_the_reply_that_proves_nothing() -> None:
    error = refusal(encode_properties(Properties(table=b"\x01a?")), b"")
    assert (error.reason, error.execution) == ("DECODE_REPLY", Execution.UNKNOWN)


@pytest.mark.parametrize(
    ("p", "execution"),
    [
        (Properties(), Execution.EXECUTED),
        (Properties(table=encode_table({"server": "7"})), Execution.EXECUTED),
        (Properties(type=b"error"), Execution.UNKNOWN),
        (Properties(type=b"error", table=encode_table({"rpc-executed": "NOT_EXECUTED"})), Execution.NOT_EXECUTED),
        (Properties(table=encode_table({"rpc-status": "ABORTED", "rpc-executed": "EXECUTED"})), Execution.EXECUTED),
    ],
    ids=["result", "result with headers", "error", "error not executed", "error as text"],
)
def test_a_reply_too_large_says_of_execution_what_its_headers_say(p: Properties, execution: Execution) -> None:
    error = reply_too_large(p, 2000, 1000)
    assert (error.reason, error.execution, "2000 bytes" in error.message) == ("TOO_LARGE", execution, True)


def test_a_compressed_reply_is_not_taken_for_what_is_in_it() -> None:
    p = decode_properties(
        pika_frames.properties(spec.BasicProperties(content_type=codecs.JSON, content_encoding="gzip"))
    )
    assert read_reply(p, b"", nothing_registered) == "application/json in gzip"


@pytest.mark.parametrize("content_type", [codecs.JSON, codecs.MSGPACK])
def test_a_bare_request_that_says_what_it_is_gets_a_reply_that_does(content_type: str) -> None:
    request = request_with(content_type=content_type, correlation_id="7", delivery_mode=2)
    p = properties_of(result_properties(request, request.content_type))
    assert (p.content_type, p.correlation_id, p.headers) == (content_type, "7", None)


@pytest.mark.parametrize(
    "error",
    [
        CallError("\udcff", reason="\udcff", code="NOT_FOUND", execution="x", origin=3),  # type: ignore[arg-type]
        CallError(ValueError("v"), reason="x" * 1000),  # type: ignore[arg-type]
        CallError("x" * 10**6),
    ],
)
@pytest.mark.parametrize("headers", [None, {"rpc-v": 1}])
def test_an_error_reply_is_written_whatever_the_error_holds(error: CallError, headers: Any) -> None:
    encoded, body = error_reply(request_with(headers=headers), error, Problem(details=object()))
    assert len(encoded) < 1000
    assert len(body) < 50_000
