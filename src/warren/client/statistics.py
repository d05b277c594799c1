"""How a client stands."""

from __future__ import annotations

from typing import NamedTuple


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
