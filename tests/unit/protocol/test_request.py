"""Requests, case by case; tests/property holds their bytes against Pika's."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pika import spec
from tests.support import pika_frames
from tests.support.messages import properties_of, read_request, request_with, template, warren_request

from warren.amqp import frames
from warren.amqp.frames import Delivery, FrameError, Properties, decode_properties, encode_properties
from warren.amqp.tables import encode_table, encode_value, join_table, split_table
from warren.protocol import codecs
from warren.protocol.request import Request, RequestTemplate, UnreadableHeaders, check_name, encode_headers, root_field


@pytest.mark.parametrize("name", ["rpc-v", "rpc-anything", "x-death", "CC", "BCC"])
def test_reserved_header_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="are reserved"):
        encode_headers({name: 1})


def test_headers_of_the_application_are_accepted() -> None:
    encode_headers({"traceparent": "00-…", "tenant": 7, "tags": ["a", None, True]})


def test_headers_that_would_not_fit_into_a_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 3000 bytes"):
        encode_headers({"a": "x" * 3000})


def test_a_header_that_amqp_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        encode_headers({"ratio": 1.5})


def test_a_name_longer_than_a_short_string_is_refused() -> None:
    check_name("é" * 127)
    with pytest.raises(ValueError, match="256 bytes; AMQP allows 255"):
        check_name("é" * 128)


def test_the_largest_header_that_passes_the_checks_fits_into_the_smallest_frame() -> None:
    headers = {"a": "x" * (3000 - 7)}
    longest = template(asks=True, app_id="a" * 255, reply_to=b"amq.gen-" + b"x" * 22)
    own = encode_headers(headers) + root_field("x" * 40)
    properties = longest.encode_own(b"x" * 40, b"x" * 40, 2**31 - 1, 2**62, b"2000000000", own)
    assert sum(map(len, frames.content_frames(1, properties, b"", 4096))) <= 4096


@pytest.mark.parametrize(
    ("given", "asks"),
    [
        ({"headers": {"rpc-v": 1, "rpc-lean": True}}, True),
        ({"headers": {"rpc-v": 1}}, False),
        ({}, False),
        ({"headers": {"rpc-lean": True}}, False),  # bare: it gets a plain reply, and nothing else
        ({"headers": {"rpc-v": 1, "rpc-lean": True}, "delivery_mode": 2}, False),  # its reply is stored
    ],
)
def test_who_may_be_told_how_the_queue_is(given: dict[str, Any], asks: bool) -> None:
    assert request_with(**given).asks_lean is asks


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


def as_rabbitmq_4_gives_it_out(properties: bytes) -> bytes:
    """Its headers sorted by their names."""
    p = decode_properties(properties)
    p.table = join_table(dict(sorted(split_table(p.table or b"").items())))
    return encode_properties(p)


@pytest.mark.parametrize("own", [b"", encode_table({"a": 1, "z": b"\x05rpc-vI\x00\x00\x00\x01"})])
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("bounce", [False, True])
def test_a_request_is_read_whatever_the_order_of_its_headers(own: bytes, asks: bool, bounce: bool) -> None:
    made = RequestTemplate(
        "fib", content_type=codecs.JSON, reply_to=b"replies", bounce=bounce, durable=False, asks=asks
    )
    properties = made.encode_own(b"c", b"message", 30_000, 1_700_000_000_000, b"30000", own)
    for given in (properties, as_rabbitmq_4_gives_it_out(properties)):
        read = read_request(given)
        assert (read.version, read.timeout_ms, read.deadline_ms) == (1, 30_000, 1_700_000_000_000)
        assert (read.attempt, read.asks_lean) == (1, asks)


@pytest.mark.parametrize("without", [b"rpc-v", b"rpc-timeout-ms", b"rpc-deadline"])
def test_what_is_not_there_is_not_read_from_sorted_headers(without: bytes) -> None:
    """Other headers that are as long stand in its place."""
    p = decode_properties(as_rabbitmq_4_gives_it_out(warren_request().delivery.properties))
    entries = split_table(p.table or b"")
    instead = {without: without.upper()}
    p.table = join_table({instead.get(name, name): value for name, value in entries.items()})
    read = read_request(encode_properties(p))
    found = {b"rpc-v": read.version, b"rpc-timeout-ms": read.timeout_ms, b"rpc-deadline": read.deadline_ms}
    assert {name for name, value in found.items() if value is None} == {without}


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
    p = properties_of(
        warren_request(headers={"tenant": "a"}).next_attempt(budget=1.25, attempt=2, server_user="server")
    )
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
    p = properties_of(warren_request().next_attempt(budget=-0.5, attempt=None, server_user="server"))
    assert (p.expiration, p.headers["rpc-timeout-ms"]) == ("0", 0)


def test_a_request_that_does_not_expire_does_not_when_it_is_published_again() -> None:
    given = request_with(headers={"rpc-v": 1, "rpc-timeout-ms": 5000})
    p = properties_of(given.next_attempt(budget=1.25, attempt=2, server_user="server"))
    assert (p.expiration, p.headers["rpc-timeout-ms"]) == (None, 1250)


def test_a_request_published_again_loses_the_brokers_history_except_that_there_may_be_other_attempts() -> None:
    request = request_with(headers={"x-death": [{"count": 1}], "tenant": "a"})
    headers = properties_of(request.next_attempt(budget=None, attempt=None, server_user="server")).headers
    assert headers == {"tenant": "a", "rpc-attempt": 1}


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_request_published_again_says_whether_the_one_it_is_a_copy_of_may_run_as_well(attempt: int) -> None:
    alone = read_request(warren_request().next_attempt(budget=None, attempt=None, server_user="server"))
    beside = read_request(warren_request().next_attempt(budget=None, attempt=attempt, server_user="server"))
    again = read_request(beside.next_attempt(budget=None, attempt=None, server_user="server"))
    assert (alone.attempt, alone.has_other_attempts) == (1, False)
    assert {(copy.attempt, copy.has_other_attempts) for copy in (beside, again)} == {(attempt, True)}


def test_a_bare_request_published_again_stays_as_it_was() -> None:
    request = request_with(correlation_id="1", reply_to="q")
    assert request.next_attempt(budget=None, attempt=None, server_user="server") == encode_properties(
        Properties(correlation_id=b"1", reply_to=b"q")
    )


def test_a_request_published_again_names_its_publisher_and_remembers_its_caller() -> None:
    p = properties_of(warren_request(user_id="bob").next_attempt(budget=None, attempt=None, server_user="server"))
    assert (p.user_id, p.headers["rpc-user"]) == ("server", "bob")


def test_a_request_published_again_by_several_workers_remembers_its_first_caller() -> None:
    request = warren_request(user_id="bob")
    for _ in range(3):
        request = read_request(request.next_attempt(budget=None, attempt=None, server_user="server"))
    assert request.verified_user("server") == "bob"


@pytest.mark.parametrize("claimed", ["server", "alice"])
def test_a_caller_cannot_pass_for_somebody_else(claimed: str) -> None:
    request = request_with(user_id="bob", headers={"rpc-v": 1, "rpc-user": claimed})
    assert request.verified_user("server") is None  # nor does a worker of another user lend its name to its callers


def test_a_header_of_somebody_elses_that_only_mentions_rpc_user_does_not_hide_who_it_is() -> None:
    request = request_with(user_id="bob", headers={"rpc-v": 1, "note": "see rpc-user"})
    assert request.verified_user("server") == "bob"


def test_a_request_without_a_user_has_none_whatever_its_headers_say() -> None:
    assert request_with(headers={"rpc-v": 1, "rpc-user": "alice"}).verified_user("server") is None


def test_a_remembered_caller_that_is_no_name_is_nobody() -> None:
    assert request_with(user_id="server", headers={"rpc-user": 7}).verified_user("server") is None


def test_a_header_that_only_mentions_rpc_user_does_not_hide_the_user() -> None:
    request = request_with(user_id="server", headers={"rpc-v": 1, "note": "see rpc-user"})
    assert request.verified_user("server") == "server"


def test_a_request_without_a_user_is_published_again_without_one() -> None:
    p = properties_of(warren_request().next_attempt(budget=None, attempt=None, server_user="server"))
    assert (p.user_id, "rpc-user" in p.headers) == (None, False)


#: What Python cannot hold or Pika does not read right: a moment far beyond the year 9999, and a float.
STRANGE = {b"when": b"T" + (2**62).to_bytes(8, "big"), b"rate": b"d" + struct.pack(">d", 0.25)}


def test_headers_pass_through_a_worker_as_they_came() -> None:
    request = request_with(message_id="m")
    request.properties.table = join_table(STRANGE)
    again = request.next_attempt(budget=None, attempt=2, server_user="server")
    assert split_table(frames.decode_properties(again).table or b"") == STRANGE | {
        b"rpc-attempt": encode_value(2),
    }


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
