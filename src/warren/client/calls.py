"""The calls of one client that have not ended, and where each of them is.

Pure: no I/O; time and chance are passed in. A call is in exactly one place, which its state tells, and an ended one is
in none: not among those that wait, not under a publish number, not in a timer. So the memory of a client is bounded by
its calls in flight. Whoever ends a call, be it a reply, a bounce, a return, a nack, its timer, a lost connection or the
caller, takes it out here first and completes it then; what comes later finds nothing and is counted.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, Final, Protocol

from warren.amqp.confirms import Confirms
from warren.protocol.deadline import Slice, Timers
from warren.protocol.evidence import CLIENT_LIMIT, conclude

#: Random bytes of a correlation id: nobody can guess one within a call's life [docs/wire.md, Request].
_ID_BYTES: Final = 12
_IDS_AT_ONCE: Final = 256


class Waiter(Protocol):
    """Who waits for a call."""

    def finish(self, outcome: Any) -> None:
        """Take the outcome, at most once: the reply, None for a confirmed cast, or the error that stands for it."""


class State(StrEnum):
    """Where a call is."""

    BEGUN = "begun"  # being written, or put among those that wait, in this very turn
    OUTSIDE = "outside"  # not in flight, as there is no room for it yet: `Calls.outside`
    WAITING = "waiting"  # to be written: `Calls.waiting`
    WRITTEN = "written"  # on a channel whose broker has not confirmed it: the channel's `Confirms`
    CONFIRMED = "confirmed"  # the broker has said that it has it; in no other place
    ASKED = "asked"  # what ends it is known, and a question about its queue is under way: that question
    PARKED = "parked"  # refused by the broker, and to be sent again over another channel: `Calls.parked`
    ENDED = "ended"  # nowhere


BEGUN: Final = State.BEGUN
OUTSIDE: Final = State.OUTSIDE
WAITING: Final = State.WAITING
WRITTEN: Final = State.WRITTEN
CONFIRMED: Final = State.CONFIRMED
ASKED: Final = State.ASKED
PARKED: Final = State.PARKED
ENDED: Final = State.ENDED

#: The ways of a call; it may end in any state but the last.
_NEXT: Final[dict[State, frozenset[State]]] = {
    BEGUN: frozenset({OUTSIDE, WAITING, WRITTEN}),
    OUTSIDE: frozenset({WAITING}),
    WAITING: frozenset({WRITTEN, ASKED}),
    WRITTEN: frozenset({CONFIRMED, ASKED, WAITING}),
    CONFIRMED: frozenset({ASKED, WAITING}),
    ASKED: frozenset({PARKED, WAITING}),
    PARKED: frozenset({WAITING, ASKED}),
    ENDED: frozenset(),
}


class PendingCall:
    """One call, cast or bare call under way.

    Attributes:
        id: the correlation id of its present attempt.
        first_id: that of its first attempt, stable over all of them: the ``message_id``.
        deadline: seconds of the clock that the table's owner uses.
        waiter: who gets the outcome.
        target: where it goes.
        awaits_reply: False for a cast, which ends with its confirm.
        body: the request, while it waits to be written (or to be written again); see `Calls.hold`.
        state: see `State`.
        earlier: whether an earlier attempt may have been begun: what is known of this one is not known of the call.
        asked: when it was written, if it has asked the workers for their word about their queues; else unset.
    """

    __slots__ = (
        "asked", "awaits_reply", "body", "confirms", "deadline", "earlier", "first_id", "id", "place", "slice", "state",
        "tag", "target", "waiter",
    )  # fmt: skip

    def __init__(self, id: bytes, deadline: float, waiter: Waiter, target: Any, awaits_reply: bool) -> None:
        self.id = self.first_id = id
        self.deadline = deadline
        self.waiter = waiter
        self.target = target
        self.awaits_reply = awaits_reply
        self.body: bytes | None = None
        self.earlier = False
        self.state = BEGUN
        self.place: dict[PendingCall, Any] | None = None  # of OUTSIDE, WAITING, ASKED, PARKED
        self.confirms: Confirms[PendingCall]  # of WRITTEN, with its number there
        self.tag: int
        self.asked: float
        self.slice: Slice[PendingCall]

    @property
    def sent_before(self) -> bool:
        """Whether this is not the first attempt."""
        return self.id is not self.first_id


class _Room:
    """What is in flight, at most `limit` calls, and what is kept of them: `held` bytes, and at most `most_held`."""

    def __init__(self, limit: int, most_held: int) -> None:
        self._limit = limit
        self._most_held = most_held
        self._calls: dict[bytes, PendingCall] = {}
        self.held = 0

    def __len__(self) -> int:
        return len(self._calls)

    def lacking(self, size: int) -> str:
        """What there is no room for, if `size` bytes have to be kept; empty when there is room."""
        if len(self._calls) >= self._limit:
            return f"{self._limit} calls are in flight on this client: wait for some of them, or raise max_in_flight"
        if size and self.held + size > self._most_held:
            return f"{self.held} bytes of requests wait to be sent already: slow down, or raise max_waiting_bytes"
        return ""

    def _refuse_hopeless(self, size: int) -> None:
        if size > self._most_held:
            why = f"{size} bytes would never have room to wait to be sent: raise max_waiting_bytes ({self._most_held})"
            raise conclude(CLIENT_LIMIT, why)


class Calls(_Room):
    """The table.

    Attributes:
        outside: what waits for room, in order, each with its body.
        waiting: to be written, in order.
        refused: to be sent again over another channel, each with what was found out about its queue.
        ignored: replies that nobody waited for (late, duplicate, foreign).
    """

    def __init__(self, ids: Iterator[bytes], limit: int, most_held: int, on_earlier: Callable[[float], None]) -> None:
        """`on_earlier(when)` is called when `expired` has to be called earlier than known so far."""
        super().__init__(limit, most_held)
        self._ids = ids
        self._timers: Timers[PendingCall] = Timers(on_earlier)
        self.outside: dict[PendingCall, bytes] = {}
        self.waiting: dict[PendingCall, None] = {}
        self.on_entered: Callable[[], None] = lambda: None  # what was outside waits to be written now
        self.parked: dict[PendingCall, Any] = {}
        self.ignored = 0

    def __contains__(self, call: PendingCall) -> bool:
        return call.state is not ENDED

    def __iter__(self) -> Iterator[PendingCall]:
        """All of them; those that end meanwhile come all the same. First what waits for the room that others leave."""
        return iter([*self.outside, *self._calls.values()])

    # --- beginning ----------------------------------------------------------------------------------------------

    def start(self, deadline: float, waiter: Waiter, target: Any, awaits_reply: bool) -> PendingCall:
        """Enter a call, which is to be written or to wait in the same turn.

        Raises:
            CallError: the client's own limit of calls in flight is reached.
        """
        calls = self._calls
        if len(calls) >= self._limit:
            raise conclude(CLIENT_LIMIT, self.lacking(0))
        call = PendingCall(next(self._ids), deadline, waiter, target, awaits_reply)
        calls[call.id] = call
        call.slice = self._timers.add(deadline, call)
        return call

    def start_outside(
        self, deadline: float, waiter: Waiter, target: Any, awaits_reply: bool, body: bytes
    ) -> PendingCall:
        """Begin a call for which there is no room now: it waits for that behind the others, then to be written.

        Raises:
            CallError: there would never be room for it.
        """
        self._refuse_hopeless(len(body))
        call = PendingCall(next(self._ids), deadline, waiter, target, awaits_reply)
        call.slice = self._timers.add(deadline, call)
        self._put(call, OUTSIDE, self.outside, body)
        return call

    def _let_in(self) -> None:
        """There is more room: those outside enter, in order, and wait to be written."""
        while self.outside:
            call, body = next(iter(self.outside.items()))
            if self.lacking(len(body)):
                return
            self._calls[call.id] = call
            self.wait(call)
            self.hold(call, body)
            self.on_entered()

    def hold(self, call: PendingCall, body: bytes) -> None:
        """Keep a call's body, until it is released or the call ends."""
        call.body = body
        self.held += len(body)

    def release(self, call: PendingCall) -> bytes:
        """The body of a call, which is kept no longer."""
        body, call.body = call.body or b"", None
        self.held -= len(body)
        if self.outside:
            self._let_in()
        return body

    # --- from place to place ------------------------------------------------------------------------------------

    def _move(self, call: PendingCall, state: State) -> None:
        """Take a call out of its place: the interpreter of `_NEXT`. The caller puts it into the next one."""
        if state not in _NEXT[call.state]:
            raise RuntimeError(f"a call that is {call.state} cannot become {state}")
        self._leave(call)
        call.state = state

    @staticmethod
    def _leave(call: PendingCall) -> None:
        if call.state is WRITTEN:
            call.confirms.forget(call.tag)
        elif call.place is not None:
            del call.place[call]
            call.place = None

    def _put(self, call: PendingCall, state: State, place: dict[PendingCall, Any], why: Any) -> None:
        self._move(call, state)
        call.place = place
        place[call] = why

    def wait(self, call: PendingCall) -> None:
        """The call cannot be written now: it waits behind the others."""
        self._put(call, WAITING, self.waiting, None)

    def written(self, call: PendingCall, confirms: Confirms[PendingCall], tag: int) -> None:
        """The call was written, as publish number `tag` of the channel that `confirms` belongs to."""
        if call.state is BEGUN:  # as most are: there is no place to leave
            call.state = WRITTEN
        else:
            self._move(call, WRITTEN)
        call.confirms, call.tag = confirms, tag
        confirms.sent(tag, call)

    def confirmed(self, settled: list[PendingCall]) -> list[PendingCall]:
        """The broker has these, which their `Confirms` has let go; returns the casts, which end with that."""
        casts = []
        for call in settled:
            call.state = CONFIRMED
            if not call.awaits_reply:
                self.end(call)
                casts.append(call)
        return casts

    def ask(self, call: PendingCall, question: dict[PendingCall, Any], verdict: Any) -> None:
        """What ends the call is known, except for what the answer to `question` adds."""
        if call.state is ASKED and call.place is not None:  # the later event is the one to tell of
            call.place[call] = verdict
        else:
            self._put(call, ASKED, question, verdict)

    def park(self, call: PendingCall, why: Any) -> None:
        """The call was refused, and waits for another channel."""
        self._put(call, PARKED, self.parked, why)

    def wait_again(self, calls: Iterable[PendingCall], *, first: bool) -> None:
        """These calls will be written once more, each with another id; before all others or behind them."""
        behind = list(self.waiting) if first else []
        for call in calls:
            del self._calls[call.id]
            call.id = next(self._ids)
            self._calls[call.id] = call
            self.wait(call)
        for call in behind:
            del self.waiting[call]
            self.waiting[call] = None

    # --- ending -------------------------------------------------------------------------------------------------

    def take(self, id: bytes | None) -> PendingCall | None:
        """End the call with this correlation id; None (and counted) when there is none."""
        call = self._calls.pop(id, None)  # type: ignore[arg-type]  # None is simply not there
        if call is None:
            self.ignored += 1
        else:
            self._forget(call)
        return call

    def find(self, id: bytes | None) -> PendingCall | None:
        """The call with this correlation id, which goes on; None (and counted) when there is none."""
        call = self._calls.get(id)  # type: ignore[arg-type]  # see `take`
        if call is None:
            self.ignored += 1
        return call

    def end(self, call: PendingCall) -> bool:
        """End this call; False when it has ended already."""
        if call.state is ENDED:
            return False
        self._calls.pop(call.id, None)  # one that waits outside is not there
        self._forget(call)
        return True

    def _forget(self, call: PendingCall) -> None:
        group = call.slice
        group.pop(call, None)
        if not group:
            self._timers.drop(group)
        if call.state is not CONFIRMED:
            self._leave(call)
        call.state = ENDED
        if call.body is not None:
            self.release(call)
        if self.outside:
            self._let_in()

    # --- time ---------------------------------------------------------------------------------------------------

    def expired(self, now: float) -> list[PendingCall]:
        """The calls whose time is up, each of them once; none has ended yet."""
        return self._timers.due(now)

    def next_expiry(self) -> float | None:
        """When to call `expired` next."""
        return self._timers.next_due()


def unguessable(random: Callable[[int], bytes]) -> Iterator[bytes]:
    """Ids of 96 random bits as hexadecimal digits; `random` gives as many random bytes as it is asked for."""
    width = 2 * _ID_BYTES
    while True:
        digits = hexlify(random(_ID_BYTES * _IDS_AT_ONCE))
        for at in range(0, len(digits), width):
            yield digits[at : at + width]
