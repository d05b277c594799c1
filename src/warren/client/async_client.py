"""The asyncio client, and what it has in common with the blocking one: options, encoding, reading of replies."""

from __future__ import annotations

import asyncio
import copy
import ssl as tls
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, overload

from warren.client.caller import Caller, Limits, Reply, ReplyQueue, Target
from warren.client.calls import PendingCall
from warren.connection.settings import Password, make_settings
from warren.errors import CallError, Execution, InvalidArgument
from warren.protocol import codecs, wire
from warren.protocol import signature as methods
from warren.protocol.codecs import CodecError
from warren.protocol.problems import rebuild, registry
from warren.protocol.running import get_running
from warren.protocol.signature import Method, method_of

P = ParamSpec("P")
R = TypeVar("R")

Encoding = Literal["json", "msgpack"]
_CONTENT_TYPES = {"json": codecs.JSON, "msgpack": codecs.MSGPACK}

#: Seconds a call may take when nothing else is said.
DEFAULT_TIMEOUT = 30.0
#: Calls, casts and bare calls that one client may have under way at a time.
DEFAULT_MAX_IN_FLIGHT = 65_536
#: Bytes of requests that may wait to be sent.
DEFAULT_MAX_WAITING_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Options:
    """How calls are made; see `AsyncClient.options`."""

    timeout: float = DEFAULT_TIMEOUT
    fail_fast: bool = False
    encoding: Encoding = "json"
    headers: Mapping[str, Any] | None = None
    resend: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 2_000_000:
            raise ValueError(f"timeout={self.timeout!r}: seconds, more than 0 and at most 2,000,000 (23 days)")
        if self.encoding not in _CONTENT_TYPES:
            raise ValueError(f"encoding={self.encoding!r} is not one of {', '.join(_CONTENT_TYPES)}")
        if self.headers is not None:
            wire.check_headers(self.headers)

    def with_given(self, **given: Any) -> Options:
        """These options, but for those that are given: None stands for one that is not."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def deadline(self) -> float:
        """When a call that begins now ends at the latest: inside a handler, no later than the handler's own call."""
        deadline = time.monotonic() + self.timeout
        current = get_running()
        if current is not None and current.deadline is not None and current.deadline < deadline:
            return current.deadline
        return deadline


class _Outcome(asyncio.Future[Any]):
    """What a task waits for; a task that is cancelled meanwhile gives its call up."""

    __slots__ = ("_caller", "call")

    def __init__(self, caller: Caller) -> None:
        super().__init__(loop=caller.loop)
        self._caller = caller
        self.call: PendingCall | None = None

    def finish(self, outcome: Any) -> None:
        self.call = None  # which knows us: no cycle is left for the garbage collector
        if not self.done():
            self.set_result(outcome)

    def cancel(self, msg: Any = None) -> bool:
        call, self.call = self.call, None
        if call is not None:
            self._caller.cancel(call)
        return super().cancel(msg)


class AsyncClient:
    """Calls methods of services, for asyncio.

    One connection and one reply queue serve any number of concurrent calls. Use it as ``async with``, or `close` it.
    Connecting begins then and goes on in the background: calls wait for the connection within their own timeout, and
    a lost one is re-established.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        encoding: Encoding = "json",
        errors: Iterable[type[Exception]] = (),
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        max_message_size: int = wire.MAX_MESSAGE_SIZE,
        max_waiting_bytes: int = DEFAULT_MAX_WAITING_BYTES,
        reply: ReplyQueue = "exclusive",
        send_user: bool = False,
        name: str | None = None,
        username: str | None = None,
        password: Password | None = None,
        vhost: str | None = None,
        ssl: tls.SSLContext | None = None,
        heartbeat: int | None = None,
        liveness_timeout: float | None = None,
        connect_timeout: float | None = None,
    ) -> None:
        """Prepare a client; nothing is opened yet.

        Args:
            url: ``amqp://user:password@host:port/vhost`` or ``amqps://…``; several hosts separated by commas, or
                several URLs. Default: ``amqp://localhost``.
            timeout: seconds a call may take, from the moment it is made, waiting for a connection included.
            encoding: how arguments are written, ``json`` or ``msgpack``.
            errors: exception classes that are raised as themselves when a handler raises one of that name.
            max_in_flight: calls that may be under way at a time; one more is refused (`Overloaded`).
            max_message_size: bytes of the largest request sent and the largest reply accepted.
            max_waiting_bytes: bytes of requests that may wait to be sent, because there is no connection or the
                broker takes no more, or to be sent again (``resend``); one more is refused (`Overloaded`).
            reply: where replies come. ``exclusive``: a queue that goes with the connection; calls that were sent
                when it is lost end as CONNECTION_LOST. ``durable``: a queue that stays for 30 minutes, and messages
                that are stored: calls that the broker has confirmed carry on after a reconnect or a restart of
                the broker, at the price of writing to disk.
            send_user: put the AMQP user name into each request; the broker verifies it, and the handler finds it
                in ``current_call().user``.
            name: what this client calls itself, for the broker's list of connections and for ``current_call()``.
            username, password, vhost: override what the URL says. A password may be a function that returns it,
                asked anew for each attempt to connect: for passwords that change.
            ssl: a context for TLS; makes the connection encrypted also where the URL says ``amqp``.
            heartbeat: seconds between heartbeats (default 15).
            liveness_timeout: seconds after which a silent broker or network is given up (default twice the
                heartbeat, at least 1): half of it passes between two probes that the broker has to answer.
            connect_timeout: seconds for one attempt to reach one host (default 10).

        Raises:
            ValueError: an option that makes no sense.
        """
        self._settings = make_settings(
            url,
            username=username,
            password=password,
            vhost=vhost,
            ssl=ssl,
            heartbeat=heartbeat,
            liveness_timeout=liveness_timeout,
            connect_timeout=connect_timeout,
            name=name,
        )
        self._options = Options(timeout=timeout, encoding=encoding)
        self._errors = registry(errors)
        self._limits = Limits(max_in_flight, max_message_size, max_waiting_bytes, send_user, reply).checked()
        self._targets: Targets = {}
        self._shared: list[Caller] = []  # shared with the views that `options` makes; holds one once it is open

    async def __aenter__(self) -> Self:
        self._caller()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Wait for the connection: to find out at start-up whether the broker can be reached.

        Raises:
            CallError: it cannot, each host having been tried once.
        """
        await self._caller().connected()

    async def close(self) -> None:
        """End all calls under way with `Cancelled` and close the connection. Closing twice is no error."""
        if self._shared and not self._shared[0].loop.is_closed():  # a connection ends with its loop
            await self._caller().close()

    def options(
        self,
        *,
        timeout: float | None = None,
        fail_fast: bool | None = None,
        resend: bool | None = None,
        encoding: Encoding | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Self:
        """The same client with other options for the calls made through it; it shares the connection.

        Args:
            timeout: seconds a call may take.
            fail_fast: end at once with `Unavailable` when there is no connection or no worker is free, instead of
                waiting for one.
            resend: send a call again, with the same ``call_id``, when the connection is lost after it was sent. Its
                handler may then run twice. Default: for functions declared ``at-least-once`` only.
            encoding: ``json`` or ``msgpack``.
            headers: AMQP headers for the handler to read with ``current_call().headers``; at most 3,000 bytes.

        Raises:
            ValueError: an option that makes no sense, or a header that AMQP cannot carry.
        """
        view = copy.copy(self)
        view._options = self._options.with_given(
            timeout=timeout, fail_fast=fail_fast, resend=resend, encoding=encoding, headers=headers
        )
        return view

    @overload
    async def call(self, target: str, /, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    async def call(self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def call(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method and wait for its result.

        Args:
            target: a function declared with ``@service.method``, or ``"service.method"``.
            *args, **kwargs: its arguments; by name either all positional or all named.

        Raises:
            CallError: every ending that is not a result; see the table in the README. When the awaiting task is
                cancelled the call is given up, and whether its handler runs is not known.
            Exception: an exception class registered by the service or this client, raised by the handler.
        """
        to = find_target(self._targets, self._options, "call", target)
        future = self._start(to, encode_call(to, args, kwargs))
        del args, kwargs  # they are written: nothing of them is kept while the call is under way
        return read_result(await future, to, self._errors)

    @overload
    async def cast(self, target: str, /, *args: Any, **kwargs: Any) -> None: ...
    @overload
    async def cast(self, target: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    async def cast(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> None:
        """Send a request that nobody answers; returns once the broker has confirmed that it has it.

        The request is stored durably and waits in the queue for as long as it takes; the timeout is for the
        broker's confirm only.

        Raises:
            CallError: the broker does not have it, or (execution UNKNOWN) may or may not have it.
        """
        to = find_target(self._targets, self._options, "cast", target)
        read_confirm(await self._start(to, encode_call(to, args, kwargs)))

    async def call_bare(self, queue: str, body: bytes | str = b"", /) -> bytes:
        """Call a server that knows only RabbitMQ's tutorial six: the body goes as it is, and comes back as it is.

        Raises:
            CallError: as for `call`.
        """
        to = bare_target(self._options, queue)
        return read_bare(await self._start(to, encode_bare(body)), to)

    @property
    def ignored_replies(self) -> int:
        """Replies that nobody waited for any more: late, duplicate or foreign ones."""
        return self._shared[0].ignored_replies if self._shared else 0

    def _start(self, target: Target, body: bytes) -> asyncio.Future[Any]:
        """Start a request; the future gets its outcome, whatever it is."""
        caller = self._caller()
        future = _Outcome(caller)
        future.call = caller.start(target, body, self._options.deadline(), future)
        return future

    def _caller(self) -> Caller:
        """The calls of this client's connection.

        Raises:
            RuntimeError: it was opened on another event loop.
        """
        if not self._shared:
            caller = Caller(self._settings, self._limits)
            caller.open()
            self._shared.append(caller)
        caller = self._shared[0]
        if caller.loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this AsyncClient was opened on another event loop, and works there only: make one in each"
                " asyncio.run() and in each forked process; for several threads use Client"
            )
        return caller


#: The targets that a client knows already, by what makes them differ; views with other options share them.
Targets = dict[tuple[Any, ...], Target]
_MOST_TARGETS = 10_000


def find_target(
    known: Targets, options: Options, kind: Literal["call", "cast"], function: Callable[..., Any] | str
) -> Target:
    """The target of a declared function or of a name.

    Raises:
        TypeError: a function that is no method.
        ValueError: a name that cannot be one.
    """
    if options.headers is not None:
        return _make_target(options, kind, function)
    key = (function, kind, options.encoding, options.fail_fast, options.resend)
    target = known.get(key)
    if target is None:
        if len(known) >= _MOST_TARGETS:
            known.clear()
        target = known[key] = _make_target(options, kind, function)
    return target


def _make_target(options: Options, kind: Literal["call", "cast"], function: Callable[..., Any] | str) -> Target:
    method = None if isinstance(function, str) else method_of(function)
    full_name = str(function) if method is None else method.full_name
    service, name = split_name(full_name)
    return Target(
        kind,
        name,
        wire.service_queue(service),
        full_name,
        _CONTENT_TYPES[options.encoding],
        fail_fast=options.fail_fast and kind == "call",
        resend=_resends(options, method),
        headers=options.headers,
        declared=method,
    )


def split_name(full_name: str) -> tuple[str, str]:
    """The service and the method of ``service.method``.

    Raises:
        ValueError: it is not of that form.
    """
    service, _, name = full_name.rpartition(".")
    if not service or not name:
        raise ValueError(f"{full_name!r} does not name a method: say 'service.method', for example 'calc.fib'")
    return service, name


def _resends(options: Options, method: Method | None) -> bool:
    if options.resend is None:
        return method is not None and method.delivery == "at-least-once"
    return options.resend


def encode_call(target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The body of a call.

    Raises:
        InvalidArgument: an argument that the encoding cannot carry.
        TypeError: arguments that do not fit the function.
    """
    encode = methods.encode_arguments if target.declared is None else target.declared.encode_arguments
    try:
        return encode(target.content_type, args, kwargs)
    except CodecError as error:
        raise InvalidArgument(
            f"the arguments cannot be encoded: {error}",
            reason="ENCODE",
            execution=Execution.NOT_SENT,
            method=target.name,
            queue=target.queue,
        ) from error


def bare_target(options: Options, queue: str) -> Target:
    """The queue of a tutorial-six server."""
    return Target("bare", "", queue, queue, codecs.TEXT, fail_fast=options.fail_fast, resend=_resends(options, None))


def encode_bare(body: bytes | str) -> bytes:
    """A bare body goes as it is."""
    return body.encode() if isinstance(body, str) else bytes(body)


def read_result(outcome: Reply | Exception, target: Target, errors: dict[str, type[Exception]]) -> Any:
    """The result that a call ended in, or raise what it ended in instead."""
    if isinstance(outcome, Exception):
        raise outcome
    p, body = outcome
    method = target.declared
    try:
        content_type = wire.read_reply(p, body, lambda what, status: rebuild(what, status, _known(method, errors)))
        if method is not None:
            return method.decode_result(content_type, body)
        return methods.untyped_decoder(content_type)(body)
    except CodecError as error:
        raise _locate(wire.undecodable_reply(str(error)), target, p) from error
    except CallError as error:
        raise _locate(error, target, p) from error.__cause__
    except Exception as error:
        error.add_note(f"raised by the handler of {target.name}")
        raise


def read_bare(outcome: Reply | Exception, target: Target) -> bytes:
    """The body that a bare call ended in."""
    if isinstance(outcome, Exception):
        raise outcome
    p, body = outcome
    try:
        wire.read_reply(p, body, lambda _problem, _status: None)
    except CallError as error:
        raise _locate(error, target, p) from error.__cause__
    return body


def read_confirm(outcome: Exception | None) -> None:
    """Raise what a cast ended in, unless the broker confirmed it."""
    if outcome is not None:
        raise outcome


def _locate(error: CallError, target: Target, p: Any) -> CallError:
    call_id = (p.correlation_id or b"").decode("utf-8", "replace")
    return error.locate(method=target.name, queue=target.queue, call_id=call_id or None)


def _known(method: Method | None, errors: dict[str, type[Exception]]) -> dict[str, type[Exception]]:
    """The errors that travel as themselves: the client's, and those of the service whose function was called."""
    return errors if method is None else method.errors | errors
