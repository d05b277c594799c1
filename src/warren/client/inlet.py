"""One stream at its caller, on the event loop: messages come, are taken in turn, and the worker hears how far."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextvars import Context
from typing import Any, NamedTuple, Protocol

from warren.amqp.frames import Properties
from warren.client.calls import PendingCall, Waiter
from warren.client.cancels import Cancels
from warren.client.outcomes import locate, stream_broken, stream_idle, withdrawn
from warren.client.requests import Target
from warren.client.sending import Sending
from warren.errors import CallError
from warren.protocol.streaming import DEFAULT_WINDOW, SAME_ITEMS, Behind, Items, read_items, size_of_new
from warren.protocol.uploading import read_taken

#: Seconds after which the credit is told again while nothing comes, as that may have been lost; then twice as many.
_TELL_AGAIN = 1.0
_MOST_PATIENT = 10.0


class Message(NamedTuple):
    """Items that have come together; `before` of them had come in another one."""

    number: int
    body: bytes
    content_type: bytes
    before: int

    @property
    def counts(self) -> tuple[int, int]:
        """How many new items it has, and the bytes that count for them."""
        return self.number - self.before, size_of_new(len(self.body), self.before)


class End(NamedTuple):
    """What a stream has ended in, after so many items; None where its caller has given it up."""

    outcome: Any
    came: int


class Taker(Protocol):
    """Who waits for what comes next."""

    def finish(self, outcome: Message | End) -> None:
        """Take it."""


class Line(Protocol):
    """The client's core, as far as a stream needs it."""

    def start(self, target: Target, body: bytes, deadline: float, waiter: Waiter) -> PendingCall: ...
    def cancel(self, call: PendingCall) -> bool: ...
    @property
    def cancels(self) -> Cancels: ...


class Inlet:
    """The waiter of a stream's call, or of an upload's, which brings no items.

    Attributes:
        call_id: the ``message_id`` of its call; None until that has begun.
    """

    def __init__(
        self,
        line: Line,
        target: Target,
        body: bytes,
        deadline: float,
        idle_timeout: float | None,
        sending: Sending | None = None,
    ) -> None:
        """Begin it; `sending` goes the other way.

        Raises:
            CallError: it cannot even begin: nothing was sent.
        """
        self._line = line
        self._idle_timeout = idle_timeout
        self._behind = Behind(DEFAULT_WINDOW)
        self._messages: deque[Message] = deque()
        self._taken: Message | None = None  # it is consumed when the next one is asked for
        self._taker: Taker | None = None
        self._source = b""
        self._run: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since = 0.0
        self._end: End | None = None
        self._sending = sending
        self._call: PendingCall | None = None
        self.call_id: str | None = None
        try:
            self._begin(target, body, deadline)
        except BaseException:
            self._stop_sending()
            raise

    def _begin(self, target: Target, body: bytes, deadline: float) -> None:
        self._call = self._line.start(target, body, deadline, self)
        self.call_id = self._call.first_id.decode()
        if self._sending is not None:
            self._sending.begin(self._call.id, self._line.cancels.uplink, self)

    # --- from the client's core ---------------------------------------------------------------------------------

    def came(self, p: Properties, body: bytes, *, again: bool) -> None:
        """A message with items, or with none, as a sign of life.

        Where it comes `again`, a link that was lost may have brought it before: a durable reply queue gives out anew
        what was not acknowledged. Some methods yield the same items in each run: another may have brought it, too.
        """
        items = read_items(p)
        if items is None:
            self._break("a message with items came that cannot be read")
            return
        if self._behind.came and items.number and p.message_id != self._run:
            self._break(
                f"item {items.seq} of a second run of the method came, after {self._behind.came} of the first, and it"
                " is not declared resumable"
            )
            return
        old = items.seq < self._behind.came
        if anew := old and p.message_id == SAME_ITEMS:
            self._go_on_with(items.source)
        before = self._behind.has(items.seq, items.number)
        if old and before == items.number and (anew or again):
            return
        if not anew:
            before = 0
        self._take(items, before, p, body)

    def _take(self, items: Items, before: int, p: Properties, body: bytes) -> None:
        message = Message(items.number, body, p.content_type or b"", before)
        trouble = self._behind.take(items.seq + before, *message.counts)
        if trouble:
            self._break(trouble)
        elif items.number:
            self._source, self._run = items.source.encode(), p.message_id
            self._messages.append(message)
            self._hand_out()

    def _go_on_with(self, source: str) -> None:
        """Another run begins anew: it hears how far the caller is, and that it need not send what has come."""
        self._source = source.encode()
        self._tell()

    def taken(self, p: Properties) -> None:
        """The handler has taken what was sent."""
        taken = read_taken(p)
        if taken is None:
            self._break("a message about what was sent came that cannot be read")
        elif self._sending is not None:  # else somebody's mistake
            self._sending.heard(taken)

    def finish(self, outcome: Any) -> None:
        self._call = None
        self._stop_sending()
        if self._end is None:
            self._end = End(outcome, self._behind.came)
            self._hand_out()

    def _break(self, why: str) -> None:
        self.fail(stream_broken(why))

    def fail(self, error: BaseException) -> None:
        """End it here, in this; the worker is told that nobody waits any more."""
        call = self._call
        if call is not None:
            self._line.cancel(call)
            self.finish(locate(error, call) if isinstance(error, CallError) else error)

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.close()

    # --- from whoever takes -------------------------------------------------------------------------------------

    def take(self, taker: Taker) -> None:
        """Let `taker` have the next message, one taker at a time; what was taken before is consumed now."""
        self._consume()
        self._taker = taker
        self._hand_out()
        if self._taker is not None:
            self._waits_since = time.monotonic()
            self._wait(_TELL_AGAIN)

    def give_up(self) -> None:
        """Nobody takes any more."""
        self._messages.clear()
        self._end = End(None, self._behind.came)
        self._drop()
        self._hand_out()

    def _drop(self) -> None:
        """The call, if it is under way, goes on for nobody."""
        call, self._call = self._call, None
        self._stop_sending()
        if call is not None:
            self._line.cancel(call)

    def withdraw(self) -> None:
        """The call that it is made for is given up, so nobody waits for this one either."""
        self.fail(withdrawn())

    def _hand_out(self) -> None:
        taker = self._taker
        if taker is None or not (self._messages or self._end):
            return
        self._taker = None
        self._forget_timer()
        if self._messages:
            self._taken = message = self._messages.popleft()
            taker.finish(message)
        elif self._end is not None:
            taker.finish(self._end)

    # --- credit, and the time between items ---------------------------------------------------------------------

    def _consume(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None and self._behind.consume(*taken.counts):
            self._tell()

    def _tell(self) -> None:
        if self._call is not None and self._source:
            self._line.cancels.credit(self._source, self._call, self._behind.tell())

    def _wait(self, pause: float) -> None:
        left = pause if self._idle_timeout is None else self._waits_since + self._idle_timeout - time.monotonic()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, min(pause, left)), self._look, pause, context=Context())

    def _look(self, pause: float) -> None:
        if self._idle_timeout is not None and time.monotonic() >= self._waits_since + self._idle_timeout:
            self.fail(stream_idle(self._idle_timeout))
        else:
            self._tell()
            self._wait(min(2 * pause, _MOST_PATIENT))

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
