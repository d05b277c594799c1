"""Whether the peer of a connection is still there. Pure: time and signs of life are passed in.

TCP says nothing of a peer that has vanished, and its heartbeats say nothing of the way towards it. So every half of
the limit the peer is asked something that it must answer, and when the answer stays out for the other half, with no
other sign of life, the peer counts as gone. Our own stalls do not count: between two looks no more time is believed
to have passed than they should be apart.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What to do after a look."""

    WAIT = "wait"
    PROBE = "probe"
    DEAD = "dead"


class Liveness:
    """The watch over one connection.

    Attributes:
        tick: seconds between two looks.
    """

    def __init__(self, limit: float, now: float) -> None:
        """`limit`: seconds of silence after which the peer is given up."""
        self._half = limit / 2
        self.tick = min(1.0, limit / 10)
        self._looked = now
        self._probing = False
        self._passed = 0.0  # seconds since the last answer, or while probing since the last sign of life
        self._received = 0
        self._waiting = 0

    def answered(self) -> None:
        """The peer has answered the probe."""
        self._probing = False
        self._passed = 0.0

    def look(self, now: float, *, received: int, waiting: int, blocked: bool) -> Verdict:
        """Look at the connection.

        Args:
            now: seconds of a monotonic clock.
            received: bytes that ever came, without heartbeats, which come also from a peer that hears nothing.
            waiting: bytes of output that have not reached the peer's system yet.
            blocked: the peer has said that it reads nothing (``connection.blocked``), so it cannot answer; then
                only its heartbeats tell, and they are Pika's to watch.
        """
        moved = received != self._received or waiting < self._waiting
        elapsed, self._looked = min(now - self._looked, 2 * self.tick), now
        self._received, self._waiting = received, waiting
        if self._probing and (moved or blocked):
            # A large message is under way, and the probe or its answer behind it.
            self._passed = 0.0
            return Verdict.WAIT
        self._passed += elapsed
        if self._passed < self._half:
            return Verdict.WAIT
        if self._probing:
            return Verdict.DEAD
        self._probing = True
        self._passed = 0.0
        return Verdict.PROBE
