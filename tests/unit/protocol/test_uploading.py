"""Uploads, as bytes: what each side says of itself."""

import pytest

from warren.amqp.frames import Properties, decode_properties
from warren.amqp.tables import encode_table
from warren.protocol.streaming import DEFAULT_WINDOW, Window
from warren.protocol.uploading import (
    CONVERSATION_MARK,
    END,
    UPLOAD_MARK,
    Sent,
    Taken,
    own_name,
    read_sent,
    read_taken,
    sent_properties,
    taken_properties,
    unmarked,
)

TAKEN = Taken(7, "amq.gen-1", "instance:1", Window(3, 1000))
SAID = {"rpc-taken": 7, "rpc-items-to": "amq.gen-1", "rpc-instance": "instance:1"}


def test_what_a_worker_says_is_read_as_it_was_said() -> None:
    p = decode_properties(taken_properties(b"id", TAKEN))
    assert (p.type, p.correlation_id) == (b"taken", b"id")
    assert read_taken(p) == TAKEN


@pytest.mark.parametrize(
    "said",
    [
        {},
        SAID | {"rpc-taken": -1},
        SAID | {"rpc-taken": True},
        SAID | {"rpc-taken": "7"},
        SAID | {"rpc-items-to": ""},
        SAID | {"rpc-items-to": "x" * 256},
        SAID | {"rpc-items-to": 5},
        SAID | {"rpc-instance": ""},
    ],
)
def test_what_makes_no_sense_says_nothing(said: dict[str, object]) -> None:
    assert read_taken(Properties(table=encode_table(said))) is None


def test_a_table_that_cannot_be_read_says_nothing() -> None:
    assert read_taken(Properties(table=b"\xff")) is None
    assert read_sent(Properties(type=b"item", table=b"\xff")) is None


def test_a_window_that_makes_no_sense_is_the_usual_one() -> None:
    said = SAID | {"rpc-window-items": 0, "rpc-window-bytes": "many"}
    taken = read_taken(Properties(table=encode_table(said)))
    assert taken is not None
    assert taken.window == DEFAULT_WINDOW


@pytest.mark.parametrize("sent", [Sent(0, 3, False), Sent(5, 0, False), Sent(8, 0, True)])
def test_what_a_caller_says_is_read_as_it_was_said(sent: Sent) -> None:
    p = decode_properties(sent_properties("application/json", b"id", b"reply", sent))
    assert (p.correlation_id, p.reply_to, p.content_type) == (b"id", b"reply", b"application/json")
    assert read_sent(p) == sent


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (b"item", {}),
        (b"item", {"rpc-seq": 1}),
        (b"item", {"rpc-seq": -1, "rpc-items": 1}),
        (b"item", {"rpc-seq": 1, "rpc-items": "1"}),
        (END, {"rpc-seq": 1, "rpc-items": 1}),  # no item is in there
        (b"other", {"rpc-seq": 1, "rpc-items": 1}),
        (None, {"rpc-seq": 1, "rpc-items": 1}),
    ],
)
def test_what_a_caller_says_without_sense_is_nothing(kind: bytes | None, said: dict[str, object]) -> None:
    assert read_sent(Properties(type=kind, table=encode_table(said))) is None


@pytest.mark.parametrize("mark", ["", ">", "[]", UPLOAD_MARK, CONVERSATION_MARK])
def test_a_mark_comes_off_its_name(mark: str) -> None:
    assert (
        unmarked(f"store{mark}")
        == own_name(f"store{mark}", "blobs")
        == own_name(f"blobs.store{mark}", "blobs")
        == "store"
    )


def test_of_another_service_a_name_stays_in_full() -> None:
    assert own_name("images.store", "blobs") == "images.store"
