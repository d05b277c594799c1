"""Misbehaviour on demand, for tests of clients. Everything is off until asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from warren.amqp.frames import HEARTBEAT
from warren.broker.frames import split_frames

ALL = re.compile(".*", re.DOTALL)  # queues, by their names


@dataclass(slots=True)
class Countdown:
    """So many more frames pass on a connection, one way, before it is cut. Heartbeats do not count."""

    frames: int
    to_client: bool
    reset: bool

    def passes(self) -> bool:
        """One more frame passes; False if it was the last."""
        self.frames -= 1
        return self.frames > 0

    def admit(self, data: bytes) -> bytes:
        """What of some whole frames still passes."""
        passed = 0
        for frame in split_frames(data):
            passed += len(frame)
            if frame[0] != HEARTBEAT and not self.passes():
                break
        return data[:passed]


@dataclass(slots=True)
class Faults:
    """What the broker is to do wrong next; counts run down, delays are seconds and last until set to 0."""

    withheld_confirms: int = 0
    reordered_confirms: int = 0
    kept_confirms: list[Callable[[], None]] = field(default_factory=list)  # until there are that many
    nacked_publishes: int = 0
    duplicated_deliveries: int = 0
    duplicated_queues: re.Pattern[str] = ALL
    confirm_delay: float = 0.0
    delivery_delay: float = 0.0
    delayed_queues: re.Pattern[str] = ALL
    refusing: bool = False  # new connections
    frozen: bool = False  # all connections, those to come included

    def withholds_confirm(self) -> bool:
        """Whether this confirm is never sent."""
        if self.withheld_confirms:
            self.withheld_confirms -= 1
            return True
        return False

    def keeps_confirm(self, send: Callable[[], None]) -> None:
        """Keep a confirm; when there are enough of them, all leave, the last one first."""
        self.kept_confirms.append(send)
        if len(self.kept_confirms) >= self.reordered_confirms:
            self.release_confirms()

    def release_confirms(self) -> None:
        """Send the confirms that are kept, the last one first, and keep no more."""
        kept, self.kept_confirms, self.reordered_confirms = self.kept_confirms, [], 0
        for send in reversed(kept):
            send()

    def nacks_publish(self) -> bool:
        """Whether this publish is thrown away and refused."""
        if self.nacked_publishes:
            self.nacked_publishes -= 1
            return True
        return False

    def duplicates_delivery(self, queue: str) -> bool:
        """Whether this delivery is sent twice."""
        if self.duplicated_deliveries and self.duplicated_queues.fullmatch(queue):
            self.duplicated_deliveries -= 1
            return True
        return False

    def delays_delivery(self, queue: str) -> float:
        """How many seconds later this delivery is sent."""
        return self.delivery_delay if self.delivery_delay and self.delayed_queues.fullmatch(queue) else 0.0
