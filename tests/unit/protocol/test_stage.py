"""The fast path of lean pipelines writes what the ordinary one writes, or nothing."""

from typing import Any, cast

import msgspec
import pytest

from warren.amqp.frames import PROPERTY_NAMES, Delivery, FrameError, decode_properties, encode_properties, shortstr
from warren.amqp.tables import decode_table, encode_table, join_table, split_table
from warren.protocol.codecs import JSON, MSGPACK, TEXT
from warren.protocol.request import PERSISTENT, Request, RequestTemplate
from warren.protocol.slip import LONGEST, Slip, Stage, lean_fields, onward_properties, read_slip
from warren.protocol.stage import Following, as_argument, lean_next, slip_text

STAGES = (Stage("images.fetch"), Stage("images.resize"), Stage("store.put"))
LEAN = Slip(STAGES, lean=True)
FIELDS = lean_fields(LEAN)


def given(own: bytes = b"", app_id: str | None = "me", bounce: bool = False, **options: Any) -> bytes:
    """The property bytes of a first stage's request, as a client writes them."""
    template = RequestTemplate(
        "fetch>",
        content_type=JSON,
        reply_to=b"replies",
        bounce=bounce,
        durable=False,
        slip=FIELDS,
        app_id=app_id,
        **options,
    )
    return template.encode_own(b"c", b"message", 30_000, 1_700_000_000_000, b"30000", own)


def request(properties: bytes) -> Request:
    delivery = Delivery(1, False, b"\x00")
    delivery.properties = properties
    return Request(delivery)


def following(of: Request, slip: Slip = LEAN) -> bytes | None:
    assert slip.following is not None
    return lean_next(of, slip.following, 29_000)


def fields(written: bytes) -> dict[str, Any]:
    p = decode_properties(written)
    return {name: getattr(p, name) for name in PROPERTY_NAMES} | {"table": decode_table(p.table or b"")}


def test_a_slip_is_found_where_clients_and_workers_write_it() -> None:
    first = request(given(encode_table({"trace": "x"})))
    assert slip_text(first.properties) == FIELDS[-len(slip_text(first.properties) or b"") :]
    assert read_slip(first.properties) == LEAN
    written = following(first)
    assert written is not None
    second = request(written).properties
    assert slip_text(second) is not None
    assert read_slip(second) == Slip(STAGES, 1, lean=True)
    confirmed = onward_properties(first, Slip(STAGES, 1), size=1, budget=1, marked=False, server_user="guest")
    assert slip_text(decode_properties(confirmed)) is not None


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_headers_that_end_early_have_none(cut: int) -> None:
    p = decode_properties(given())
    p.table = (p.table or b"")[:-cut]
    assert slip_text(p) is None


def test_a_slip_that_claims_to_be_longer_than_any_has_none() -> None:
    p = decode_properties(given())
    table = p.table or b""
    at = table.index(b"rpc-slipS") + len(b"rpc-slipS")
    for size in (LONGEST * 100, 2**32 - 1, len(table)):
        p.table = table[:at] + size.to_bytes(4, "big") + table[at + 4 :]
        assert slip_text(p) is None


def test_a_slip_elsewhere_in_the_headers_is_not_mistaken_for_one() -> None:
    """Bytes at the same place that are the inside of another field."""
    p = decode_properties(given())
    p.table = encode_table({"a": "x" * 20}) + (p.table or b"")[:40] + FIELDS
    assert slip_text(p) is None


@pytest.mark.parametrize("app_id", [None, "me"])
@pytest.mark.parametrize("own", [{}, {"trace": "x", "rpc-root": "r"}, {"rpc-lean": True, "x-y": "z", "n": 5}])
def test_the_next_request_is_written_as_by_the_ordinary_way(own: dict[str, Any], app_id: str | None) -> None:
    first = request(given(encode_table(own), app_id))
    written = following(first)
    assert written is not None
    ordinary = onward_properties(
        first, Slip(STAGES, 1), size=1, budget=29.0, marked=False, server_user="guest", bounce=False
    )
    found, expected = fields(written), fields(ordinary)
    assert msgspec.json.decode(found["table"].pop("rpc-slip")).pop("lean")
    expected["table"].pop("rpc-slip")
    assert found == expected
    assert found["table"]["rpc-timeout-ms"] == 29_000
    second = request(written)
    assert second.properties.type == b"resize>"
    third = following(second, Slip(STAGES, 1, lean=True))
    assert third is not None
    assert decode_properties(third).type == b"put>"
    assert following(request(third), LEAN) is None  # it is at another stage


@pytest.mark.parametrize("own", [{}, {"trace": "x", "rpc-root": "r", "a": 1}])
def test_a_stage_is_lean_too_where_the_broker_sorts_its_headers(own: dict[str, Any]) -> None:
    """RabbitMQ 4 does."""
    written = given(encode_table(own))
    p = decode_properties(written)
    p.table = join_table(dict(sorted(split_table(p.table or b"").items())))
    first = request(encode_properties(p))
    assert slip_text(first.properties) is not None
    assert read_slip(first.properties) == LEAN
    expected, found = following(request(written)), following(first)
    assert expected is not None
    assert found is not None
    assert fields(found) == fields(expected)
    assert slip_text(decode_properties(found)) is not None


def changed(**values: Any) -> bytes:
    p = decode_properties(given())
    for name, value in values.items():
        setattr(p, name, value)
    return encode_properties(p)


@pytest.mark.parametrize(
    "properties",
    [
        given(bounce=True),
        given(encode_table({"rpc-attempt": 2})),
        given(encode_table({"x-death": []})),
        given(b"\x01a?"),
        given(user_id="guest"),
        changed(delivery_mode=PERSISTENT),
        changed(expiration=b"0"),
        changed(expiration=None),
        changed(reply_to=b""),
        changed(priority=1),
        changed(content_encoding=b"utf-8"),
        changed(table=shortstr(b"rpc-v") + b"I\x00\x00\x00\x01" + FIELDS),
        changed(table=FIELDS),
        changed(table=FIELDS + b"\x01a?"),
    ],
)
def test_one_that_asks_for_more_or_is_written_otherwise_goes_the_ordinary_way(properties: bytes) -> None:
    try:
        read = request(properties)
    except FrameError:
        return  # which is refused before
    read.deadline_ms = 1
    assert following(read) is None


@pytest.mark.parametrize("name", ["note", "x-note"])
@pytest.mark.parametrize("twice", [{"rpc-deadline": "never"}, {"rpc-timeout-ms": 2**40}])
def test_times_that_stand_twice_are_not_written_as_they_were_not_read(name: str, twice: dict[str, Any]) -> None:
    read = request(given(encode_table({name: "rpc-attempt", **twice})))
    assert lean_next(read, cast(Following, LEAN.following), (read.timeout_ms or 0)) is None


def test_nothing_is_lean_behind_which_something_could_be_undone_or_that_ends() -> None:
    assert Slip(STAGES).following is None
    assert Slip(STAGES, 2, lean=True).following is None
    assert Slip((Stage("a.b", "a.c"), Stage("d.e")), lean=True).following is None
    assert lean_fields(Slip((Stage("a.b", "a.c"), Stage("d.e")))) == b""
    assert not LEAN.marked(again=True).lean
    assert not LEAN.onward(b"", again=False).lean


def test_a_result_is_the_one_argument_of_the_next_stage() -> None:
    assert as_argument(JSON, b'{"a":1}') == b'[{"a":1}]'
    assert msgspec.msgpack.decode(as_argument(MSGPACK, msgspec.msgpack.encode({"a": 1}))) == [{"a": 1}]
    assert as_argument(TEXT, b"text") == b"text"
