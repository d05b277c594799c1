"""Ways of items between handlers that run and their callers, in either direction: who has one, and how it ends.

A way belongs to one run of one call. It is closed when the handler has ended, and abandoned when the caller or the link
is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

from warren.protocol import evidence
from warren.protocol.evidence import conclude
from warren.protocol.topology import DIRECT_REPLY_TO
from warren.server.attempt import Attempt
from warren.server.context import CurrentCall, cancel
from warren.server.cutoffs import stop


class Way:
    """The way of one call's items.

    Attributes:
        id, address: the correlation id and the reply queue of its request, by which both sides know it.
        on_closed: called when it has no use any more.
        on_still: called where nothing moves any more, which may be so as nothing from its caller finds the way here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, attempt: Attempt, given_up: str) -> None:
        """`given_up`: what a handler ends in that it is abandoned under."""
        request = attempt.request
        assert request is not None
        self.attempt = attempt
        self.address, self.id = request.properties.reply_to or b"", request.properties.correlation_id or b""
        self.on_closed: Callable[[Any], None] = lambda _way: None
        self.on_still: Callable[[], None] = lambda: None
        self._loop = loop
        self._given_up = given_up
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_caller(self) -> bool:
        """Whether its caller has a reply queue of its own, which more than one message may go to."""
        return bool(self.address) and not self.address.startswith(DIRECT_REPLY_TO)

    def stop(self) -> None:
        """Nobody wants more: whoever waits for it in the handler hears of that."""
        raise NotImplementedError

    def check_stopped(self) -> None:
        """End a handler that was cancelled before, has gone on, and now would wait: it is cancelled once only."""
        if self.attempt.stopped_by is not None:
            raise asyncio.CancelledError(self.attempt.stopped_by[1])

    def abandon(self) -> None:
        """The link is lost, or its caller is gone: end it, as nobody would ever be answered."""
        self.attempt.answered = True
        cancel(self.attempt.call)
        self.stop()
        stop(self.attempt, evidence.GIVEN_UP, self._given_up)

    def _leave(self) -> None:
        self.on_closed(self)
        with contextlib.suppress(RuntimeError):  # the loop was closed under a thread
            self._loop.call_soon_threadsafe(self._forget_timer)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


W = TypeVar("W", bound=Way)


class Ways(Generic[W]):
    """Those of one worker.

    Attributes:
        source: the routing key, in the control exchange, of this process; None where it has no control queue.
        comes_back: whether it is going to have one, as it is only deleted.
        on_still: see `Way`.
    """

    def __init__(self, attempts: Callable[[], list[Attempt]]) -> None:
        """`attempts` are those that run."""
        self._loop = asyncio.get_running_loop()
        self._attempts = attempts
        self._changing = threading.Lock()  # they are opened and closed in threads, too
        self._open: dict[tuple[bytes, bytes], list[W]] = {}
        self.source: Callable[[], str | None] = lambda: None
        self.comes_back: Callable[[], bool] = lambda: False
        self.on_still: Callable[[], None] = lambda: None

    def _attempt_of(self, call: CurrentCall[Any]) -> Attempt:
        return next(attempt for attempt in self._attempts() if getattr(attempt, "call", None) is call)

    def _add(self, way: W) -> W:
        way.on_closed, way.on_still = self._closed, self.on_still
        with self._changing:
            self._open.setdefault((way.id, way.address), []).append(way)
        return way

    def _refuse_without(self, queue: str, *, comes_back: bool) -> NoReturn:
        """Refuse (`CallError`) a call for which there is no such queue."""
        if comes_back:
            why = f"this worker's {queue} was deleted, and is not there again yet: call again, and look who deletes it"
            raise conclude(evidence.STREAM_DOWN, why)
        raise conclude(evidence.STREAM, f"this worker has no {queue}, which calls with items need: allow it one")

    def _closed(self, way: W) -> None:
        pair = way.id, way.address
        with self._changing:
            ways = self._open.get(pair, [])
            if way in ways:
                ways.remove(way)
            if not ways:
                self._open.pop(pair, None)

    def _of(self, id: bytes, address: bytes) -> list[W]:
        """Those of this call; of several runs of it, where its request was delivered more than once."""
        return list(self._open.get((id, address), ()))

    def _all(self) -> list[W]:
        return [way for ways in list(self._open.values()) for way in list(ways)]

    def returned(self, id: bytes | None) -> None:
        """A message to the caller with this correlation id came back: it is gone."""
        for way in [way for way in self._all() if way.id == id]:
            way.abandon()

    def lost(self) -> None:
        """The channel that their requests came on is gone, and with it what would answer them."""
        for way in self._all():
            way.abandon()
