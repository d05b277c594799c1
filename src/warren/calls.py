"""The calls of one client that have not ended yet.

Pure: no I/O, and time is passed in. A call ends exactly once: whoever takes it out of the table completes it, be it
a reply, a bounce, a return, a nack, its timer, a lost connection or the caller. What comes later finds no entry and
is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from warren.deadline import Timers
from warren.errors import Execution, Overloaded


class PendingCall:
    """One call, cast or bare call under way.

    `finish` gets the outcome, exactly once: the reply, or the error that stands for it.
    """

    __slots__ = ("awaits_reply", "body", "context", "deadline", "finish", "id", "slice", "written")

    def __init__(
        self,
        id: bytes,
        deadline: float,
        finish: Callable[[Any], None],
        context: Any,
        body: bytes,
        awaits_reply: bool,
    ) -> None:
        self.id = id
        self.deadline = deadline
        self.finish = finish
        self.context = context
        self.body = body
        self.awaits_reply = awaits_reply
        self.written = False
        self.slice = 0


class PendingCalls:
    """The table. `ignored` counts the replies that nobody waited for (late, duplicate, foreign)."""

    def __init__(self, prefix: bytes, limit: int, on_earlier: Callable[[float], None]) -> None:
        self._prefix = prefix
        self._limit = limit
        self._last = 0
        self._calls: dict[bytes, PendingCall] = {}
        self._unconfirmed: dict[int, PendingCall] = {}
        self._timers: Timers[PendingCall] = Timers(on_earlier)
        self.ignored = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call: PendingCall) -> bool:
        return call.id in self._calls

    def start(
        self, deadline: float, finish: Callable[[Any], None], context: Any, body: bytes = b"", *, awaits_reply: bool
    ) -> PendingCall:
        """Enter a call; its id is unique in this process and, by the random prefix, elsewhere.

        Raises:
            Overloaded: the client's own limit of calls in flight is reached.
        """
        calls = self._calls
        if len(calls) >= self._limit:
            raise Overloaded(
                f"{self._limit} calls are in flight on this client: wait for some of them, or raise max_in_flight",
                reason="CLIENT_LIMIT",
                execution=Execution.NOT_SENT,
            )
        self._last = number = self._last + 1
        call = PendingCall(self._prefix + b"%d" % number, deadline, finish, context, body, awaits_reply)
        calls[call.id] = call
        call.slice = self._timers.add(deadline, call)
        return call

    def sent(self, call: PendingCall, tag: int) -> None:
        """The call was written, as publish number `tag` of the confirming channel (0: by another channel)."""
        call.written = True
        if tag:
            self._unconfirmed[tag] = call

    def take(self, id: bytes | None) -> PendingCall | None:
        """Take the call with this correlation id out of the table; None (and counted) when there is none."""
        call = self._calls.pop(id, None)  # type: ignore[arg-type]  # None is simply not there
        if call is None:
            self.ignored += 1
            return None
        self._timers.remove(call.slice, call)
        return call

    def remove(self, call: PendingCall) -> bool:
        """Take this call out of the table; False when it has ended already."""
        if self._calls.pop(call.id, None) is None:
            return False
        self._timers.remove(call.slice, call)
        return True

    def confirmed(self, tag: int, multiple: bool) -> list[PendingCall]:
        """The broker has these publishes; returns the casts that end with that."""
        return [call for call in self._settled(tag, multiple) if not call.awaits_reply and self.remove(call)]

    def refused(self, tag: int, multiple: bool) -> list[PendingCall]:
        """The broker refuses these publishes; returns the calls that end with that."""
        return [call for call in self._settled(tag, multiple) if self.remove(call)]

    def _settled(self, tag: int, multiple: bool) -> list[PendingCall]:
        unconfirmed = self._unconfirmed
        if not multiple:
            call = unconfirmed.pop(tag, None)
            return [] if call is None else [call]
        tags = []
        for known in unconfirmed:  # entered in ascending order
            if known > tag:
                break
            tags.append(known)
        return [unconfirmed.pop(known) for known in tags]

    def expire(self, now: float) -> list[PendingCall]:
        """Take out the calls whose time is up."""
        return [call for call in self._timers.due(now) if self._calls.pop(call.id, None) is not None]

    def next_expiry(self) -> float | None:
        """When to call `expire` next."""
        return self._timers.next_due()

    def unconfirmed_lost(self) -> list[PendingCall]:
        """The confirming channel closed: take out the calls that the broker had not confirmed."""
        lost = [call for call in self._unconfirmed.values() if self.remove(call)]
        self._unconfirmed.clear()
        return lost

    def written_lost(self, which: Callable[[PendingCall], bool]) -> list[PendingCall]:
        """The way back is gone: take out the written calls that `which` picks."""
        return [call for call in list(self._calls.values()) if call.written and which(call) and self.remove(call)]

    def connection_lost(self) -> list[PendingCall]:
        """The connection is gone: take out all calls that were written to it."""
        self._unconfirmed.clear()
        return self.written_lost(lambda _call: True)

    def close(self) -> list[PendingCall]:
        """Take out every call."""
        calls = list(self._calls.values())
        for call in calls:
            self.remove(call)
        self._unconfirmed.clear()
        return calls
