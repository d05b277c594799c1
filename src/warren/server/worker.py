"""One service on one connection: from a delivery to its reply.

A delivery is checked in an order that keeps the promises of its method's delivery mode: first whether somebody may
have started it before (redelivered), then whether this worker still takes work, then its time, then its arguments;
only then does the handler run. Each delivery ends in exactly one acknowledgement, after the reply (or before the
handler, for ``at-most-once``), on the channel it came by: when that is gone, the broker gives the request to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from warren.amqp.frames import Delivery, FrameError
from warren.connection.link import HotChannel
from warren.errors import CallError, Code, Execution, Origin, WorkerLost, make_error
from warren.middleware import Middleware, chain
from warren.protocol import wire
from warren.protocol.codecs import CodecError
from warren.protocol.deadline import Slice, Timers, remaining_budget
from warren.protocol.problems import Problem, describe
from warren.protocol.running import reset_running, set_running
from warren.protocol.signature import Arguments, Method
from warren.protocol.wire import Request, UnreadableHeaders
from warren.server.aside import Aside, LetGo
from warren.server.context import CurrentCall
from warren.server.threads import WorkerThreads

log = logging.getLogger("warren.server")

#: Seconds that the broker gets to confirm what a worker hands back when it stops.
_SETTLE_TIME = 5.0


class Served(Protocol):
    """What a worker wants to know of a service."""

    @property
    def name(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def middleware(self) -> Sequence[Middleware[CurrentCall]]: ...
    @property
    def tracebacks(self) -> bool: ...
    @property
    def declare(self) -> bool: ...
    @property
    def max_message_size(self) -> int: ...
    @property
    def methods(self) -> Mapping[str, Method]: ...
    @property
    def default(self) -> Method | None: ...


class Outcome(NamedTuple):
    """A reply, ready to be sent; `failure` is the reason when it carries an error."""

    properties: bytes
    body: bytes
    failure: str | None = None


class Running:
    """A call whose handler runs, or waits for its turn.

    `entered` tells whether its handler was begun: middleware may end a call before. `stopped_by` is
    what its caller gets when the worker has cancelled it.
    """

    __slots__ = ("arguments", "call", "channel", "entered", "method", "request", "slice", "stopped_by", "task")

    def __init__(
        self, channel: HotChannel, request: Request, method: Method, arguments: Arguments, call: CurrentCall
    ) -> None:
        self.channel = channel
        self.request = request
        self.method = method
        self.arguments = arguments
        self.call = call
        self.task: asyncio.Task[None] | None = None
        self.slice: Slice[Running] | None = None
        self.stopped_by: CallError | None = None
        self.entered = True


class _Refused(Exception):
    """A request is answered with an error instead of being run."""

    def __init__(self, error: CallError) -> None:
        super().__init__(error.message)
        self.error = error


class Worker:
    """Serves one service; the receiver of its channel, which may be another one after each reconnect."""

    def __init__(self, service: Served, concurrency: int, user: str) -> None:
        """Prepare to serve with so many calls at a time, connected as the AMQP user `user`."""
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._user = user
        self._methods: dict[bytes | None, Method | None] = {n.encode(): m for n, m in service.methods.items()}
        self._methods[None] = service.default
        self._concurrency = concurrency
        self._threads = WorkerThreads(concurrency, f"warren-{service.name}")
        self._running: set[Running] = set()
        self._waiting: deque[Running] = deque()
        self._timers: Timers[Running] = Timers(self._wake_at)
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None  # made when somebody waits for the last handler to end
        self._draining = False
        self._held: list[tuple[HotChannel, Request, float | None]] = []  # while draining
        self.aside: Aside | None = None
        self.on_queue_deleted: Callable[[Worker], None] | None = None

    @property
    def service(self) -> Served:
        return self._service

    @property
    def concurrency(self) -> int:
        return self._concurrency

    @property
    def draining(self) -> bool:
        """Whether it takes no work any more."""
        return self._draining

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        try:
            request = Request(delivery)
        except UnreadableHeaders as error:
            self._refuse_unreadable(channel, error)
            return
        except FrameError as error:  # whom to answer is not known either
            log.error("%s: a request with unreadable properties is dead-lettered: %s", self._service.name, error)
            channel.reject(delivery.tag)
            return
        try:
            self._accept(channel, request)
        except _Refused as refused:
            self._answer_error(channel, request, refused.error)
        except Exception as error:  # ours, or a foreign table's: the caller must still hear of it
            log.exception("%s: a request could not be handled", self._service.name)
            message = f"the server failed to read the request: {error!r}"
            self._answer_error(
                channel,
                request,
                make_error(Code.INTERNAL, "SERVER", message, execution=Execution.NOT_EXECUTED, origin=Origin.SERVER),
            )

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Replies are not confirmed: a reply that is lost is lost with its connection, and so is its ack."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def returned(self, correlation_id: bytes | None, reply_code: int, reply_text: str) -> None:
        log.info("%s: a reply found no reader: its caller is gone (%s)", self._service.name, reply_text)

    def consumer_cancelled(self, channel: HotChannel) -> None:
        if self.on_queue_deleted is not None:
            self.on_queue_deleted(self)

    # --- deciding -----------------------------------------------------------------------------------------------

    def _accept(self, channel: HotChannel, request: Request) -> None:
        method = self._method_of(request)
        if request.delivery.body is None:
            size, limit = request.delivery.body_size, self._service.max_message_size
            raise _refusal(Code.RESOURCE_EXHAUSTED, "TOO_LARGE", f"the request has {size} bytes, the limit is {limit}")
        if request.delivery.redelivered and not self._may_run_again(channel, request, method):
            return
        left = remaining_budget(request.timeout_ms, request.deadline_ms, time.time())
        if self._draining:
            self._held.append((channel, request, None if left is None else time.monotonic() + left))
            return
        if left is not None and left <= 0:
            raise _too_late(Execution.NOT_EXECUTED if request.attempt == 1 else Execution.UNKNOWN)
        arguments = self._arguments_of(request, method)
        deadline = None if left is None else time.monotonic() + left
        call = CurrentCall(method.full_name, deadline, request, self._user)
        running = Running(channel, request, method, arguments, call)
        if len(self._running) < self._concurrency:
            self._start(running)
        else:  # only at-most-once requests, acknowledged before they run, let the broker send more than that
            self._waiting.append(running)

    def _method_of(self, request: Request) -> Method:
        service = self._service
        if request.version not in (None, wire.VERSION):
            message = f"protocol version {request.version} is not spoken here; {wire.VERSION} is"
            raise _refusal(Code.UNIMPLEMENTED, "VERSION", message)
        method = self._methods.get(request.properties.type)
        if method is None:
            name = request.method
            wanted = "default method for bare requests" if name is None else f"method {name!r}"
            known = ", ".join(sorted(service.methods)) or "none"
            raise _refusal(Code.UNIMPLEMENTED, "METHOD", f"service {service.name!r} has no {wanted}; it has: {known}")
        return method

    def _may_run_again(self, channel: HotChannel, request: Request, method: Method) -> bool:
        """A worker may have started this request and died. True never: it is answered, set aside or published anew.

        Raises:
            _Refused: it is not run again.
        """
        if method.delivery != "at-least-once":
            error = WorkerLost("a worker was lost while it held this request; it is not run again")
            raise _Refused(error)
        attempt = request.attempt + 1
        if attempt > method.max_attempts:
            message = f"{request.attempt} workers were lost while they held this request; it is in the dead queue"
            poison = _refusal(Code.INTERNAL, "POISON", message, Execution.UNKNOWN)
            if not request.properties.reply_to:
                raise poison
            # What the answer says of the dead queue has to be true before it is said.
            answer = partial(self._answer_error, channel, request, poison.error)
            self._set_aside(channel, request, "POISON", answer)
            return False
        # Classic queues count no deliveries, so the count travels in the request: publish it anew, then let it go.
        left = remaining_budget(request.timeout_ms, request.deadline_ms, time.time())
        self._hand_back(channel, request, left, attempt)
        return False

    def _arguments_of(self, request: Request, method: Method) -> Arguments:
        try:
            return method.decode_arguments(request.content_type, request.delivery.body or b"")
        except CodecError as error:
            code = Code.UNIMPLEMENTED if error.reason == "ENCODING" else Code.INVALID_ARGUMENT
            raise _refusal(code, error.reason, str(error)) from error

    # --- running ------------------------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._concurrency:
            running = self._waiting.popleft()
            if running.call.remaining == 0:
                self._answer_error(running.channel, running.request, _too_late(Execution.NOT_EXECUTED).error)
            else:
                self._start(running)

    def _start(self, running: Running) -> None:
        method = running.method
        if method.delivery == "at-most-once":
            # The ack leaves before the handler starts. Should it get lost on its way, the request comes back
            # marked redelivered, and is then not run.
            running.channel.ack(running.request.delivery.tag)
            running.channel.link.stream.flush()
        self._running.add(running)
        if self._service.middleware:
            self._spawn(running, self._run_in_chain(running))
        elif method.is_async:
            self._spawn(running, self._run_async(running))
        else:
            self._threads.run(partial(self._run_in_thread, running), partial(self._finish, running))

    def _spawn(self, running: Running, work: Any) -> None:
        token = set_running(running.call)
        try:
            running.task = self._loop.create_task(work)
        finally:
            reset_running(token)
        # A thread cannot be cut off; to pretend so would start another beside it.
        if running.call.deadline is not None and running.method.is_async:
            running.slice = self._timers.add(running.call.deadline, running)

    async def _run_async(self, running: Running) -> None:
        args, kwargs = running.arguments
        try:
            outcome = self._result(running, await running.method.function(*args, **kwargs))
        except BaseException as error:  # SystemExit and the like must not end the worker
            outcome = self._failure(running, error)
        self._finish(running, outcome)

    async def _run_in_chain(self, running: Running) -> None:
        args, kwargs = running.arguments
        function = running.method.function
        running.entered = False

        async def innermost() -> Any:
            running.entered = True
            if running.method.is_async:
                return await function(*args, **kwargs)
            return await self._in_thread(partial(function, *args, **kwargs))

        try:
            value = await chain(self._service.middleware, running.call, innermost)()
            outcome = self._result(running, value)
        except BaseException as error:
            outcome = self._failure(running, error)
        self._finish(running, outcome)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        """Run a function in a worker thread and wait for it, in the context of the middleware around it."""
        done: asyncio.Future[Any] = self._loop.create_future()
        context = contextvars.copy_context()

        def job() -> tuple[Any, BaseException | None]:
            try:
                return context.run(function), None
            except BaseException as error:
                return None, error

        self._threads.run(job, done.set_result)
        value, error = await done
        if error is not None:
            raise error
        return value

    def _run_in_thread(self, running: Running) -> Outcome:
        args, kwargs = running.arguments
        token = set_running(running.call)
        try:
            return self._result(running, running.method.function(*args, **kwargs))
        except BaseException as error:
            return self._failure(running, error)
        finally:
            reset_running(token)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._cut_off)

    def _cut_off(self) -> None:
        """Cancel the async handlers whose caller waits no longer."""
        self._timer = None
        for running in self._timers.due(time.monotonic()):
            message = "the handler was cut off at the deadline"
            self._cancel(running, _executed(Code.DEADLINE_EXCEEDED, "HANDLER", message))
        due = self._timers.next_due()
        if due is not None and self._timer is None:
            self._wake_at(due)

    @staticmethod
    def _cancel(running: Running, why: CallError) -> None:
        """Cancel a handler; its caller gets `why`. Threads cannot be cancelled."""
        if running.task is not None:
            running.stopped_by = why
            running.task.cancel()

    # --- replying -----------------------------------------------------------------------------------------------

    def _result(self, running: Running, value: Any) -> Outcome:
        """The reply that carries a handler's result."""
        request = running.request
        content_type = request.content_type
        try:
            body = running.method.encode_result(content_type, value)
        except CodecError as error:
            log.error("%s returned a value that does not fit: %s", running.method.full_name, error)
            message = f"the handler's result does not fit its declared type or the encoding: {error}"
            return self._error_reply(request, _executed(Code.INTERNAL, "ENCODE_REPLY", message))
        limit = self._service.max_message_size
        if len(body) > limit:
            message = f"the result has {len(body)} bytes, the limit is {limit}"
            return self._error_reply(request, _executed(Code.RESOURCE_EXHAUSTED, "TOO_LARGE", message))
        return Outcome(wire.result_properties(request, content_type), body)

    def _failure(self, running: Running, error: BaseException) -> Outcome:
        """The reply that carries what a handler raised."""
        request, method = running.request, running.method
        if running.stopped_by is not None and isinstance(error, asyncio.CancelledError):
            return self._error_reply(request, running.stopped_by)
        ours, problem = describe(
            error, method.errors, tracebacks=self._service.tracebacks, entered=running.entered, earlier=False
        )
        if problem.state is None and not isinstance(error, CallError):
            log.error("%s raised (call %s)", method.full_name, request.call_id, exc_info=error)
        return self._error_reply(request, ours, problem)

    def _error_reply(self, request: Request, error: CallError, problem: Problem | None = None) -> Outcome:
        properties, body = wire.error_reply(request, error, problem or Problem())
        if len(body) > self._service.max_message_size:
            error.message = error.message[:1000]
            properties, body = wire.error_reply(request, error, Problem(error=problem.error if problem else None))
        return Outcome(properties, body, error.reason)

    def _finish(self, running: Running, outcome: Outcome) -> None:
        """A handler is done: reply, acknowledge, and start the next in line."""
        self._running.discard(running)
        if running.slice is not None:
            self._timers.remove(running.slice, running)
        request, channel = running.request, running.channel
        acknowledge = running.method.delivery != "at-most-once"
        if request.properties.reply_to:
            self._reply(channel, request, outcome.properties, outcome.body)
        elif outcome.failure is not None:  # nobody hears of a cast's failure, so it must not vanish
            log.error("%s: a cast failed (%s) and is set aside", running.method.full_name, outcome.failure)
            let_go = partial(channel.ack, request.delivery.tag) if acknowledge else None
            self._set_aside(channel, request, outcome.failure, let_go)
            acknowledge = False
        if acknowledge:
            channel.ack(request.delivery.tag)
        self._start_waiting()
        if self._idle is not None and not self._running:
            self._idle.set()

    def _answer_error(self, channel: HotChannel, request: Request, error: CallError) -> None:
        """Answer a request that was not run."""
        if request.properties.reply_to:
            self._reply(channel, request, *wire.error_reply(request, error, Problem()))
            channel.ack(request.delivery.tag)
            return
        log.error("%s: a cast was refused and is set aside: %s", self._service.name, error)
        if request.delivery.body is None:  # not kept here, but the broker still has it
            channel.reject(request.delivery.tag)
        else:
            self._set_aside(channel, request, error.reason, partial(channel.ack, request.delivery.tag))

    def _refuse_unreadable(self, channel: HotChannel, why: UnreadableHeaders) -> None:
        """Answer a request whose headers cannot be read; a cast goes to the dead queue as it is."""
        error = _refusal(Code.INVALID_ARGUMENT, "DECODE", str(why)).error
        if why.request.properties.reply_to:
            self._reply(channel, why.request, *wire.error_reply(why.request, error, Problem()))
            channel.ack(why.request.delivery.tag)
        else:
            log.error("%s: a cast was refused and is dead-lettered: %s", self._service.name, error)
            channel.reject(why.request.delivery.tag)

    def _reply(self, channel: HotChannel, request: Request, properties: bytes, body: bytes) -> None:
        address = request.properties.reply_to or b""
        if channel.closed is not None:
            log.warning("%s: the connection was lost before a reply could be sent", self._service.name)
        elif address.startswith(wire.DIRECT_REPLY_TO):
            # RabbitMQ 3.10 closes the connection (541) over such an address if it is forged, or of a node that is
            # gone. Acknowledged before, the request goes with its reply; else it would do the same to the next worker.
            channel.ack(request.delivery.tag)
            channel.link.stream.flush()
            channel.publish_unrouted(address, properties, body)  # `mandatory` would be a false alarm up to 4.1
        else:
            channel.publish(b"", address, properties, body)

    def _set_aside(self, channel: HotChannel, request: Request, reason: str, let_go: LetGo) -> None:
        """Put a request into the service's dead queue, with the reason, and then let it go from its own."""
        if channel.closed is not None and let_go is not None:
            log.warning("%s: the connection was lost first; the broker delivers it again", self._service.name)
        elif self.aside is not None:
            self.aside.put(request, reason, let_go)

    def _hand_back(self, channel: HotChannel, request: Request, left: float | None, attempt: int) -> None:
        """Publish a request again, then let the delivered one go; if that cannot be, the broker sets it aside."""
        if self.aside is None:
            return
        try:
            self.aside.hand_back(request, left, attempt, partial(channel.ack, request.delivery.tag))
        except ValueError as error:
            log.error("%s: a request cannot be handed back and is dead-lettered: %s", self._service.name, error)
            channel.reject(request.delivery.tag)

    # --- ending -------------------------------------------------------------------------------------------------

    def connection_lost(self) -> None:
        """The channel is gone: what had not started will be delivered to another worker."""
        self._waiting.clear()
        self._held.clear()

    def stop_taking(self) -> None:
        """From now on begin nothing; keep what has not been started, until `hand_back`."""
        self._draining = True
        self._held += [(r.channel, r.request, r.call.deadline) for r in self._waiting]
        self._waiting.clear()

    def hand_back(self) -> None:
        """Publish again what was kept; called when nothing more is delivered."""
        for channel, request, deadline in self._held:
            left = None if deadline is None else deadline - time.monotonic()
            self._hand_back(channel, request, left, request.attempt)
        self._held.clear()

    async def finish(self, timeout: float) -> list[str]:
        """Wait for the running handlers; returns the calls that were abandoned after `timeout` seconds."""
        if self._running:
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)
        abandoned = [f"{r.method.full_name} (call {r.request.call_id})" for r in self._running]
        for running in self._running:
            message = "the worker was stopped, and the handler did not finish in the time it was given"
            self._cancel(running, _executed(Code.CANCELLED, "DRAIN", message))
        tasks = [running.task for running in self._running if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)  # they reply that they were stopped
        if self.aside is not None:  # what is handed back and not confirmed may get lost with the connection
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.aside.settled(), _SETTLE_TIME)
        if self._timer is not None:
            self._timer.cancel()
        self._threads.close()
        return abandoned


def _refusal(code: Code, reason: str, message: str, execution: Execution = Execution.NOT_EXECUTED) -> _Refused:
    return _Refused(make_error(code, reason, message, execution=execution, origin=Origin.SERVER))


def _too_late(execution: Execution) -> _Refused:
    message = "the request's time was over before a worker could begin"
    return _refusal(Code.DEADLINE_EXCEEDED, "ON_ARRIVAL", message, execution)


def _executed(code: Code, reason: str, message: str) -> CallError:
    return make_error(code, reason, message, execution=Execution.EXECUTED, origin=Origin.SERVER)
