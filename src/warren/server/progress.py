"""What handlers say of their progress, on its way to callers that have asked: the newest, and not too often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any

from warren.protocol.progress import Progress, progress_message
from warren.server.attempt import Attempt
from warren.server.context import CurrentCall

#: Seconds between two messages about one call; only that all is done goes sooner.
INTERVAL = 0.1


class Reports:
    """Those of one worker."""

    def __init__(self, attempts: Callable[[], Iterable[Attempt]]) -> None:
        """`attempts` are those that run."""
        self._loop = asyncio.get_running_loop()
        self._attempts = attempts

    def open(self, call: CurrentCall[Any]) -> Callable[[Progress], None]:
        """The way to a call's caller."""
        return _Reporter(self._loop, lambda: self._find(call)).report

    def _find(self, call: CurrentCall[Any]) -> Attempt | None:
        return next((attempt for attempt in self._attempts() if getattr(attempt, "call", None) is call), None)


class _Reporter:
    """The way to one caller: from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, find: Callable[[], Attempt | None]) -> None:
        self._loop = loop
        self._find = find
        self._newest: Progress | None = None
        self._is_due = False  # whether the loop will look for it
        self._completed = False
        self._again = float("-inf")  # when the next one may go

    def report(self, said: Progress) -> None:
        """Tell the caller, soon; what is newer by then goes in its place."""
        self._newest = said
        if said.is_complete and not self._completed:  # else the end would often overtake it
            self._completed = True
            self._on_loop(self._send)
        elif not self._is_due:
            self._is_due = True
            self._on_loop(self._send_in_time)

    def _on_loop(self, function: Callable[[], None]) -> None:
        """At once where this is the loop: a handler that returns now has told before it is answered."""
        if asyncio._get_running_loop() is self._loop:
            function()
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed under a thread
                self._loop.call_soon_threadsafe(function, context=Context())

    def _send_in_time(self) -> None:
        pause = self._again - self._loop.time()
        if pause > 0:
            self._loop.call_later(pause, self._send, context=Context())
        else:
            self._send()

    def _send(self) -> None:
        self._is_due = False  # first: a thread that says something now sees to it that it is sent
        said, self._newest = self._newest, None
        attempt = None if said is None else self._find()
        if said is None or attempt is None or attempt.ended or attempt.answered or attempt.request is None:
            return
        self._again = self._loop.time() + INTERVAL
        p = attempt.request.properties
        attempt.channel.publish_unrouted(b"", p.reply_to or b"", *progress_message(p.correlation_id or b"", said))
