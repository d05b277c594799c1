"""A log line that may come by the thousand: the first is written, those that follow closely are summed up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class Flood:
    """One kind of line; call it as `logging.Logger.log` without the level."""

    def __init__(
        self, log: logging.Logger, level: int, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`every`: seconds after a line in which others of its kind are only counted."""
        self._log = log
        self._level = level
        self._every = every
        self._clock = clock
        self._quiet_until = float("-inf")
        self._swallowed = 0

    def __call__(self, message: str, *args: object) -> None:
        now = self._clock()
        if now < self._quiet_until:
            self._swallowed += 1
            return
        self.sum_up()
        self._quiet_until = now + self._every
        self._log.log(self._level, message, *args)

    def sum_up(self) -> None:
        """Say how many lines were swallowed; when there will be no other, for example."""
        swallowed, self._swallowed = self._swallowed, 0
        if swallowed:
            self._log.log(self._level, "%d more lines like the last of this kind were left out", swallowed)
