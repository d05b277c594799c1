"""A log line that may come by the thousand: the first few are written, those that follow closely are summed up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class Flood:
    """One kind of line; call it as `logging.Logger.log` without the level."""

    def __init__(
        self,
        log: logging.Logger,
        level: int,
        *,
        most: int = 10,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most`: lines that are written in each spell of `every` seconds; those beyond are only counted."""
        self._log = log
        self._level = level
        self._most = most
        self._every = every
        self._clock = clock
        self._spell_ends = float("-inf")
        self._written = 0
        self._swallowed = 0
        self._last: tuple[str, tuple[object, ...]] = ("", ())

    def __call__(self, message: str, *args: object) -> None:
        now = self._clock()
        if now >= self._spell_ends:
            self.sum_up()
            self._spell_ends, self._written = now + self._every, 0
        if self._written >= self._most:
            self._swallowed += 1
            self._last = (message, args)
            return
        self._written += 1
        self._log.log(self._level, message, *args)

    def sum_up(self) -> None:
        """Say how many lines were swallowed; when there will be no other, for example."""
        swallowed, self._swallowed = self._swallowed, 0
        if swallowed:
            message, args = self._last
            self._log.log(self._level, "%d more like this, the last of them: " + message, swallowed, *args)
