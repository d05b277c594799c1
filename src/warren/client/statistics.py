"""How a client stands."""

from __future__ import annotations

from typing import NamedTuple

from warren.client.calls import Calls
from warren.connection.link import Link


class ClientStatistics(NamedTuple):
    """How a client stands; all of it is of its connection, which its views share.

    Attributes:
        in_flight: calls and casts that have not ended.
        waiting: those of them that wait to be sent.
        waiting_bytes: bytes of requests that are kept, to be sent or to be sent again.
        ignored_replies: those that nobody waited for any more: late, duplicate or foreign ones.
        reconnects: connections that were opened after the first one.
        connected: whether it has a connection.
        blocked: whether its broker takes no publishes.
    """

    in_flight: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    ignored_replies: int = 0
    reconnects: int = 0
    connected: bool = False
    blocked: bool = False


def statistics_of(calls: Calls, link: Link | None, links: int) -> ClientStatistics:
    """How a client with these calls stands, on this link, the last one of so many. From any thread."""
    outside = calls.outside.copy()
    return ClientStatistics(
        in_flight=len(calls) + len(outside),
        waiting=len(calls.waiting) + len(outside),
        waiting_bytes=calls.held + sum(map(len, outside.values())),
        ignored_replies=calls.ignored,
        reconnects=max(0, links - 1),
        connected=link is not None,
        blocked=link is not None and link.blocked is not None,
    )
