"""Where the embedded broker deliberately differs from RabbitMQ: all of it, each with the reason.

Nothing else in this suite forgives a difference. The documentation of the embedded broker has the same list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """What differs, why, and how to make the two records alike where it shows in one."""

    what: str
    why: str
    alike: Callable[[Any], Any] = lambda record: record


def _without_headers(pattern: str) -> Callable[[Any], Any]:
    """Drop the headers whose names match."""
    compiled = re.compile(pattern)

    def drop(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: drop(item) for name, item in value.items() if not compiled.fullmatch(str(name))}
        return [drop(item) for item in value] if isinstance(value, list) else value

    return drop


def _without_closes(of: Callable[[dict[str, Any]], bool]) -> Callable[[Any], Any]:
    """Drop the Connection.Close methods of this kind; that the connection ended stays."""

    def drop(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: drop(item) for name, item in value.items()}
        if isinstance(value, list):
            return [drop(item) for item in value if not (_is_close(item) and of(item))]
        return value

    return drop


def _is_close(item: Any) -> bool:
    return isinstance(item, dict) and item.get("method") == "Connection.Close"


def _of_handshake(close: dict[str, Any]) -> bool:
    """Of StartOk or TuneOk, but not for a wrong password."""
    method = close["class_id"][1], close["method_id"][1]
    if close["reply_text"].startswith("FRAME_ERROR - type 1, ") and close["reply_text"].endswith(",4088}"):
        return True  # StartOk in a frame that is too large
    return method in ((10, 11), (10, 31)) and close["reply_code"][1] != 403


def _without_zero_counts(value: Any) -> Any:
    """Drop x-delivery-count if it is 0, and headers of which nothing is left."""
    if isinstance(value, list):
        return [_without_zero_counts(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _without_zero_counts(item) for name, item in value.items()}
    if kept.get("x-delivery-count", (None, None))[1] == 0:
        del kept["x-delivery-count"]
    if kept.get("headers") == {} and value["headers"]:
        del kept["headers"]
    return kept


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "What is wrong with a client's StartOk or TuneOk (mechanism, size, frame_max, channel_max) is told in"
        " Connection.Close.",
        "RabbitMQ writes it in its log and closes the socket; the client would have to guess.",
        _without_closes(_of_handshake),
    ),
    Difference(
        "An unknown method is answered with 503 before the connection is closed.",
        "RabbitMQ closes the socket without a word.",
        _without_closes(lambda close: "unknown method" in close["reply_text"]),
    ),
    Difference(
        "Body frames that are longer than their header says cost the connection at once (501).",
        "RabbitMQ goes on waiting for the rest, of which there is less than nothing.",
    ),
    Difference(
        "A content header that does not add up is answered with 502.",
        "RabbitMQ closes the connection with 541 and an empty text.",
    ),
    Difference(
        "A message that is too large is refused when its header comes.",
        "RabbitMQ takes all of it first; the code and the text are the same.",
    ),
    Difference(
        "After bytes that are no frame the broker sends Connection.Close and reads no more, not even the answer to it.",
        "What follows such bytes cannot be read with certainty; RabbitMQ waits for the answer.",
    ),
    Difference(
        "A direct reply that is published with mandatory does not come back.",
        "RabbitMQ returns it although it has arrived, up to 4.1; from 4.2 on it does not.",
    ),
    Difference(
        "The protocol header AMQP 1-1-9-1 is taken for 0-9-1.",
        "RabbitMQ speaks AMQP 0-8 after it, which nobody does any more.",
    ),
    Difference(
        "A dead letter has x-last-death-reason, -queue and -exchange beside x-first-death-*.",
        "RabbitMQ has them from 3.13 on; this suite compares with an older one.",
        _without_headers("x-last-death-(reason|queue|exchange)"),
    ),
    Difference(
        "Quorum queues do not send x-delivery-count with a first delivery.",
        "So it is from RabbitMQ 4.0 on; before, it is there and 0.",
        _without_zero_counts,
    ),
    Difference(
        "A message that is put back in a quorum queue goes where it was.",
        "RabbitMQ 3.10 puts it at the end, or at the front if the queue has a delivery limit or the channel is lost;"
        " later versions do as classic queues do.",
    ),
    Difference(
        "The consumers of a quorum queue are those that consume.",
        "RabbitMQ counts, too, who has not acknowledged what Basic.Get brought, or what came before its cancel.",
    ),
    Difference(
        "A quorum queue that rejects what is too much takes nothing that is.",
        "RabbitMQ tells publishers to stop some messages later.",
    ),
    Difference(
        "Basic.GetOk of a quorum queue does not count what has expired behind the message.",
        "RabbitMQ expires it a moment later.",
    ),
    Difference(
        "Prefetch does not matter to consumers of quorum queues that want no acks.",
        "RabbitMQ gives them so many at a time; meanwhile a full queue drops others.",
    ),
    Difference(
        "An exclusive consumer is alone on a quorum queue, too.",
        "RabbitMQ 3.10 lets others in, although it promised not to.",
    ),
    Difference(
        "A message with an expiration that overtakes others by its priority expires in time.",
        "RabbitMQ looks at a new message's time only if it is the only one in the queue, or the first was dropped;"
        " classic queues deliver it long after its time.",
    ),
)


def forgive(record: Any) -> Any:
    """A record without what is known to differ."""
    for difference in DIFFERENCES:
        record = difference.alike(record)
    return record
