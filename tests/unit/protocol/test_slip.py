"""Routing slips are anybody's claim: what makes no sense is refused, and nothing in one is believed beyond it."""

import contextlib
from typing import Any

import msgspec
import pytest

from warren.amqp.frames import Delivery, Properties, decode_properties, encode_properties
from warren.amqp.tables import decode_table, encode_table
from warren.protocol.request import Request
from warren.protocol.slip import (
    LONGEST,
    MOST_STAGES,
    Slip,
    SlipError,
    Stage,
    is_stage,
    method_name,
    onward_properties,
    read_slip,
    resumed,
    slip_fields,
    slip_of,
    undo_properties,
)

TWO = Slip((Stage("images.fetch"), Stage("store.put")))


def properties(slip: Any, **given: Any) -> Properties:
    table = encode_table({"rpc-slip": slip})
    return Properties(type=b"fetch>", table=table, **given)


def request(slip: Slip = TWO, **headers: Any) -> Request:
    p = Properties(type=b"fetch>", correlation_id=b"c", message_id=b"m", reply_to=b"r", expiration=b"500", app_id=b"me")
    p.table = encode_table({"rpc-v": 1, "rpc-timeout-ms": 500, "rpc-deadline": 9, **headers}) + slip_fields(slip)
    delivery = Delivery(1, False, b"\x00")
    delivery.properties = encode_properties(p)
    return Request(delivery)


def test_a_slip_is_read_as_it_was_written() -> None:
    p = Properties(type=b"fetch>", table=slip_fields(TWO))
    assert read_slip(p) == TWO == slip_of(p)
    assert is_stage(p)
    assert not is_stage(Properties(type=b"fetch"))
    assert slip_of(Properties(type=b"fetch", table=slip_fields(TWO))) is None


@pytest.mark.parametrize(
    "slip",
    [
        "", "{", "[]", "1", '{"stages":[]}', '{"stages":[{"to":"a"}]}', '{"stages":[{"to":"abc"}]}', 7, b"\xff",
        '{"stages":[{"to":"a.b"}],"at":1}', '{"stages":[{"to":"a.b"}],"at":-1}', '{"stages":[{"to":".bb"}]}',
        '{"stages":[{"to":"aa."}]}', '{"stages":[{"to":"a.b","undo":"x"}]}', '{"stages":[{"to":"a.b","kept":1}]}',
        '{"stages":[{"to":"%s.b"}]}' % ("a" * 300), '{"stages":[{"to":"a.%s"}]}' % ("b" * 255), "[" * LONGEST,
        msgspec.json.encode({"stages": [{"to": "a.b"}] * (MOST_STAGES + 1)}).decode(), " " * (LONGEST + 1),
        '{"stages":[{"to":"a.b","kept":"no base64"}]}', ["a"], {"stages": 1},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(slip: Any) -> None:
    with pytest.raises(SlipError):
        read_slip(properties(slip))
    assert slip_of(properties(slip)) is None


def test_headers_that_are_no_table_are_refused() -> None:
    with pytest.raises(SlipError):
        read_slip(Properties(type=b"fetch>", table=b"\x09rpc-"))


def test_what_a_later_version_adds_is_passed_over() -> None:
    text = '{"stages":[{"to":"a.b","new":1}],"later":true}'
    assert read_slip(properties(text)) == Slip((Stage("a.b"),))


def test_one_that_is_too_long_is_not_written() -> None:
    with pytest.raises(SlipError, match="1960 are allowed"):
        slip_fields(Slip((Stage("a.b", "a.c", b"x" * LONGEST),)))


def test_one_that_will_be_too_long_at_its_last_stage_does_not_begin() -> None:
    """Else all stages but the last would run, each time, for nothing."""
    begun = [Stage(f"{'s' * 100}.{n}{'m' * 60}") for n in range(9)]
    for length in range(1, 456):
        slip = Slip((*begun, Stage(f"last.{'m' * length}")))
        with contextlib.suppress(SlipError):
            slip_fields(slip)
            slip_fields(Slip(slip.stages, len(begun)))
            continue
        with pytest.raises(SlipError):
            slip_fields(slip)
        return


def test_the_next_request_is_the_same_but_for_what_belongs_to_its_stage() -> None:
    headers: dict[str, Any] = {
        "tenant": "acme",
        "x-death": [],
        "rpc-attempt": 3,
        "rpc-lean": True,
        "rpc-user": "forged",
    }
    given = request(TWO, **headers)
    following = TWO.onward(b"[1]", again=False)
    written = onward_properties(given, following, size=1, budget=0.25, marked=False, server_user="guest")
    p = decode_properties(written)
    assert (p.type, p.correlation_id, p.message_id, p.reply_to, p.app_id) == (b"put>", b"c", b"m", b"r", b"me")
    assert p.expiration == b"250"
    table = decode_table(p.table or b"")
    slip = table.pop("rpc-slip")
    assert table == {"rpc-v": 1, "rpc-timeout-ms": 250, "rpc-deadline": 9, "tenant": "acme"}
    assert msgspec.json.decode(slip)["at"] == 1


@pytest.mark.parametrize(("wanted", "comes"), [(["r"], True), (["other"], False), (["r", "other"], False)])
def test_a_bounce_goes_to_its_caller_only(wanted: list[str], comes: bool) -> None:
    following = TWO.onward(b"[1]", again=False)
    for size, bounce in ((1, True), (100_000, True), (1, False)):
        written = onward_properties(
            request(CC=wanted), following, size=size, budget=1, marked=True, server_user="guest", bounce=bounce
        )
        table = decode_table(decode_properties(written).table or b"")
        assert ("CC" in table) == (comes and bounce and size == 1)
        assert table["rpc-attempt"] == 1


@pytest.mark.parametrize(
    "service",
    [
        "amq.rabbitmq.reply-to.g1h2",
        "amq.gen-x",
        "warren.reply.x",
        "shop.dead",
        "a b",
        "a\\n",
        "\\ud800",
        "é",
        "a" * 201,
    ],
)
@pytest.mark.parametrize("member", ["to", "undo"])
def test_a_worker_publishes_to_services_only_whatever_a_slip_names(service: str, member: str) -> None:
    stage = {"to": '"to":"a.b"', member: f'"{member}":"{service}.run"'}
    with pytest.raises(SlipError, match=r"mend|say|send"):
        read_slip(properties(f'{{"stages":[{{{",".join(stage.values())}}}]}}'))


UNDONE = Slip((Stage("images.fetch", "images.forget"), Stage("store.put")))


@pytest.mark.parametrize("at", [0, 1])
def test_one_that_is_tried_again_says_so_if_anything_of_it_can_be_undone(at: int) -> None:
    slip = UNDONE if not at else UNDONE.onward(b"[1]", again=False)
    p = resumed(Properties(type=method_name(slip.here.to).encode() + b">", table=slip_fields(slip)))
    assert read_slip(p).again
    alone = resumed(Properties(type=b"fetch>", table=slip_fields(TWO)))
    assert not read_slip(alone).again


def test_what_undoes_has_the_headers_of_the_application_and_no_others() -> None:
    given = request(TWO, tenant="acme", **{"rpc-progress": True, "rpc-attempt": 2, "x-death": [], "rpc-root": "root"})
    p = decode_properties(undo_properties(given, UNDONE.stages[0], server_user="guest"))
    assert decode_table(p.table or b"") == {"rpc-v": 1, "rpc-root": "root", "tenant": "acme"}
    assert (p.type, p.message_id, p.reply_to, p.expiration) == (b"forget", b"m/undo/images.fetch", None, None)


def test_what_undoes_has_an_id_of_its_pipeline_also_where_that_has_no_message_id() -> None:
    given = request(TWO)
    given.properties.message_id = None
    p = decode_properties(undo_properties(given, UNDONE.stages[0], server_user="guest"))
    assert p.message_id == p.correlation_id == b"c/undo/images.fetch"
