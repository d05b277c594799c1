"""Bounces: requests that the broker gave back to their caller, and why. docs/wire.md is the prose of this."""

from __future__ import annotations

from typing import NamedTuple

from warren.amqp.frames import Properties
from warren.protocol import evidence
from warren.protocol.evidence import Ending
from warren.protocol.reply import read_headers
from warren.protocol.topology import DEATH_REASON


class Bounce(NamedTuple):
    """Why the broker gave a request back."""

    ending: Ending
    message: str


def is_bounce(p: Properties) -> bool:
    """Whether a message is a bounce, as far as can be seen without reading its headers."""
    return p.table is not None and DEATH_REASON.encode() in p.table


def read_bounce(p: Properties) -> Bounce | None:
    """Why the broker gave a request back; None when this is a reply and not a bounce.

    Raises:
        CallError: its headers cannot be read.
    """
    if p.table is None:
        return None
    why = read_headers(p.table).get(DEATH_REASON)
    if why is None:
        return None
    return _BOUNCES.get(str(why)) or Bounce(
        evidence.BOUNCED, f"the broker gave the request back: {why}; look at the queue's policies"
    )


_BOUNCES = {
    "expired": Bounce(evidence.QUEUE_TTL, "the request's time ran out in the queue: add workers, or allow more time"),
    "maxlen": Bounce(
        evidence.DROPPED,
        "the queue is full and dropped the request, which a worker may have begun before: add workers or slow down",
    ),
    "delivery_limit": Bounce(
        evidence.DELIVERY_LIMIT,
        "the request was returned to its queue too often, and may be killing its workers: look at their log",
    ),
    "rejected": Bounce(
        evidence.REJECTED,
        "a consumer of the queue refused the request without an answer: look which programs take from it",
    ),
}
