"""Requests and replies are, byte for byte, what Pika would write from the same values."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import spec

from tests.property import strategies as some
from tests.support import pika_frames
from warren.amqp.frames import Delivery, FrameError, Properties, decode_properties, encode_properties
from warren.amqp.tables import encode_value, join_table, split_table
from warren.errors import CallError, Code, Execution, Origin, make_error
from warren.protocol import codecs
from warren.protocol.dead_message import Death, dead_properties, retry_properties
from warren.protocol.reply import error_reply, read_reply, result_properties
from warren.protocol.request import Request, RequestTemplate, bare_properties, encode_headers

milliseconds = st.integers(0, 2**31 - 1)
epochs = st.integers(-(2**63), 2**63 - 1)
expirations = st.integers(0, 2**32).map(lambda ms: b"%d" % ms)
content_types = st.sampled_from([codecs.JSON, codecs.MSGPACK, codecs.TEXT, codecs.OCTETS])
texts = st.text(max_size=40)


def delivered(properties: bytes, body: bytes = b"") -> Delivery:
    """What a consumer gets of a message with these properties."""
    delivery = Delivery(1, False, b"\x00q")
    delivery.properties, delivery.body = properties, body
    return delivery


#: What two calls of a method share.
templates: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "method": some.short,
        "content_type": content_types,
        "reply_to": st.text(min_size=1, max_size=40).map(str.encode),
        "bounce": st.booleans(),
        "durable": st.booleans(),
        "asks": st.booleans(),
        "app_id": st.none() | some.short,
        "user_id": st.none() | some.short,
        "headers": st.none() | some.application_headers,
    }
)


def make_template(given_parts: dict[str, Any], *, reply_to: bytes | None) -> RequestTemplate:
    parts = {name: value for name, value in given_parts.items() if name != "headers"}
    return RequestTemplate(parts.pop("method"), **(parts | {"reply_to": reply_to}))


@given(templates, some.ids, milliseconds, epochs, expirations)
def test_a_call_is_written_as_pika_writes_it(
    parts: dict[str, Any], call_id: bytes, timeout_ms: int, deadline_ms: int, expiration: bytes
) -> None:
    headers: dict[str, Any] = {"rpc-v": 1, "rpc-timeout-ms": timeout_ms, "rpc-deadline": pika_frames.int64(deadline_ms)}
    if parts["bounce"]:
        headers["CC"] = [parts["reply_to"].decode()]
    if parts["asks"]:
        headers["rpc-lean"] = True
    expected = spec.BasicProperties(
        content_type=parts["content_type"],
        headers=headers | (parts["headers"] or {}),
        delivery_mode=2 if parts["durable"] else 1,
        correlation_id=call_id,
        reply_to=parts["reply_to"],
        expiration=expiration,
        message_id=call_id,
        type=parts["method"],
        user_id=parts["user_id"],
        app_id=parts["app_id"],
    )
    template = make_template(parts, reply_to=parts["reply_to"])
    own = encode_headers(parts["headers"] or {})
    written = template.encode_own(call_id, call_id, timeout_ms, deadline_ms, expiration, own)
    assert written == pika_frames.properties(expected)
    if not own:
        assert written == template.encode(call_id, call_id, timeout_ms, deadline_ms, expiration)


@given(templates, some.ids)
def test_a_cast_is_written_as_pika_writes_it(parts: dict[str, Any], call_id: bytes) -> None:
    expected = spec.BasicProperties(
        content_type=parts["content_type"],
        headers={"rpc-v": 1} | (parts["headers"] or {}),
        delivery_mode=2 if parts["durable"] else 1,
        correlation_id=call_id,
        message_id=call_id,
        type=parts["method"],
        user_id=parts["user_id"],
        app_id=parts["app_id"],
    )
    template, own = make_template(parts | {"asks": False}, reply_to=None), encode_headers(parts["headers"] or {})
    written = template.encode_own(call_id, call_id, 0, 0, b"", own)
    assert written == pika_frames.properties(expected)
    if not own:
        assert written == template.encode_cast(call_id, call_id)


@given(some.ids, some.ids, expirations)
def test_a_bare_call_is_written_as_pika_writes_it(call_id: bytes, reply_to: bytes, expiration: bytes) -> None:
    expected = spec.BasicProperties(correlation_id=call_id, reply_to=reply_to, expiration=expiration)
    assert bare_properties(call_id, reply_to, expiration) == pika_frames.properties(expected)


@given(some.ids, content_types)
def test_a_result_is_written_as_pika_writes_it(correlation_id: bytes, content_type: str) -> None:
    request = Request(delivered(call_properties(correlation_id)))
    expected = spec.BasicProperties(content_type=content_type, correlation_id=correlation_id)
    assert result_properties(request, content_type) == pika_frames.properties(expected)


@given(some.ids, content_types)
def test_a_result_for_a_bare_caller_says_what_it_is_unless_it_is_text(correlation_id: bytes, content_type: str) -> None:
    request = Request(delivered(bare_properties(correlation_id, b"q", b"1")))
    said = None if content_type == "text/plain" else content_type
    expected = spec.BasicProperties(correlation_id=correlation_id, content_type=said)
    assert result_properties(request, content_type) == pika_frames.properties(expected)


errors = st.builds(
    lambda code, reason, message, execution, origin: make_error(
        code, reason, message, execution=execution, origin=origin
    ),
    st.sampled_from(list(Code)),
    st.from_regex(r"[A-Z_]{1,20}", fullmatch=True),
    texts,
    st.sampled_from(list(Execution)),
    st.sampled_from(list(Origin)),
)


def call_properties(correlation_id: bytes) -> bytes:
    template = RequestTemplate("m", content_type=codecs.JSON, reply_to=b"q", bounce=True, durable=False)
    return template.encode(correlation_id, correlation_id, 1000, 1, b"1000")


@given(some.ids, errors)
def test_an_error_is_written_as_pika_writes_it(correlation_id: bytes, error: Any) -> None:
    expected = spec.BasicProperties(
        content_type=codecs.PROBLEM,
        headers=status_headers(error),
        correlation_id=correlation_id,
        type="error",
    )
    request = Request(delivered(call_properties(correlation_id)))
    written, _body = error_reply(request, error)
    assert written == pika_frames.properties(expected)


@given(some.ids, errors)
def test_an_error_for_a_bare_caller_is_text_with_the_status_in_headers(correlation_id: bytes, error: Any) -> None:
    request = Request(delivered(bare_properties(correlation_id, b"q", b"1")))
    expected = spec.BasicProperties(headers=status_headers(error), correlation_id=correlation_id)
    assert error_reply(request, error) == (
        pika_frames.properties(expected),
        f"{error.code.value}: {error.message}".encode(),
    )


def status_headers(error: Any) -> dict[str, str]:
    return {
        "rpc-status": error.code.value,
        "rpc-reason": error.reason,
        "rpc-executed": error.execution.value,
    }


# --- reading ------------------------------------------------------------------------------------------------------


@given(templates, st.text(min_size=1, max_size=40), milliseconds, epochs)
def test_a_request_reads_as_it_was_written(
    parts: dict[str, Any], call_id: str, timeout_ms: int, deadline_ms: int
) -> None:
    template = make_template(parts, reply_to=parts["reply_to"])
    id, own = call_id.encode(), encode_headers(parts["headers"] or {})
    request = Request(delivered(template.encode_own(id, id, timeout_ms, deadline_ms, b"0", own)))
    assert {
        "version": request.version,
        "timeout_ms": request.timeout_ms,
        "deadline_ms": request.deadline_ms,
        "attempt": request.attempt,
        "bare": request.bare,
        "method": request.method or "",
        "content_type": request.content_type,
        "call_id": request.call_id,
        "caller": request.caller,
        "user": request.verified_user("server"),
        "headers": request.headers(),
    } == {
        "version": 1,
        "timeout_ms": timeout_ms,
        "deadline_ms": deadline_ms,
        "attempt": 1,
        "bare": False,
        "method": parts["method"],
        "content_type": parts["content_type"],
        "call_id": call_id,
        "caller": parts["app_id"],
        "user": parts["user_id"],
        "headers": parts["headers"] or {},
    }


_INTEGERS = {"b": ">b", "B": ">B", "U": ">h", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "L": ">q", "l": ">q"}


def entry(name: str, kind: str, value: int) -> bytes:
    return bytes((len(name),)) + name.encode() + kind.encode() + struct.pack(_INTEGERS[kind], value)


@given(st.permutations([("rpc-v", 1), ("rpc-timeout-ms", 30), ("rpc-deadline", 99), ("rpc-attempt", 2)]), st.data())
def test_another_peers_headers_may_have_any_order_and_integer_width(
    headers: list[tuple[str, int]], data: st.DataObject
) -> None:
    kinds = st.sampled_from(sorted(_INTEGERS))
    table = b"".join(entry(name, data.draw(kinds), value) for name, value in headers)
    request = Request(delivered(encode_properties(Properties(table=table))))
    read = (request.version, request.timeout_ms, request.deadline_ms, request.attempt)
    assert read == (1, 30, 99, 2)


@given(some.property_sets)
def test_a_request_can_be_read_whatever_its_properties(given_set: dict[str, Any]) -> None:
    request = Request(delivered(pika_frames.properties(spec.BasicProperties(**given_set))))
    assert request.bare == ("rpc-v" not in (given_set.get("headers") or {}))


@given(st.binary(max_size=120))
@example(b"\x20\x00\x00\x00\x00\x02\x05r")
def test_reading_a_request_from_random_bytes_raises_nothing_but_frame_error(data: bytes) -> None:
    try:
        Request(delivered(data))
    except FrameError:
        return


@given(st.data())
def test_reading_a_request_from_a_table_cut_short_raises_nothing_but_frame_error(data: st.DataObject) -> None:
    table = decode_properties(call_properties(b"1")).table or b""
    cut = table[: data.draw(st.integers(0, len(table) - 1), label="cut")]
    try:
        Request(delivered(encode_properties(Properties(table=cut))))
    except FrameError:
        return


@given(templates, milliseconds, st.none() | st.floats(-5, 2_000_000), st.integers(1, 9))
def test_a_request_published_again_differs_in_its_time_and_attempt_only(
    parts: dict[str, Any], timeout_ms: int, budget: float | None, attempt: int
) -> None:
    template = make_template(parts, reply_to=parts["reply_to"])
    written = template.encode(b"1", b"1", timeout_ms, 9_999_999_999_999, b"77")
    again = Request(
        delivered(Request(delivered(written)).next_attempt(budget=budget, attempt=attempt, server_user="server"))
    )
    left = timeout_ms if budget is None else max(0, int(budget * 1000))
    assert (again.timeout_ms, again.attempt) == (left, attempt)
    assert again.properties.expiration == (b"77" if budget is None else b"%d" % left)
    original = Request(delivered(written))
    for name in ("version", "deadline_ms", "method", "content_type", "call_id", "caller"):
        assert getattr(again, name) == getattr(original, name)
    assert again.headers() == original.headers()
    assert again.verified_user("server") == original.verified_user("server") == parts["user_id"]


@given(templates, st.integers(1, 3), st.booleans())
def test_whatever_is_written_of_a_request_it_stays_as_it_is(parts: dict[str, Any], attempt: int, died: bool) -> None:
    p = decode_properties(make_template(parts, reply_to=parts["reply_to"]).encode(b"1", b"1", 9, 9, b"77"))
    if died:
        p.table = join_table(split_table(p.table or b"") | {b"x-death": encode_value([{"count": 1}])})
    request = Request(delivered(encode_properties(p)))
    before, earlier = encode_properties(request.properties), request.has_other_attempts
    request.next_attempt(budget=0.5, attempt=attempt, server_user="server")
    dead_properties(request, Death(reason="X"), server_user="server", room=4000)
    retry_properties(request, user="server")
    assert (encode_properties(request.properties), request.has_other_attempts) == (before, earlier)
    assert earlier is died


@given(some.property_sets, st.binary(max_size=60))
def test_reading_a_reply_ends_in_a_content_type_or_a_call_error(given_set: dict[str, Any], body: bytes) -> None:
    p = decode_properties(pika_frames.properties(spec.BasicProperties(**given_set)))
    try:
        assert isinstance(read_reply(p, body, lambda *_told: None), str)
    except CallError:
        return


@given(some.ids, errors)
def test_an_error_reads_as_it_was_written(correlation_id: bytes, error: Any) -> None:
    request = Request(delivered(call_properties(correlation_id)))
    properties, body = error_reply(request, error)
    with pytest.raises(type(error)) as caught:
        read_reply(decode_properties(properties), body, lambda *_told: None)
    read = caught.value
    assert (read.code, read.reason, read.message, read.execution, read.origin) == (
        error.code,
        error.reason,
        error.message,
        error.execution,
        error.origin,
    )
