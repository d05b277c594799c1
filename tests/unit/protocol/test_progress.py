"""What is said of progress, and what is believed of what peers say."""

import enum
import json
import math
from typing import Any

import pytest

from warren.amqp.frames import Properties, decode_properties
from warren.amqp.tables import encode_table
from warren.protocol.progress import PROGRESS, Progress, asked_for, checked, progress_message, read_progress


@pytest.mark.parametrize(
    "said", [Progress(0), Progress(3, 4), Progress(2.5, 2, "more than was thought"), Progress(1, None, "a\0 \u2028")]
)
def test_what_is_said_is_read(said: Progress) -> None:
    properties, body = progress_message(b"1f", said)
    p = decode_properties(properties)
    assert (p.type, p.correlation_id) == (PROGRESS, b"1f")
    assert p.table  # else it would be taken for a result
    assert read_progress(body) == said


@pytest.mark.parametrize(("said", "share"), [((1,), None), ((1, 4), 0.25), ((5, 4), 1.0), ((0, 0), 1.0)])
def test_the_share_is_between_0_and_1(said: Any, share: float | None) -> None:
    assert Progress(*said).share == share


def test_a_long_message_is_cut_and_half_a_character_does_no_harm() -> None:
    for text in ("x" * 5000, "\U0001f407" * 5000, "\0" * 5000, "\udc80" * 5000):
        said = read_progress(progress_message(b"1f", Progress(1, 2, text))[1])
        assert said is not None
        assert len(said.message or "") == 1000


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ((-1, None, None), ValueError),
        ((math.nan, None, None), ValueError),
        ((1, math.inf, None), ValueError),
        ((2**63, None, None), ValueError),
        ((10**400, None, None), ValueError),
        ((1, 10**400, None), ValueError),
        (("1", None, None), TypeError),
        ((True, None, None), TypeError),
        ((1, "2", None), TypeError),
        ((1, 2, b"x"), TypeError),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_said(said: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="say"):
        checked(*said)


class _TheirFloat(float):
    """As NumPy's ``float64`` is one."""


class _Step(enum.IntEnum):
    LAST = 3


def test_numbers_of_other_kinds_are_told_as_plain_ones() -> None:
    for number, plain in ((_TheirFloat(0.5), 0.5), (_Step.LAST, 3)):
        said = checked(number, number, None)
        assert read_progress(progress_message(b"1f", said)[1]) == Progress(plain, plain)


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"\xff",
        b"[]",
        b'{"done": "1"}',
        b'{"done": -1}',
        b'{"done": 1e999}',
        b'{"done": 9223372036854775808}',
        b'{"done": 1, "total": true}',
        b'{"done": 1, "message": 2}',
        json.dumps({"done": 1, "message": "x" * 1001}).encode(),
        json.dumps({"done": 1, "message": "x" * 100_000}).encode(),
        b'{"done": ' + b"9" * 10_000 + b"}",
        b'{"done": 1' + b"0" * 400 + b"}",
        b"[" * 10_000,
    ],
)
def test_what_makes_no_sense_is_dropped_where_it_is_read(body: bytes | None) -> None:
    assert read_progress(body) is None


def test_a_bomb_of_nesting_does_no_harm() -> None:  # Python 3.14 bounds it by the stack, and so lets it pass
    assert read_progress(b'{"done": 1, "theirs": ' + b"[" * 5_000 + b"]" * 5_000 + b"}") in (None, Progress(1))


@pytest.mark.parametrize(
    ("table", "asked"),
    [
        (None, False),
        (encode_table({"rpc-progress": True}), True),
        (encode_table({"rpc-progress": False}), False),
        (encode_table({"rpc-progress": 1}), False),
        (encode_table({"theirs": "rpc-progress"}), False),
        (b"\x0crpc-progress", False),
    ],
)
def test_only_the_header_itself_asks(table: bytes | None, asked: bool) -> None:
    assert asked_for(Properties(reply_to=b"q", table=table)) is asked
    assert not asked_for(Properties(table=table))


def test_nothing_is_told_to_an_address_that_may_cost_the_worker_its_connection() -> None:
    for address in (None, b"", b"amq.rabbitmq.reply-to.g2dkAA", b"amq.rabbitmq.reply-to"):
        assert not asked_for(Properties(reply_to=address, table=encode_table({"rpc-progress": True})))
