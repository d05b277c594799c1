"""The calls of one connection: from a prepared request to its outcome.

`AsyncClient` and `Client` are two faces of this. Everything here runs on one event loop and never waits: `start`
enters a call and writes it if it can; the call's waiter gets the outcome, whoever brings it. A call that cannot be
written now (no link, a blocked or congested one) waits in line until it can or its time is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from warren.amqp.frames import Delivery, FrameError, Properties, decode_properties
from warren.client.calls import PendingCall, PendingCalls, Waiter
from warren.connection.channel import HotChannel, Returned
from warren.connection.declare import declare_exchanges
from warren.connection.errors import ACCESS_REFUSED, NOT_FOUND, ChannelClosed, ConnectFailed, LinkLost
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.connection.supervisor import Backoff, State, Supervisor, closed_error, copy_of
from warren.errors import (
    CallError,
    Cancelled,
    Code,
    DeadlineExceeded,
    Execution,
    Origin,
    Overloaded,
    PermissionDenied,
    Unavailable,
    make_error,
)
from warren.logs import get_logger
from warren.protocol import wire
from warren.protocol.signature import Method

log = get_logger("warren.client")

#: Seconds that an error may take longer to find out why a call timed out.
_EXPLAIN_TIME = 0.25
#: Seconds that a silent broker gets to answer a client's good-bye: nothing is lost with it, as all calls have ended.
_CLOSE_PATIENCE = 0.8
#: Replies from a durable queue that may be under way to us unacknowledged; acks are coalesced, so few would do.
_REPLY_PREFETCH = 1000
_EXCHANGE = wire.EXCHANGE.encode()

Reply = tuple[Properties, bytes]
ReplyQueue = Literal["exclusive", "durable"]


@dataclass(slots=True, eq=False)
class Target:
    """Where calls of one method go and how they are written: all that they have in common, worked out once.

    Attributes:
        kind: what a request to it is.
        name: what it is called in errors.
        declared: the method, where its code is shared.
        fail_fast, headers, resend: see `AsyncClient.options`.
        templates: of the requests with and without a bounce, made for the link `epoch`.
    """

    kind: Literal["call", "cast", "bare"]
    method: str
    queue: str
    name: str
    content_type: str
    fail_fast: bool = False
    resend: bool = False
    headers: Mapping[str, Any] | None = None
    declared: Method | None = None
    epoch: object = None
    templates: dict[bool, wire.RequestTemplate] = field(default_factory=dict)
    routing_key: bytes = b""

    def __post_init__(self) -> None:
        wire.check_name(self.queue)
        wire.check_name(self.method)
        self.routing_key = self.queue.encode()

    @property
    def never_redelivered(self) -> bool:
        """Whether a request that expired in its queue cannot have been held by a worker before."""
        return self.declared is not None and self.declared.delivery == "at-most-once"


class Limits(NamedTuple):
    """What a client allows and adds; see `AsyncClient`."""

    max_in_flight: int
    max_message_size: int
    max_waiting_bytes: int
    send_user: bool
    reply: ReplyQueue

    def checked(self) -> Limits:
        """Itself; `ValueError` when it lets nothing through."""
        for name in ("max_in_flight", "max_message_size", "max_waiting_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.reply not in get_args(ReplyQueue):
            raise ValueError(f"reply={self.reply!r} is not one of {', '.join(get_args(ReplyQueue))}")
        return self


class Caller:
    """Calls over one supervised connection."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # of its maker, not of the call that happens to set a timer
        self._app_id = settings.name
        self._user_id = settings.username if limits.send_user else None
        self._limits = limits
        self._durable = limits.reply == "durable"
        token = secrets.token_hex(6)
        self._pending = PendingCalls(token.encode() + b".", limits.max_in_flight, self._wake_at)
        self._reply_name = wire.reply_queue(token)
        self._epoch = 0
        self._line: deque[PendingCall] = deque()
        self._refused: dict[PendingCall, None] = {}  # by the broker; to be sent again on another channel
        self._changing: asyncio.Task[None] | None = None
        self._doubt = Backoff(random.Random())
        self._timer: asyncio.TimerHandle | None = None
        self._explaining: dict[str, asyncio.Task[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor = Supervisor(settings, setup=self._set_up, lost=self._on_lost, failed=self._on_failed)
        self._closed = False
        self._link: Link | None = None
        self._calls: HotChannel | None = None
        self._bare: HotChannel | None = None
        self._reply_to = b""

    # --- for the clients ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start connecting."""
        self._supervisor.start()

    async def connected(self) -> None:
        """Wait for the connection; raises `CallError` when a round of attempts at all hosts fails."""
        await self._supervisor.open()

    @property
    def ignored_replies(self) -> int:
        """Replies that nobody waited for: late ones, duplicates, and messages of strangers."""
        return self._pending.ignored

    def __len__(self) -> int:
        return len(self._pending)

    def start(self, target: Target, body: bytes, deadline: float, waiter: Waiter) -> PendingCall:
        """Begin a call that ends at `deadline` (`time.monotonic` seconds) at the latest.

        Raises:
            CallError: it cannot even begin: nothing was sent, and `waiter` will not hear of it.
        """
        waits = bool(self._line) or not self._writable()
        self._check(target, body, deadline, keep=waits or target.resend)
        call = self._pending.start(deadline, waiter, target, awaits_reply=target.kind != "cast")
        if waits or target.resend:
            self._pending.hold(call, body)
        if waits:
            self._line.append(call)
        else:
            self._write(call, body)
        return call

    def cancel(self, call: PendingCall) -> bool:
        """The caller waits no longer; False when the call has ended already. A late reply will be ignored."""
        return self._pending.remove(call)

    async def close(self) -> None:
        """End every call with `Cancelled`, then the connection."""
        self._closed = True
        for call in self._pending.close():
            execution = Execution.UNKNOWN if call.written else Execution.NOT_SENT
            self._end(call, Cancelled("the client was closed", reason="CLOSED", execution=execution))
        self._line.clear()
        await self._delete_replies()
        await self._supervisor.close(_CLOSE_PATIENCE)
        if self._timer is not None:
            self._timer.cancel()
        for task in (*self._tasks, *self._explaining.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._explaining.values(), return_exceptions=True)

    # --- writing ------------------------------------------------------------------------------------------------

    def _check(self, target: Target, body: bytes, deadline: float, *, keep: bool) -> None:
        """Refuse what cannot succeed, before anything is entered; `keep` tells that the body has to be kept."""
        if self._closed:
            raise _located(closed_error(), target)
        if len(body) > self._limits.max_message_size:
            message = f"the request has {len(body)} bytes, the limit is {self._limits.max_message_size}"
            raise _located(Overloaded(message, reason="TOO_LARGE", execution=Execution.NOT_SENT), target)
        if keep and self._pending.held + len(body) > self._limits.max_waiting_bytes:
            message = (
                f"requests of {self._pending.held} bytes wait to be sent already, the limit is"
                f" {self._limits.max_waiting_bytes}: slow down, or raise max_waiting_bytes"
            )
            raise _located(Overloaded(message, reason="CLIENT_LIMIT", execution=Execution.NOT_SENT), target)
        if deadline <= time.monotonic():
            raise _located(DeadlineExceeded("no time is left to make this call", execution=Execution.NOT_SENT), target)
        if self._link is not None:
            return
        failure, state = self._supervisor.failure, self._supervisor.state
        if failure is not None and (state is State.CLOSED or (target.fail_fast and state is State.WAITING)):
            raise _located(copy_of(failure), target)

    def _writable(self) -> bool:
        link = self._link
        return link is not None and link.writable and self._calls is not None and self._bare is not None

    def _write(self, call: PendingCall, body: bytes) -> None:
        """Publish a call with the time that it has left."""
        target: Target = call.context
        left = max(0, int((call.deadline - time.monotonic()) * 1000))
        expiration = b"0" if target.fail_fast else b"%d" % left
        assert self._calls is not None
        assert self._bare is not None
        if target.kind == "bare":
            self._bare.publish(b"", target.routing_key, wire.bare_properties(call.id, self._reply_to, expiration), body)
            self._pending.sent(call, 0)
            return
        # A fail-fast call asks for its bounce whatever its size: without it, it would end at its timeout only.
        template = self._template(target, len(body) <= wire.BOUNCE_LIMIT or target.fail_fast)
        if target.kind == "cast":
            properties = template.encode_cast(call.id, call.first_id)
        else:
            deadline_ms = int(time.time() * 1000) + left
            properties = template.encode(call.id, call.first_id, left, deadline_ms, expiration)
        self._pending.sent(call, self._calls.publish(_EXCHANGE, target.routing_key, properties, body))

    def _template(self, target: Target, bounce: bool) -> wire.RequestTemplate:
        if target.epoch is not self._link:  # another link has another reply queue
            target.epoch = self._link
            target.templates.clear()
        template = target.templates.get(bounce)
        if template is None:
            is_call = target.kind == "call"
            template = target.templates[bounce] = wire.RequestTemplate(
                target.method,
                content_type=target.content_type,
                reply_to=self._reply_to if is_call else None,
                bounce=is_call and bounce,
                durable=not is_call or self._durable,
                app_id=self._app_id,
                user_id=self._user_id,
                headers=target.headers,
            )
        return template

    def _write_line(self) -> None:
        """Write the calls that waited for a link, in order, as far as the link takes them."""
        while self._line and self._writable():
            call = self._line.popleft()
            if call in self._pending:
                target: Target = call.context
                self._write(call, (call.body or b"") if target.resend else self._pending.release(call))

    # --- what ends calls (Receiver) -----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        try:
            p = decode_properties(delivery.properties)
        except FrameError:
            p = Properties()  # nobody's: it will be counted as such
        if self._durable:
            channel.ack(delivery.tag)
        call = self._pending.take(p.correlation_id)
        if call is None:
            return
        if p.table is None and delivery.body is not None:
            call.waiter.finish((p, delivery.body))
        else:
            self._on_special(call, p, delivery)

    def _on_special(self, call: PendingCall, p: Properties, delivery: Delivery) -> None:
        """An error, a bounce, a reply with headers, or one that was too large to keep."""
        try:
            bounce = wire.read_bounce(p)
        except CallError as error:
            self._end(call, error)
            return
        if bounce is not None:
            self._on_bounce(call, bounce)
        elif delivery.body is None:
            message = f"the reply has {delivery.body_size} bytes, the limit is {self._limits.max_message_size}"
            self._end(call, Overloaded(message, reason="TOO_LARGE", execution=Execution.EXECUTED))
        else:
            call.waiter.finish((wire.doubted(p) if call.again else p, delivery.body))

    def _on_bounce(self, call: PendingCall, error: CallError) -> None:
        target: Target = call.context
        if error.reason != "QUEUE_TTL":
            self._end(call, error)
            return
        if target.never_redelivered:
            error.execution = Execution.NOT_EXECUTED
        if target.fail_fast:
            message = "no worker was free to take the call at once (fail_fast)"
            error = make_error(
                Code.UNAVAILABLE, "NO_FREE_WORKER", message, execution=error.execution, origin=Origin.BROKER
            )
        self._explain_and_end([call], target.queue, error)

    def confirmed(self, tag: int, multiple: bool) -> None:
        for call in self._pending.confirmed(tag, multiple):
            call.waiter.finish(None)

    def refused(self, tag: int, multiple: bool) -> None:
        for call in self._pending.refused(tag, multiple, self._try_again):
            self._end(call, _refused_by_queue())
        if self._changing is None and self._link is not None:
            self._changing = self._spawn(self._change_channel(self._link))
            self._changing.add_done_callback(self._changed)

    def _try_again(self, call: PendingCall) -> bool:
        """Keep a refused call that is to be sent again: the queue does not have it, so that runs nothing twice."""
        if call.context.resend:
            self._pending.again(call, refused=True)
            self._refused[call] = None
        return bool(call.context.resend)

    async def _change_channel(self, link: Link) -> None:
        """Publish on another channel after a refusal, and send again what shall be.

        A channel whose first publish to a quorum queue meets no leader refuses all that follow, for ever
        (RabbitMQ 3.10.8). It looks the same as a full queue; hence the growing pauses.
        """
        await asyncio.sleep(self._doubt.next(time.monotonic()))
        old = self._calls
        if old is None or link is not self._link:
            return
        self._calls = None  # calls wait in line, and the numbers that confirms refer to begin anew
        for _ in range(100):
            if self._pending.settled:
                break
            await asyncio.sleep(0.01)
        else:
            self._calls = self._calls or (old if link is self._link else None)
            self._write_line()
            return
        if old.closed is None:  # else it is being replaced already
            await self._reopen(link)
            await old.close()

    def _changed(self, _task: object) -> None:
        self._changing = None
        self._line.extend(self._refused)
        self._refused.clear()
        self._write_line()

    def returned(self, message: Returned) -> None:
        call = self._pending.take(message.correlation_id)
        if call is None:
            return
        target: Target = call.context
        why = f"no queue {target.queue!r}: no worker of this service has ever run here ({message.why})"
        self._end(
            call,
            Unavailable(why, reason="NO_ROUTE", execution=Execution.NOT_EXECUTED, origin=Origin.BROKER),
        )

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """Somebody deleted the reply queue: no reply can come, so begin again with a new one."""
        if self._closed:  # it was us
            return
        log.warning("the reply queue was deleted; reconnecting")
        self._renew()

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, when - time.monotonic())
        self._timer = self.loop.call_later(delay, self._expire, context=self._context)

    def _expire(self) -> None:
        self._timer = None
        timed_out: dict[str, list[PendingCall]] = {}
        for call in self._pending.expire(time.monotonic()):
            if call in self._refused:
                del self._refused[call]
                self._end(call, _refused_by_queue())
            elif call.written:
                timed_out.setdefault(call.context.queue, []).append(call)
            else:
                self._end(call, self._never_sent(call))
        for queue, calls in timed_out.items():
            self._explain_and_end(calls, queue, None)
        due = self._pending.next_expiry()
        if due is not None and self._timer is None:
            self._wake_at(due)

    def _never_sent(self, call: PendingCall) -> CallError:
        link = self._link
        if link is None:
            why = self._supervisor.failure
            message = f"no connection to the broker in time: {why.message if why else 'still connecting'}"
        elif link.blocked is not None:
            message = f"the broker takes no publishes: {link.blocked}"
        else:
            message = "the broker does not read fast enough"
        if call.again:
            message = f"the connection was lost after the request was sent, and it could not be sent again: {message}"
            return Unavailable(message, reason="CONNECTION_LOST", execution=Execution.UNKNOWN)
        return Unavailable(message, reason="NOT_CONNECTED", execution=Execution.NOT_SENT)

    def _on_lost(self, reason: CallError) -> None:
        self._link = self._calls = self._bare = None
        again: list[PendingCall] = []

        def carries_on(call: PendingCall) -> bool:
            if self._durable and call.awaits_reply and self._pending.is_confirmed(call):
                return True  # its reply will be in the queue when we are back
            if call.context.resend:
                again.append(call)
            return bool(call.context.resend)

        lost = self._pending.connection_lost(carries_on)
        for call in again:
            self._pending.again(call)
        self._line.extendleft(reversed(again))
        self._end_lost(lost, reason)

    def _end_lost(self, calls: list[PendingCall], reason: CallError) -> None:
        for call in calls:
            message = f"{reason.message}; whether the handler ran is not known"
            self._end(call, Unavailable(message, reason="CONNECTION_LOST", execution=Execution.UNKNOWN))

    def _on_failed(self, reason: CallError, for_good: bool) -> None:
        """A round of connection attempts failed: fail-fast calls end, and all of them when there will be no other."""
        waiting, self._line = self._line, deque()
        for call in waiting:
            if not (for_good or call.context.fail_fast):
                self._line.append(call)
            elif self._pending.remove(call):
                self._end(call, copy_of(reason))

    def _on_channel_closed(self, channel: HotChannel, reason: Exception) -> None:
        """The broker closed a publishing channel: end what may have been lost with it, and open another."""
        if not isinstance(reason, ChannelClosed):
            return  # the link is going: `_on_lost` follows
        log.warning("the broker closed a publishing channel: %s", reason)
        if channel is self._bare:
            self._bare, lost = None, self._pending.written_lost(lambda call: call.context.kind == "bare")
        else:
            self._calls, lost = None, self._pending.unconfirmed_lost()
        for call in lost:
            self._end(call, _refused_publish(reason))
        if self._link is not None:
            self._spawn(self._reopen(self._link))

    async def _reopen(self, link: Link) -> None:
        try:
            await declare_exchanges(link)
            self._calls = self._calls or await self._publisher(link, confirm=True)
            self._bare = self._bare or await self._publisher(link, confirm=False)
            self._write_line()
        except (ChannelClosed, ConnectFailed, LinkLost) as error:
            log.warning("a publishing channel cannot be opened again: %s; reconnecting", error)
            self._renew()

    def _renew(self) -> None:
        """Give this link up and let the supervisor open another, with fresh channels and a fresh reply queue."""
        link, self._link = self._link, None
        if link is not None:
            self._spawn(link.close())

    def _end(self, call: PendingCall, error: CallError) -> None:
        if call.again and error.safe_to_retry:  # true of this attempt, but an earlier one may have run
            error.execution = Execution.UNKNOWN
        call.waiter.finish(_located(error, call.context, call.first_id.decode()))

    # --- saying why ---------------------------------------------------------------------------------------------

    def _explain_and_end(self, calls: list[PendingCall], queue: str, error: CallError | None) -> None:
        """End calls with an error that says what the broker knows about their queue; None is the own timer."""

        async def explain_and_end() -> None:
            try:
                state = await self._explain(queue)
            except asyncio.CancelledError:  # the client is being closed; the calls must end all the same
                state = ""
            for call in calls:
                one = copy_of(error) if error else self._timed_out(call)
                one.message += state
                self._end(call, one)

        self._spawn(explain_and_end())

    def _timed_out(self, call: PendingCall) -> CallError:
        if call.context.kind == "cast":
            return DeadlineExceeded("the broker has not confirmed the cast in time, so it may or may not have it")
        if call.tag and not self._pending.is_confirmed(call):
            return DeadlineExceeded("no reply in time, and the broker has not confirmed that it has the request")
        return DeadlineExceeded("no reply in time")

    async def _explain(self, queue: str) -> str:
        """Depth and consumers of a queue in words; one question at a time for each queue."""
        task = self._explaining.get(queue)
        if task is None:
            task = self._explaining[queue] = asyncio.create_task(self._ask_about(queue))
            task.add_done_callback(lambda _task: self._explaining.pop(queue, None))
        try:
            return await asyncio.wait_for(asyncio.shield(task), _EXPLAIN_TIME)
        except TimeoutError:
            return "; the broker does not say how its queue stands"

    async def _ask_about(self, queue: str) -> str:
        link = self._link
        if link is None:
            return "; the connection is down"
        if link.blocked is not None:
            return f"; the broker takes no publishes: {link.blocked}"
        try:
            channel = await link.channel()
            messages, consumers = await channel.inspect_queue(queue)
            await channel.close()
        except ChannelClosed as error:
            return f"; queue {queue!r} does not exist" if error.code == NOT_FOUND else ""
        except LinkLost:
            return ""
        state = f"; queue {queue!r} has {_count(messages, 'message')} waiting and {_count(consumers, 'consumer')}"
        return state if consumers else f"{state}: is a worker running?"

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- a new link ---------------------------------------------------------------------------------------------

    async def _set_up(self, link: Link) -> None:
        """Everything a link needs before calls may use it; the reply queue is proven by its consumer."""
        await declare_exchanges(link)
        replies = await link.hot_channel()
        replies.attach(self, body_limit=self._limits.max_message_size)
        queue = await self._open_replies(replies)
        self._calls = await self._publisher(link, confirm=True)
        self._bare = await self._publisher(link, confirm=False)
        self._reply_to = queue.encode()
        self._link = link
        link.on_writable(self._write_line)
        self.loop.call_soon(self._write_line)

    async def _open_replies(self, channel: HotChannel) -> str:
        """Declare, bind and consume the reply queue; returns its name."""
        if not self._durable:
            queue = await channel.declare_reply_queue(arguments=wire.REPLY_ARGUMENTS)
            await channel.bind(queue, wire.BOUNCE_EXCHANGE, queue)
            await channel.consume(queue, no_ack=True)
            return queue
        queue = self._reply_name
        try:
            await channel.declare_queue(queue, arguments=wire.DURABLE_REPLY_ARGUMENTS)
        except ChannelClosed as error:
            self._give_up_replies(error)
            raise
        await channel.bind(queue, wire.BOUNCE_EXCHANGE, queue)
        await channel.qos(_REPLY_PREFETCH)
        # Our own last connection may still seem to consume, if the broker has not noticed that it is gone: a higher
        # priority gets the replies, and what went to the dead consumer comes back when the broker drops it.
        self._epoch += 1
        await channel.consume(queue, no_ack=False, priority=self._epoch)
        return queue

    def _give_up_replies(self, reason: ChannelClosed) -> None:
        """The durable reply queue cannot be had any more (its node may be down for good): begin another."""
        log.warning("the reply queue %s cannot be used again: %s", self._reply_name, reason)
        self._reply_name = wire.reply_queue(secrets.token_hex(6))
        lost = self._pending.written_lost(lambda call: call.awaits_reply)
        error = Unavailable(f"the reply queue is lost: {reason}")
        self._end_lost(lost, error)

    async def _delete_replies(self) -> None:
        """Leave nothing behind; where that fails, the broker deletes the queue once it has expired."""
        if not self._durable or self._link is None:
            return
        with contextlib.suppress(ChannelClosed, LinkLost, TimeoutError):
            async with asyncio.timeout(1.0):
                channel = await self._link.channel()
                await channel.delete_queue(self._reply_name)

    async def _publisher(self, link: Link, *, confirm: bool) -> HotChannel:
        channel = await link.hot_channel()
        channel.attach(self, body_limit=0)
        channel.on_closed = lambda reason: self._on_channel_closed(channel, reason)
        if confirm:
            await channel.confirm()
        return channel


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _located(error: CallError, target: Target, call_id: str | None = None) -> CallError:
    return error.locate(method=target.name, queue=target.queue, call_id=call_id)


def _refused_by_queue() -> CallError:
    message = "the broker refuses the request: its queue is full, or has no leader now; add workers or slow down"
    return Overloaded(message, reason="QUEUE_FULL", execution=Execution.NOT_EXECUTED, origin=Origin.BROKER)


def _refused_publish(reason: ChannelClosed) -> CallError:
    if reason.code == ACCESS_REFUSED:
        return PermissionDenied(
            f"the broker refuses the publish: {reason.text}",
            execution=Execution.NOT_EXECUTED,
            origin=Origin.BROKER,
        )
    return Unavailable(
        f"the broker closed the channel before it had confirmed the request: {reason}",
        reason="CHANNEL_CLOSED",
        execution=Execution.UNKNOWN,
        origin=Origin.BROKER,
    )
