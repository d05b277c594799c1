"""Streams and uploads through a client's middleware, which runs around all of them: items pass it by, ends do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from warren.client.chain import Chained, ItemsKind
from warren.client.core import ClientCore
from warren.client.inlet import End, Inlet
from warren.client.prepared import Concluded, Prepared
from warren.client.requests import Target
from warren.client.sending import Sending
from warren.client.target import encode_call, with_own
from warren.connection.supervisor import closed_error
from warren.errors import CallError
from warren.protocol import evidence
from warren.protocol.uploading import unmarked


def begin_items(
    core: ClientCore, prepared: Prepared, deadline: float, idle_timeout: float | None, sending: Sending | None
) -> Inlet:
    """Begin a call with items; `sending` goes the other way.

    Raises:
        CallError: it cannot even begin: nothing was sent.
    """
    if prepared.middleware:
        return _ChainedInlet(core, prepared, deadline, idle_timeout, sending)
    inlet = Inlet(core, prepared.target, prepared.body, deadline, idle_timeout, sending)
    prepared.call_id = inlet.call_id
    return inlet


class _Outcome(asyncio.Future[Any]):
    """What the call has ended in; middleware that cancels it gives the call up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, drop: Callable[[], None]) -> None:
        super().__init__(loop=loop)
        self._drop = drop

    def cancel(self, msg: Any = None) -> bool:
        if not self.done():
            self._drop()
        return super().cancel(msg)


class _Again(RuntimeError):
    """Middleware proceeds once more; what the first time ended in is the cause, and what the caller is told."""


class _ChainedItems(Chained):
    """The chain, whose innermost part begins the call, once, and has its end.

    Attributes:
        is_begun, is_whole: whether the call was begun, and has ended well.
        came: how many items, when it has ended.
    """

    __slots__ = ("_begin", "_failure", "_prepared", "came", "is_begun", "is_whole")

    def __init__(
        self, prepared: Prepared, deadline: float, begin: Callable[[Target, bytes], asyncio.Future[Any]]
    ) -> None:
        target = prepared.target
        super().__init__(prepared.middleware, target, prepared.args, prepared.kwargs, deadline, {})
        self.call.kind = cast("ItemsKind", prepared.kind.noun)
        self.call.method = unmarked(target.method)
        self._begin = begin
        self._prepared = prepared
        self._failure: Exception | None = None
        self.is_begun = self.is_whole = False
        self.came = 0

    def _send(self, core: ClientCore) -> asyncio.Future[Any]:
        if self.is_begun:
            raise _Again(
                f"items are had, or sent, once: middleware cannot proceed with a {self.call.kind} again; begin another"
                " one where this one is made"
            ) from self._failure
        prepared, call = self._prepared, self.call
        target = with_own(prepared.target, call.headers, None)
        outcome = self._begin(target, encode_call(target, call.args, call.kwargs, prepared.kind.verb))
        self.is_begun = True
        return outcome

    def _read(self, outcome: Any) -> Any:
        try:
            result = self._prepared.conclude(End(outcome, self.came))
        except Exception as error:
            self._failure = error
            if self.came and isinstance(error, CallError):
                evidence.begun(error)
            raise
        self.is_whole = True
        return result

    def short(self) -> Exception:
        """What its caller is told where some items have come, and the middleware passes over that not all have."""
        if self._failure is not None:
            return self._failure
        why = f"the client's middleware has ended before the {self.call.kind}: let it await proceed() to its end"
        return self._ended_by(evidence.GIVEN_UP_OUTSIDE, why)


class _ChainedInlet(Inlet):
    """An inlet whose call the middleware begins, and whose end is what the middleware makes of it."""

    def __init__(
        self,
        core: ClientCore,
        prepared: Prepared,
        deadline: float,
        idle_timeout: float | None,
        sending: Sending | None,
    ) -> None:
        self._core, self._context, self._prepared = core, prepared.context, prepared
        self._chained = _ChainedItems(prepared, deadline, self._proceed)
        self._outcome = _Outcome(core.loop, self._drop)
        super().__init__(core, prepared.target, prepared.body, deadline, idle_timeout, sending)

    def _begin(self, target: Target, body: bytes, deadline: float) -> None:
        """Let the middleware begin; a loop with eager tasks does so in here."""
        self._work = self._core.tasks.spawn(self._chained.run_alone(self._core), self._context)
        self._work.add_done_callback(self._conclude)

    def _proceed(self, target: Target, body: bytes) -> asyncio.Future[Any]:
        super()._begin(target, body, self._chained.deadline)
        self._prepared.call_id = self._chained.call.call_id = self.call_id
        return self._outcome

    def finish(self, outcome: Any) -> None:
        self._call = None
        self._stop_sending()
        self._chained.came = self._behind.came
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        if self._call is not None or self._end is not None:
            super().fail(error)
        else:  # it will not be begun any more, or has ended, and the middleware goes on
            if isinstance(error, CallError) and not self._chained.is_begun:
                evidence.unsent(error)
            self._end = End(error, self._behind.came)
            self._stop_middleware()
            self._hand_out()

    def give_up(self) -> None:
        super().give_up()
        self._stop_middleware()

    def _stop_middleware(self) -> None:
        self._chained.is_over = True
        self._work.cancel()

    def _conclude(self, work: asyncio.Task[Any]) -> None:
        """The middleware has ended, and with it all, also a `proceed()` that it has left alone."""
        self._outcome.cancel()
        outcome = _ended_in(work)
        if isinstance(outcome, Concluded) and self._behind.came and not self._chained.is_whole:
            outcome = self._chained.short()
        if self._end is None:
            self._end = End(outcome, self._behind.came)
            self._hand_out()


def _ended_in(work: asyncio.Task[Any]) -> BaseException | Concluded:
    if work.cancelled():
        return closed_error()
    error = work.exception()
    return Concluded(work.result()) if error is None else _told(error)  # an exception may be false


def _told(error: BaseException) -> BaseException:
    """What the caller is told: what has happened, rather than that middleware could not have it once more."""
    if not isinstance(error, _Again) or error.__cause__ is None:
        return error
    error.__cause__.add_note(str(error))
    return error.__cause__
