"""Calls that their callers have given up: what runs is stopped, what waits is let go, what comes is not begun.

A request that is still on its way is remembered for as long as its caller would have waited, and only so many of them:
what is forgotten runs in vain, as all did before.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from warren.protocol.control import Cancel
from warren.protocol.request import Request
from warren.server.attempt import Attempt
from warren.server.holding import Holding

#: Requests that one service remembers, at most.
MOST_REMEMBERED = 10_000
#: Seconds for which it remembers one, at most.
LONGEST = 3600.0


class Withdrawals:
    """What one service's callers have withdrawn.

    Attributes:
        coming: requests that may still come; while there are none, nothing has to be looked up.
    """

    def __init__(self, held: Holding, withdraw: Callable[[Attempt], None], stop: Callable[[Attempt], None]) -> None:
        """Ends what callers and operators want to end.

        Args:
            held: all that the worker has, whenever it is asked.
            withdraw: ends one whose caller has given up.
            stop: ends one whose caller still waits.
        """
        self._held = held
        self._withdraw = withdraw
        self._stop = stop
        self.coming: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()

    def apply(self, cancel: Cancel) -> int:
        """Withdraw calls; returns how many of them were found here."""
        now, address = time.monotonic(), cancel.reply_to.encode()
        left = {call.encode(): ms for call, ms in cancel.calls.items()}
        found = _named(self._held, left, address)
        for attempt in found:
            assert attempt.request is not None
            left.pop(attempt.request.properties.correlation_id or b"", None)
            self._withdraw(attempt)
        for id, ms in left.items():
            self.coming[id, address] = now + min(max(0, ms) / 1000, LONGEST)
            if len(self.coming) > MOST_REMEMBERED:
                self.coming.popitem(last=False)
        return len(found)

    def stop(self, call_id: str) -> int:
        """End all runs of this call that are here, as an operator wants it; returns how many there were."""
        named = [a for a in self._held if not a.ended and a.request is not None and a.request.call_id == call_id]
        for attempt in named:
            self._held.withdraw(attempt)
            self._stop(attempt)
        return len(named)

    def take(self, request: Request) -> bool:
        """Whether the caller of a request that has just come has given it up."""
        p = request.properties
        until = self.coming.pop((p.correlation_id or b"", p.reply_to or b""), None)
        now = time.monotonic()
        while self.coming and next(iter(self.coming.values())) <= now:  # those behind it go with the next ones
            self.coming.popitem(last=False)
        return until is not None


def _named(held: Iterable[Attempt], calls: dict[bytes, int], address: bytes) -> list[Attempt]:
    """Those of them that are calls from this address, and under way; in one expression, as there may be 65,535."""
    return [
        attempt
        for attempt in held
        if (request := attempt.request) is not None
        and request.properties.correlation_id in calls
        and request.properties.reply_to == address
        and not attempt.ended
    ]
