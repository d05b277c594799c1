"""The calls of one client that have not ended yet.

Pure: no I/O, and time is passed in. A call ends exactly once: whoever takes it out of the table completes it, be it
a reply, a bounce, a return, a nack, its timer, a lost connection or the caller. What comes later finds no entry and
is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from warren.errors import Execution, Overloaded
from warren.protocol.deadline import Slice, Timers


class Waiter(Protocol):
    """Who waits for a call."""

    def finish(self, outcome: Any) -> None:
        """Take the outcome, at most once: the reply, None for a confirmed cast, or the error that stands for it."""


class PendingCall:
    """One call, cast or bare call under way.

    Attributes:
        id: the correlation id of its present attempt.
        first_id: that of its first attempt, stable over all of them: the ``message_id``.
        deadline: seconds of the clock that the table's owner uses.
        waiter: who gets the outcome.
        body: the request, while it waits to be written (or to be written again); see `PendingCalls.hold`.
        tag: None before it was written; then its publish number on the confirming channel, 0 on another channel.
    """

    __slots__ = ("awaits_reply", "body", "context", "deadline", "first_id", "id", "slice", "tag", "waiter")

    def __init__(self, id: bytes, deadline: float, waiter: Waiter, context: Any, awaits_reply: bool) -> None:
        self.id = self.first_id = id
        self.deadline = deadline
        self.waiter = waiter
        self.context = context
        self.awaits_reply = awaits_reply
        self.body: bytes | None = None
        self.tag: int | None = None
        self.slice: Slice[PendingCall]

    @property
    def written(self) -> bool:
        """Whether the broker may have its present attempt."""
        return self.tag is not None

    @property
    def again(self) -> bool:
        """Whether an earlier attempt was written: what is known of the present one is not known of the call."""
        return self.id is not self.first_id


class PendingCalls:
    """The table.

    Attributes:
        ignored: replies that nobody waited for (late, duplicate, foreign).
        held: bytes of the bodies that are kept.
    """

    def __init__(self, prefix: bytes, limit: int, on_earlier: Callable[[float], None]) -> None:
        self._prefix = prefix
        self._limit = limit
        self._last = 0
        self._calls: dict[bytes, PendingCall] = {}
        self._unconfirmed: dict[int, PendingCall] = {}
        self._timers: Timers[PendingCall] = Timers(on_earlier)
        self.ignored = 0
        self.held = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, call: PendingCall) -> bool:
        return call.id in self._calls

    def start(self, deadline: float, waiter: Waiter, context: Any, *, awaits_reply: bool) -> PendingCall:
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
        call = PendingCall(self._prefix + b"%d" % number, deadline, waiter, context, awaits_reply)
        calls[call.id] = call
        call.slice = self._timers.add(deadline, call)
        return call

    def hold(self, call: PendingCall, body: bytes) -> None:
        """Keep a call's body, until it is released or the call ends."""
        call.body = body
        self.held += len(body)

    def release(self, call: PendingCall) -> bytes:
        """The body of a call, which is kept no longer."""
        body, call.body = call.body or b"", None
        self.held -= len(body)
        return body

    def sent(self, call: PendingCall, tag: int) -> None:
        """The call was written, as publish number `tag` of the confirming channel (0: by another channel)."""
        call.tag = tag
        if tag:
            self._unconfirmed[tag] = call

    def again(self, call: PendingCall, *, refused: bool = False) -> None:
        """The call will be written once more, with another id; an attempt that was refused counts as none at all."""
        first = refused and not call.again
        del self._calls[call.id]
        self._last += 1
        call.id = self._prefix + b"%d" % self._last
        if first:
            call.first_id = call.id
        call.tag = None
        self._calls[call.id] = call

    def is_confirmed(self, call: PendingCall) -> bool:
        """Whether the broker has said that it has the call; of bare calls it never does."""
        return bool(call.tag) and call.tag not in self._unconfirmed

    def take(self, id: bytes | None) -> PendingCall | None:
        """Take the call with this correlation id out of the table; None (and counted) when there is none."""
        call = self._calls.pop(id, None)  # type: ignore[arg-type]  # None is simply not there
        if call is None:
            self.ignored += 1
            return None
        call.slice.pop(call, None)
        if call.body is not None:
            self.release(call)
        return call

    def remove(self, call: PendingCall) -> bool:
        """Take this call out of the table; False when it has ended already."""
        if self._calls.pop(call.id, None) is None:
            return False
        call.slice.pop(call, None)
        if call.body is not None:
            self.release(call)
        return True

    def confirmed(self, tag: int, multiple: bool) -> list[PendingCall]:
        """The broker has these publishes; returns the casts that end with that."""
        return [call for call in self._settled(tag, multiple) if not call.awaits_reply and self.remove(call)]

    def refused(
        self, tag: int, multiple: bool, carries_on: Callable[[PendingCall], bool] = lambda _call: False
    ) -> list[PendingCall]:
        """The broker refuses these publishes; returns the calls that end with that: those that do not carry on."""
        refused = [call for call in self._settled(tag, multiple) if call in self]
        return [call for call in refused if not carries_on(call) and self.remove(call)]

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

    @property
    def settled(self) -> bool:
        """Whether the broker has confirmed or refused all that was published."""
        return not self._unconfirmed

    def expire(self, now: float) -> list[PendingCall]:
        """Take out the calls whose time is up."""
        return [call for call in self._timers.due(now) if self.remove(call)]

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

    def connection_lost(self, carries_on: Callable[[PendingCall], bool]) -> list[PendingCall]:
        """The connection is gone: take out the calls that were written to it, but for those that carry on."""
        lost = self.written_lost(lambda call: not carries_on(call))
        self._unconfirmed.clear()
        return lost

    def close(self) -> list[PendingCall]:
        """Take out every call."""
        calls = list(self._calls.values())
        for call in calls:
            self.remove(call)
        self._unconfirmed.clear()
        return calls
