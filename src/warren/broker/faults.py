"""Misbehaviour on demand, for tests of clients. Everything is off until asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

ALL = re.compile(".*", re.DOTALL)  # queues, by their names


@dataclass(slots=True)
class Faults:
    """What the broker is to do wrong next; counts run down, delays are seconds and last until set to 0."""

    withheld_confirms: int = 0
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
