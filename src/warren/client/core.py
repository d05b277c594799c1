"""The calls of one connection: from a prepared request to its outcome.

`AsyncClient` and `Client` are two faces of this. Everything here runs on one event loop and never waits: `start`
enters a call and writes it if it can; the call's waiter gets the outcome, whoever brings it. A call that cannot be
written now (no link, a blocked or congested one) waits in line until it can or its time is up.

Where each call is, `Calls` knows; two `Lane`s lead out, one `ReplyRoute` leads back, and `Endings` ends calls.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextvars import Context
from typing import Final, Protocol

from warren.client import outcomes
from warren.client.calls import Calls, PendingCall, Waiter, unguessable
from warren.client.cancels import Cancels
from warren.client.endings import Endings
from warren.client.lane import Lane
from warren.client.options import Limits
from warren.client.replies import ReplyRoute
from warren.client.requests import Requests, Target
from warren.client.roll_call import RollCall
from warren.client.statistics import ClientStatistics, statistics_of
from warren.connection.alarms import Alarms
from warren.connection.declare import declare_exchanges
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.connection.supervisor import State, Supervisor, copy_of
from warren.connection.tasks import Tasks
from warren.errors import CallError
from warren.protocol import evidence
from warren.protocol.evidence import conclude

#: Seconds that a silent broker gets to answer a client's good-bye: nothing is lost with it, as all calls have ended.
_CLOSE_PATIENCE: Final = 0.8
#: Seconds that tasks get to end: more than calls through middleware that does not end need (`client/chain.py`).
_TASK_PATIENCE: Final = 2.0


class Late(Protocol):
    """What has to end at its time."""

    def cut_off(self) -> None:
        """Its time is over."""


class ClientCore:
    """Calls over one supervised connection.

    Attributes:
        tasks: what ends with it.
        late: what is cut off when its time is over, of calls through middleware; it may outlive the connection.
    """

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self._limits = limits
        connecting = f"still connecting to {', '.join(f'{host}:{port}' for host, port in settings.hosts)}"
        self._closed = False
        self._link: Link | None = None
        self.tasks = Tasks(self.loop)
        self.late: Alarms[Late] = Alarms(lambda late: late.cut_off())
        durable = limits.reply == "durable"
        user_id = settings.username if limits.send_user else None
        self._requests = Requests(app_id=settings.name, user_id=user_id, durable=durable)
        self._endings = endings = Endings(
            lambda wake_at: Calls(unguessable(os.urandom), limits.max_in_flight, limits.max_waiting_bytes, wake_at),
            self.tasks.spawn,
            link=lambda: self._link,
            why_unwritten=lambda: _why_unwritten(self._link, self._supervisor.failure, connecting),
            max_size=limits.max_message_size,
            durable=durable,
        )
        endings.on_retry = self._on_retry
        self._calls = calls = endings.calls
        calls.on_entered = self._write_soon
        self._replies = ReplyRoute(
            calls, endings, durable=durable, max_size=limits.max_message_size, on_gone=self._renew
        )
        self._confirming, self._plain = (  # with and without confirms
            Lane(calls, endings, self.tasks.spawn, confirm=confirm, on_ready=self._on_ready, on_broken=self._renew)
            for confirm in (True, False)
        )
        self.cancels = Cancels(lambda: self._link, lambda: self._requests.reply_to, self.tasks.spawn, endings.on_mute)
        self._replies.on_stray = self.cancels.stray
        self.roll = RollCall(lambda: self._link)
        self._supervisor = Supervisor(settings, setup=self._set_up, lost=self._on_lost, failed=endings.no_link)

    # --- for the clients ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start connecting."""
        Context().run(self._supervisor.start)  # the connection outlives the call that opens it, and its context

    async def connected(self) -> None:
        """Wait for the connection; raises `CallError` when a round of attempts at all hosts fails."""
        await self._supervisor.open()

    @property
    def statistics(self) -> ClientStatistics:
        """How it stands."""
        return statistics_of(self._calls, self._link, self._supervisor.links)

    def start(self, target: Target, body: bytes, deadline: float, waiter: Waiter) -> PendingCall:
        """Begin a call that ends at `deadline` (`time.monotonic` seconds) at the latest.

        Raises:
            CallError: it cannot even begin: nothing was sent, and `waiter` will not hear of it.
        """
        calls = self._calls
        waits = bool(calls.waiting) or not self._writable()
        keep = waits or target.resend
        if target.wait and (calls.outside or calls.lacking(len(body) if keep else 0)):
            return self._start_outside(target, body, deadline, waiter)
        self._check(target, body, deadline, keep)
        call = calls.start(deadline, waiter, target, target.kind != "cast")
        if keep:
            calls.hold(call, body)
        if waits:
            calls.wait(call)
            return call
        try:
            self._write(call, body)
        except BaseException as error:
            calls.end(call)
            if isinstance(error, Exception):
                raise outcomes.locate(outcomes.unwritable(error), call) from error
            raise
        return call

    def _start_outside(self, target: Target, body: bytes, deadline: float, waiter: Waiter) -> PendingCall:
        """Begin a call that waits until there is room for it."""
        self._check(target, body, deadline, keep=False)
        return self._calls.start_outside(deadline, waiter, target, target.kind != "cast", body)

    def cancel(self, call: PendingCall) -> bool:
        """The caller waits no longer; False when the call has ended already. A late reply will be ignored."""
        self.cancels.add(call)
        return self._calls.end(call)

    async def close(self) -> None:
        """End every call with `Cancelled`, then the connection."""
        self._closed = True
        self.cancels.add_all(self._calls)
        self._endings.close()
        await self.cancels.sent(_CLOSE_PATIENCE)
        await self._replies.delete(self._link)
        await self._supervisor.close(_CLOSE_PATIENCE)
        self._leave()
        self.tasks.cancel()
        await self.tasks.ended(_TASK_PATIENCE)
        self.late.rest()

    # --- writing ------------------------------------------------------------------------------------------------

    def _check(self, target: Target, body: bytes, deadline: float, keep: bool) -> None:
        """Refuse what cannot succeed, before anything is entered; `keep` tells that the body has to be kept."""
        ending, why, limits = None, "", self._limits
        if self._closed:
            ending, why = evidence.CLOSED_UNSENT, "the client is closed: make a new one"
        elif len(body) > limits.max_message_size:
            ending = evidence.REQUEST_TOO_LARGE
            why = f"the request has {len(body)} bytes: raise max_message_size ({limits.max_message_size}) or send less"
        elif keep and (why := self._calls.lacking(len(body))):
            ending = evidence.CLIENT_LIMIT
        elif deadline <= time.monotonic():
            ending, why = evidence.NO_TIME, "no time is left to make this call: allow more"
        if ending is not None:
            raise conclude(ending, why, method=target.name, queue=target.queue)
        if self._link is None:
            self._check_hope(target)

    def _check_hope(self, target: Target) -> None:
        """Without a link: refuse what would wait in vain, or does not want to wait."""
        failure, state = self._supervisor.failure, self._supervisor.state
        if failure is not None and (state is State.CLOSED or (target.fail_fast and state is State.WAITING)):
            raise copy_of(failure).locate(method=target.name, queue=target.queue, call_id=None)

    def _writable(self) -> bool:
        channels = self._confirming.current is not None and self._plain.current is not None
        return channels and self._link is not None and self._link.writable

    def _write(self, call: PendingCall, body: bytes) -> None:
        """Publish a call with the time that it has left."""
        target: Target = call.target
        now = time.monotonic()
        lean = target.trusting and self._endings.lean.knows(target, now)
        properties = self._requests.properties(call, len(body), call.deadline - now, time.time(), lean)
        lane = self._plain if lean or target.kind == "bare" else self._confirming
        lane.publish(call, target.exchange, target.routing_key, properties, body)

    def _write_waiting(self) -> None:
        """Write the calls that wait, in order, as far as the link takes them."""
        waiting = self._calls.waiting
        while waiting and self._writable():
            call = next(iter(waiting))
            try:
                self._write(call, call.body or b"")
            except Exception as error:
                self._endings.end(call, outcomes.unwritable(error))
            else:
                if not call.target.resend:
                    self._calls.release(call)

    def _write_soon(self) -> None:
        """In a turn and a context of its own: the present ones may be those of a call that ends."""
        self.loop.call_soon(self._write_waiting, context=Context())

    # --- the link -----------------------------------------------------------------------------------------------

    async def _set_up(self, link: Link) -> None:
        """Everything a link needs before calls may use it."""
        await declare_exchanges(link)
        failure = await _open(link, self._replies, self._confirming, self._plain)
        if self._closed:  # meanwhile: `close` could not know of this link
            await self._replies.delete(link)
        if failure is not None:
            raise failure
        self._requests.reply_to = self._replies.address
        self._link = link
        link.on_writable(self._write_waiting)
        self._write_soon()

    def _on_lost(self, reason: CallError) -> None:
        self._leave()
        self._endings.link_lost(reason)

    def _leave(self) -> None:
        self._link = None
        self._confirming.leave()
        self._plain.leave()

    def _on_ready(self) -> None:
        self._endings.retry_refused()
        self._write_waiting()

    def _on_retry(self) -> None:
        if not self._confirming.changing:
            self._on_ready()

    def _renew(self, link: Link) -> None:
        """Give a link up and let the supervisor open another, with fresh channels and a fresh reply queue."""
        if link is self._link:
            self._link = None
        if not self._closed:  # a queue that goes then, goes because we delete it
            self.tasks.spawn(link.close())


def _why_unwritten(link: Link | None, failure: CallError | None, connecting: str) -> str:
    """Why calls wait to be written."""
    if link is None:
        return f"no connection to the broker in time: {failure.message if failure else connecting}"
    if link.blocked is not None:
        return f"the broker takes no publishes: {link.blocked}; free its memory or disk"
    if not link.writable:
        return "the broker does not read fast enough: slow down"
    return "the broker has closed the publishing channel, and another is not open yet: look at its log"


async def _open(link: Link, replies: ReplyRoute, *lanes: Lane) -> BaseException | None:
    """Returns what went wrong, for `_set_up` to raise: with ``finally`` it would have to await in there, and then
    compiled code raises what others are handling [mypyc 2.4, transform_try_finally_stmt_async].
    """
    try:
        await replies.open(link)
        for lane in lanes:
            await lane.open(link)
    except BaseException as error:
        return error
    return None
