"""The wire protocol, case by case; tests/property holds its bytes against Pika's."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pika import spec
from tests.support import pika_frames

from warren.amqp import frames
from warren.amqp.frames import Delivery, FrameError, Properties, decode_properties, encode_properties
from warren.amqp.tables import encode_table, encode_value, join_table, split_table
from warren.errors import CallError, Code, Execution, Origin, Overloaded, RemoteError, WorkerLost, make_error
from warren.protocol import codecs, wire
from warren.protocol.problems import Problem
from warren.protocol.wire import Request, RequestTemplate, UnreadableHeaders


def request_with(body: bytes = b"", **properties: Any) -> Request:
    """A request as another client, writing through Pika, would send it."""
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = pika_frames.properties(spec.BasicProperties(**properties))
    delivery.body = body
    return Request(delivery)


def template(**given: Any) -> RequestTemplate:
    parts: dict[str, Any] = {
        "content_type": codecs.JSON,
        "reply_to": b"amq.gen-1",
        "bounce": True,
        "durable": False,
    }
    return RequestTemplate("fib", **(parts | given))


def warren_request(**given: Any) -> Request:
    """A request as Warren writes it: 30 s, until epoch second 2,000,000,000."""
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = template(**given).encode(b"p.1", b"p.1", 30_000, 2_000_000_000_000, b"30000")
    return Request(delivery)


def properties_of(encoded: bytes) -> spec.BasicProperties:
    return pika_frames.decode_properties(encoded)


# --- names --------------------------------------------------------------------------------------------------------


def test_a_services_queue_is_called_after_it() -> None:
    assert (wire.service_queue("calc"), wire.dead_queue("calc")) == ("calc", "calc.dead")


@pytest.mark.parametrize(("quorum", "kind"), [(True, "quorum"), (False, "classic")])
def test_a_dead_queue_lives_on_as_many_nodes_as_its_service_and_is_bounded(quorum: bool, kind: str) -> None:
    arguments = wire.dead_queue_arguments(quorum=quorum)
    assert arguments["x-queue-type"] == kind
    assert arguments["x-max-length"] == 10_000


@pytest.mark.parametrize(
    ("quorum", "max_length", "more"),
    [
        (False, None, {"x-queue-type": "classic"}),
        (True, None, {"x-queue-type": "quorum"}),
        (False, 10, {"x-queue-type": "classic", "x-max-length": 10, "x-overflow": "reject-publish"}),
        (True, 10, {"x-queue-type": "quorum", "x-max-length": 10, "x-overflow": "reject-publish"}),
    ],
)
def test_a_queue_sends_what_it_drops_to_the_bounce_exchange(
    quorum: bool, max_length: int | None, more: dict[str, Any]
) -> None:
    arguments = wire.queue_arguments(quorum=quorum, max_length=max_length)
    assert arguments == {"x-dead-letter-exchange": "warren.bounce"} | more


def test_reply_queues_are_classic_whatever_the_vhosts_default() -> None:
    assert wire.REPLY_ARGUMENTS == {"x-queue-type": "classic"}
    assert wire.DURABLE_REPLY_ARGUMENTS["x-queue-type"] == "classic"


@pytest.mark.parametrize("name", ["rpc-v", "rpc-anything", "x-death", "CC", "BCC"])
def test_reserved_header_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="are reserved"):
        wire.check_headers({name: 1})


def test_headers_of_the_application_are_accepted() -> None:
    wire.check_headers({"traceparent": "00-…", "tenant": 7, "tags": ["a", None, True]})


def test_headers_that_would_not_fit_into_a_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 3000 bytes"):
        wire.check_headers({"a": "x" * 3000})


def test_a_header_that_amqp_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        wire.check_headers({"ratio": 1.5})


def test_a_name_longer_than_a_short_string_is_refused() -> None:
    wire.check_name("é" * 127)
    with pytest.raises(ValueError, match="256 bytes; AMQP allows 255"):
        wire.check_name("é" * 128)


def test_the_largest_header_that_passes_the_checks_fits_into_the_smallest_frame() -> None:
    headers = {"a": "x" * (3000 - 7)}
    wire.check_headers(headers)
    longest = template(headers=headers, app_id="a" * 255, reply_to=b"amq.gen-" + b"x" * 22)
    properties = longest.encode(b"x" * 40, b"x" * 40, 2**31 - 1, 2**62, b"2000000000")
    assert sum(map(len, frames.content_frames(1, properties, b"", 4096))) <= 4096


# --- requests -----------------------------------------------------------------------------------------------------


def test_a_call_says_when_it_ends_and_where_its_bounce_goes() -> None:
    headers = properties_of(template().encode(b"p.1", b"p.1", 30_000, 2_000_000_000_000, b"30000")).headers
    assert headers == {
        "rpc-v": 1,
        "rpc-timeout-ms": 30_000,
        "rpc-deadline": 2_000_000_000_000,
        "CC": ["amq.gen-1"],
    }


def test_a_large_call_does_not_ask_for_its_bounce() -> None:
    headers = properties_of(template(bounce=False).encode(b"p.1", b"p.1", 1, 2, b"1")).headers
    assert "CC" not in headers


def test_a_cast_asks_for_nothing() -> None:
    p = properties_of(template(reply_to=None, durable=True).encode_cast(b"p.1", b"p.1"))
    assert (p.headers, p.reply_to, p.expiration, p.delivery_mode) == ({"rpc-v": 1}, None, None, 2)


def test_a_request_carries_who_calls() -> None:
    request = warren_request(app_id="web", user_id="bob")
    assert (request.caller, request.verified_user("server")) == ("web", "bob")


def test_a_request_without_properties_is_bare() -> None:
    request = request_with(b"30")
    assert (request.bare, request.method, request.content_type, request.call_id, request.attempt) == (
        True,
        None,
        codecs.TEXT,
        None,
        1,
    )


def test_a_request_with_headers_but_no_version_is_bare() -> None:
    request = request_with(headers={"traceparent": "00"})
    assert request.bare
    assert request.headers() == {"traceparent": "00"}


def test_a_request_that_gives_a_timeout_and_no_deadline_is_read() -> None:
    request = request_with(headers={"rpc-v": 1, "rpc-timeout-ms": 500})
    assert (request.version, request.timeout_ms, request.deadline_ms) == (1, 500, None)


def test_a_request_whose_table_begins_as_warrens_and_goes_on_differently_is_read() -> None:
    request = request_with(
        headers={"rpc-v": 1, "rpc-timeout-ms": 500, "something-else": "long enough to fill", "rpc-deadline": 7}
    )
    assert (request.version, request.timeout_ms, request.deadline_ms) == (1, 500, 7)


@pytest.mark.parametrize("value", [True, "1", None, [1]])
def test_a_header_that_is_no_integer_counts_as_absent(value: Any) -> None:
    request = request_with(headers={"rpc-v": 1, "rpc-timeout-ms": value, "rpc-deadline": value})
    assert (request.timeout_ms, request.deadline_ms) == (None, None)


@pytest.mark.parametrize(("sent", "read"), [(0, 1), (-3, 1), (1, 1), (4, 4)])
def test_an_attempt_is_never_less_than_the_first(sent: int, read: int) -> None:
    assert request_with(headers={"rpc-v": 1, "rpc-attempt": sent}).attempt == read


def test_a_request_of_another_version_says_so() -> None:
    assert request_with(headers={"rpc-v": 2}).version == 2


def test_text_that_is_not_utf8_is_read_as_far_as_it_can_be() -> None:
    assert request_with(type=b"\xff").method == "\ufffd"


def test_the_applications_headers_are_all_that_are_not_reserved() -> None:
    request = warren_request(headers={"tenant": "a"})
    assert request.headers() == {"tenant": "a"}


def test_a_request_without_headers_has_none() -> None:
    assert request_with().headers() == {}


def test_properties_that_are_not_amqp_are_a_frame_error() -> None:
    delivery = Delivery(1, False, b"\x00q")
    delivery.properties = b"\x20"
    with pytest.raises(FrameError):
        Request(delivery)


def test_headers_that_are_no_table_are_a_frame_error() -> None:
    delivery = Delivery(1, False, b"\x00q")
    delivery.properties = encode_properties(Properties(table=b"\x05rpc-v?", reply_to=b"r"))
    with pytest.raises(UnreadableHeaders) as caught:
        Request(delivery)
    assert (caught.value.request.properties.reply_to, caught.value.request.bare) == (b"r", True)


def test_a_request_published_again_has_the_time_that_is_left_and_its_attempt() -> None:
    p = properties_of(warren_request(headers={"tenant": "a"}).again(budget=1.25, attempt=2, server_user="server"))
    assert (p.expiration, p.correlation_id, p.reply_to) == ("1250", "p.1", "amq.gen-1")
    assert p.headers == {
        "rpc-v": 1,
        "rpc-timeout-ms": 1250,
        "rpc-deadline": 2_000_000_000_000,
        "CC": ["amq.gen-1"],
        "tenant": "a",
        "rpc-attempt": 2,
    }


def test_a_request_published_again_too_late_has_no_time_left() -> None:
    p = properties_of(warren_request().again(budget=-0.5, attempt=1, server_user="server"))
    assert (p.expiration, p.headers["rpc-timeout-ms"]) == ("0", 0)


def test_a_request_published_again_loses_the_brokers_history() -> None:
    request = request_with(headers={"x-death": [{"count": 1}], "tenant": "a"})
    assert properties_of(request.again(budget=None, attempt=1, server_user="server")).headers == {"tenant": "a"}


def test_a_bare_request_published_again_stays_as_it_was() -> None:
    request = request_with(correlation_id="1", reply_to="q")
    assert request.again(budget=None, attempt=1, server_user="server") == encode_properties(
        Properties(correlation_id=b"1", reply_to=b"q")
    )


def test_a_request_published_again_names_its_publisher_and_remembers_its_caller() -> None:
    p = properties_of(warren_request(user_id="bob").again(budget=None, attempt=1, server_user="server"))
    assert (p.user_id, p.headers["rpc-user"]) == ("server", "bob")


def test_a_request_published_again_by_several_workers_remembers_its_first_caller() -> None:
    request = warren_request(user_id="bob")
    for _ in range(3):
        request = read_again(request.again(budget=None, attempt=1, server_user="server"))
    assert request.verified_user("server") == "bob"


def read_again(properties: bytes) -> Request:
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = properties
    return Request(delivery)


@pytest.mark.parametrize("claimed", ["server", "alice"])
def test_a_caller_cannot_pass_for_somebody_else(claimed: str) -> None:
    request = request_with(user_id="bob", headers={"rpc-v": 1, "rpc-user": claimed})
    assert request.verified_user("server") == "bob"


def test_a_request_without_a_user_has_none_whatever_its_headers_say() -> None:
    assert request_with(headers={"rpc-v": 1, "rpc-user": "alice"}).verified_user("server") is None


def test_a_remembered_caller_that_is_no_name_is_nobody() -> None:
    assert request_with(user_id="server", headers={"rpc-user": 7}).verified_user("server") is None


def test_a_header_that_only_mentions_rpc_user_does_not_hide_the_user() -> None:
    request = request_with(user_id="server", headers={"rpc-v": 1, "note": "see rpc-user"})
    assert request.verified_user("server") == "server"


def test_a_request_without_a_user_is_published_again_without_one() -> None:
    p = properties_of(warren_request().again(budget=None, attempt=1, server_user="server"))
    assert (p.user_id, "rpc-user" in p.headers) == (None, False)


#: What Python cannot hold or Pika does not read right: a moment far beyond the year 9999, and a float.
STRANGE = {b"when": b"T" + (2**62).to_bytes(8, "big"), b"rate": b"d" + struct.pack(">d", 0.25)}


def test_headers_pass_through_a_worker_as_they_came() -> None:
    request = request_with(message_id="m")
    request.properties.table = join_table(STRANGE)
    again = request.again(budget=None, attempt=2, server_user="server")
    assert split_table(frames.decode_properties(again).table or b"") == STRANGE | {
        b"rpc-attempt": encode_value(2),
    }


# --- results ------------------------------------------------------------------------------------------------------


def nothing_registered(_problem: Problem, _status: CallError) -> Exception | None:
    return None


def read(encoded: bytes, body: bytes) -> str:
    return wire.read_reply(decode_properties(encoded), body, nothing_registered)


def refusal(encoded: bytes, body: bytes) -> CallError:
    """The error that a reply carries."""
    with pytest.raises(CallError) as caught:
        read(encoded, body)
    return caught.value


@pytest.mark.parametrize("content_type", [codecs.JSON, codecs.MSGPACK, codecs.TEXT, codecs.OCTETS])
def test_a_result_says_how_it_is_encoded(content_type: str) -> None:
    assert read(wire.result_properties(warren_request(), content_type), b"") == content_type


@pytest.mark.parametrize(
    ("content_type", "read_as"),
    [(None, codecs.TEXT), ("Application/JSON; charset=utf-8", codecs.JSON), ("image/png", "image/png")],
)
def test_a_foreign_results_content_type_is_normalised(content_type: str | None, read_as: str) -> None:
    encoded = pika_frames.properties(spec.BasicProperties(content_type=content_type))
    assert read(encoded, b"") == read_as


def test_a_result_echoes_the_correlation_id() -> None:
    p = properties_of(wire.result_properties(warren_request(), codecs.JSON))
    assert p.correlation_id == "p.1"


def test_a_result_for_a_request_without_correlation_id_has_an_empty_one() -> None:
    assert properties_of(wire.result_properties(request_with(), codecs.TEXT)).correlation_id == ""


def test_a_result_may_have_headers_of_its_own() -> None:
    encoded = pika_frames.properties(spec.BasicProperties(headers={"server": "7"}))
    assert read(encoded, b"") == codecs.TEXT


# --- errors -------------------------------------------------------------------------------------------------------


def test_an_error_reply_says_all_there_is_to_say_about_it() -> None:
    error = Overloaded("too much", reason="QUOTA", execution=Execution.NOT_EXECUTED, origin=Origin.SERVER)
    encoded, body = wire.error_reply(warren_request(), error, Problem(details=[1]))
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
    error = refusal(*wire.error_reply(warren_request(), RemoteError("KeyError: 'x'"), problem))
    assert isinstance(error, RemoteError)
    assert (error.type, error.details, error.traceback) == ("KeyError", ["x"], "Traceback …")
    assert (error.message, error.execution, error.origin) == ("KeyError: 'x'", Execution.EXECUTED, Origin.HANDLER)


def test_a_lost_worker_arrives_as_itself() -> None:
    assert type(refusal(*wire.error_reply(warren_request(), WorkerLost("gone"), Problem()))) is WorkerLost


def test_a_registered_exception_is_raised_as_itself() -> None:
    encoded, body = wire.error_reply(warren_request(), RemoteError("x"), Problem(error="KeyError", details=["x"]))

    def registered(problem: Problem, _status: CallError) -> Exception | None:
        return KeyError(*problem.details) if problem.error == "KeyError" else None

    with pytest.raises(KeyError, match="x"):
        wire.read_reply(decode_properties(encoded), body, registered)


def test_an_error_for_a_bare_caller_is_readable_text() -> None:
    error = make_error(Code.NOT_FOUND, "NO_SUCH", "there is no such thing")
    encoded, body = wire.error_reply(request_with(correlation_id="7"), error, Problem())
    p = properties_of(encoded)
    assert (body, p.type, p.content_type, p.correlation_id) == (b"NOT_FOUND: there is no such thing", None, None, "7")


def test_an_error_as_text_is_recognised_by_its_status() -> None:
    error = make_error(Code.NOT_FOUND, "NO_SUCH", "nothing", execution=Execution.EXECUTED)
    arrived = refusal(*wire.error_reply(request_with(), error, Problem()))
    assert (arrived.code, arrived.reason, arrived.execution, arrived.message) == (
        Code.NOT_FOUND,
        "NO_SUCH",
        Execution.EXECUTED,
        "nothing",  # without the code that is written before it, for those that read only the body
    )


@pytest.mark.parametrize("request_", [request_with(), warren_request()], ids=["bare", "warren"])
def test_an_error_whose_text_is_not_unicode_can_be_sent(request_: Request) -> None:
    error = RemoteError("FileNotFoundError: caf\udce9")
    assert b"FileNotFoundError: caf" in wire.error_reply(request_, error, Problem())[1]


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
    error = wire.reply_too_large(p, 2000, 1000)
    assert (error.reason, error.execution, "2000 bytes" in error.message) == ("TOO_LARGE", execution, True)


# --- bounces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "code", "reason", "execution"),
    [
        ("expired", Code.DEADLINE_EXCEEDED, "QUEUE_TTL", Execution.UNKNOWN),
        ("maxlen", Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", Execution.UNKNOWN),  # a worker may have died holding it
        ("delivery_limit", Code.INTERNAL, "POISON", Execution.UNKNOWN),
        ("rejected", Code.ABORTED, "REJECTED", Execution.UNKNOWN),
        ("something new", Code.INTERNAL, "BOUNCED", Execution.UNKNOWN),
    ],
)
def test_a_bounce_says_why_the_broker_gave_up(why: str, code: Code, reason: str, execution: Execution) -> None:
    bounce = wire.read_bounce(Properties(table=encode_table({"x-first-death-reason": why})))
    assert bounce is not None
    ending = bounce.ending
    assert (ending.code, ending.reason, ending.proves, ending.origin) == (code, reason, execution, Origin.BROKER)


@pytest.mark.parametrize("p", [Properties(), Properties(table=encode_table({"rpc-status": "OK"}))])
def test_a_reply_is_no_bounce(p: Properties) -> None:
    assert wire.read_bounce(p) is None


def test_damaged_headers_are_an_error_not_a_bounce() -> None:
    with pytest.raises(CallError, match="cannot be read"):
        wire.read_bounce(Properties(table=b"\x01a?"))


# --- what other peers write ---------------------------------------------------------------------------------------


def test_octets_from_a_bare_peer_are_text_as_its_library_calls_everything_so() -> None:
    assert request_with(b"30", content_type=codecs.OCTETS).content_type == codecs.TEXT
    assert request_with(b"30", content_type=codecs.OCTETS, headers={"rpc-v": 1}).content_type == codecs.OCTETS


def test_an_empty_type_asks_for_the_default_method() -> None:
    assert request_with(type="").method is None
    assert request_with(type="", headers={"rpc-v": 1}).method is None


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "identity", "binary", ""])
def test_a_content_encoding_that_changes_nothing_is_fine(encoding: str) -> None:
    assert request_with(content_type=codecs.JSON, content_encoding=encoding).content_type == codecs.JSON


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "utf-16"])
@pytest.mark.parametrize("headers", [None, {"rpc-v": 1}])
def test_a_compressed_body_is_refused_as_such(encoding: str, headers: Any) -> None:
    request = request_with(content_type=codecs.JSON, content_encoding=encoding, headers=headers)
    with pytest.raises(codecs.UnknownEncoding, match=f"in {encoding}"):
        codecs.decoder(request.content_type)


def test_a_compressed_reply_is_not_taken_for_what_is_in_it() -> None:
    p = decode_properties(
        pika_frames.properties(spec.BasicProperties(content_type=codecs.JSON, content_encoding="gzip"))
    )
    assert wire.read_reply(p, b"", nothing_registered) == "application/json in gzip"


@pytest.mark.parametrize("content_type", [codecs.JSON, codecs.MSGPACK])
def test_a_bare_request_that_says_what_it_is_gets_a_reply_that_does(content_type: str) -> None:
    request = request_with(content_type=content_type, correlation_id="7", delivery_mode=2)
    p = properties_of(wire.result_properties(request, request.content_type))
    assert (p.content_type, p.correlation_id, p.headers) == (content_type, "7", None)


def test_headers_that_are_nobodys_business_do_not_make_a_request_unreadable() -> None:
    late = b"\x04lateT" + b"\xff" * 8
    encoded = pika_frames.properties(spec.BasicProperties(headers={"rpc-v": 1}))
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    p = decode_properties(encoded)
    p.table = (p.table or b"") + late
    delivery.properties = encode_properties(p)
    request = Request(delivery)
    assert request.version == 1
    assert request.headers() == {"late": 2**64 - 1}


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
    encoded, body = wire.error_reply(request_with(headers=headers), error, Problem(details=object()))
    assert len(encoded) < 1000
    assert len(body) < 50_000
