"""Calls that their callers have given up: what runs is stopped, what waits is let go, what comes is not begun.

A request that is still on its way is remembered for as long as its caller would have waited, and only so many of them:
what is forgotten runs in vain, as all did before.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence

from warren.protocol.control import Cancel
from warren.protocol.request import Request
from warren.server.attempt import Attempt
from warren.server.holding import Holding

#: A call's correlation id and reply address.
Pair = tuple[bytes, bytes]

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
        self.coming: OrderedDict[Pair, float] = OrderedDict()

    def apply(self, cancels: Sequence[Cancel]) -> list[int]:
        """Withdraw calls; returns how many were found here, for each cancel.

        All that is held is looked through once, however many cancels there are.
        """
        now, found = time.monotonic(), [0] * len(cancels)
        named = {
            (id.encode(), cancel.reply_to.encode()): (number, ms)
            for number, cancel in enumerate(cancels)
            for id, ms in cancel.calls.items()
        }
        here = _among(self._held, named)
        for attempt, pair in here:
            found[named[pair][0]] += 1
            self._withdraw(attempt)
        known = {pair for _, pair in here}
        for pair, (_, ms) in named.items():
            if pair not in known:
                self._remember(pair, now + min(max(0, ms) / 1000, LONGEST))
        return found

    def _remember(self, pair: Pair, until: float) -> None:
        self.coming[pair] = until
        if len(self.coming) > MOST_REMEMBERED:
            self.coming.popitem(last=False)

    def stop(self, call_id: str) -> int:
        """End all runs of this call that are here, as an operator wants it; returns how many there were."""
        named = [a for a in self._held if not a.ended and a.request is not None and a.request.call_id == call_id]
        for attempt in named:
            self._held.withdraw(attempt)
            self._stop(attempt)
        return len(named)

    def take(self, request: Request) -> bool:
        """Whether the caller of a request that has just come has given it up."""
        until = self.coming.pop(_pair(request), None)
        now = time.monotonic()
        while self.coming and next(iter(self.coming.values())) <= now:  # those behind it go with the next ones
            self.coming.popitem(last=False)
        return until is not None


def _pair(request: Request) -> Pair:
    """What names a call: only its caller and its worker know both."""
    p = request.properties
    return p.correlation_id or b"", p.reply_to or b""


def _among(held: Iterable[Attempt], named: Container[Pair]) -> list[tuple[Attempt, Pair]]:
    """Those of them that are named and under way; in one expression, as there may be 65,535."""
    return [
        (attempt, pair)
        for attempt in held
        if (request := attempt.request) is not None and (pair := _pair(request)) in named and not attempt.ended
    ]
