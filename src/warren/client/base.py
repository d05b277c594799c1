"""What both clients are alike in: how they are made, and their views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

from warren import keywords
from warren.client.chain import Chained, ClientMiddleware
from warren.client.gathering import AskedOfAll
from warren.client.options import (
    DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_MAX_WAITING_BYTES,
    DEFAULT_TIMEOUT,
    Encoding,
    Limits,
    Options,
    ReplyQueue,
)
from warren.client.prepared import Prepared
from warren.client.requests import Target
from warren.client.target import Targets
from warren.connection.settings import ConnectionOptions, Settings, make_settings
from warren.middleware import checked_middleware
from warren.protocol.content import MAX_MESSAGE_SIZE
from warren.protocol.problems import registry
from warren.protocol.progress import Progress
from warren.protocol.uploading import Kind


class BaseClient:
    """A client as it is made; how it calls is the matter of `AsyncClient` and `Client`."""

    @keywords.naming(ConnectionOptions)
    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        encoding: Encoding = "json",
        errors: Iterable[type[Exception]] = (),
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        max_message_size: int = MAX_MESSAGE_SIZE,
        max_waiting_bytes: int = DEFAULT_MAX_WAITING_BYTES,
        reply: ReplyQueue = "exclusive",
        send_user: bool = False,
        headers: Mapping[str, Any] | None = None,
        middleware: Sequence[ClientMiddleware] = (),
        **connection: Unpack[ConnectionOptions],
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
            headers: AMQP headers of each call and cast; see `options`.
            middleware: async functions around every call, the first one outermost (see `warren.middleware`). They run
                on the client's event loop: a `Client`'s in its own thread, with the context of the thread that calls.
            **connection: how to reach the broker, and as whom; see `ConnectionOptions`.

        Raises:
            ValueError, TypeError: an option that makes no sense, or is unknown.
        """
        keywords.refuse_unknown(type(self).__name__, BaseClient.__init__, connection)
        self._options = Options(timeout=timeout, encoding=encoding, headers=headers, named=bool(connection.get("name")))
        self._max_item = max_message_size
        self._middleware = checked_middleware(middleware)
        self._errors = registry(errors)
        self._usual: dict[tuple[Any, ...], Targets] = {}
        self._targets = self._known_targets()
        self._is_view = False
        limits = Limits(max_in_flight, max_message_size, max_waiting_bytes, send_user, reply)
        self._share(make_settings(url, **connection), limits.checked())

    def _share(self, settings: Settings, limits: Limits) -> None:
        """Prepare what the client and its views share."""
        raise NotImplementedError

    @keywords.refusing("options")
    def options(
        self,
        *,
        timeout: float | None = None,
        fail_fast: bool | None = None,
        resend: bool | None = None,
        encoding: Encoding | None = None,
        headers: Mapping[str, Any] | None = None,
        detached: bool | None = None,
        wait: bool | None = None,
        idle_timeout: float | None = None,
        expect: int | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Self:
        """The same client with other options for the calls made through it: a view, which shares the connection.

        What is not given (or None) stays as it is. A view needs no closing: a ``with`` block on it opens the connection
        and leaves it open, for the client to close.

        Args:
            timeout: seconds a call may take.
            fail_fast: end at once with `Unavailable` when there is no connection or no worker is free, instead of
                waiting for one.
            resend: send a call again, with the same ``call_id``, when the connection is lost after it was sent. Its
                handler may then run twice. Default: for functions declared ``at-least-once`` only. Streams refuse it,
                and pipelines with ``undo``.
            encoding: ``json`` or ``msgpack``.
            headers: AMQP headers for the handler to read with ``current_call().headers``, added to those that the
                client has; None takes one away. At most 3,000 bytes in all.
            detached: for calls inside a handler: do not bind them to the time that is left of its own call. For what
                must be done even when that is over, such as undoing something.
            wait: where there is no room for one more call (`max_in_flight`, `max_waiting_bytes`), wait for it, in order
                of arrival and within the timeout, instead of ending at once with `Overloaded`. Time that is up
                meanwhile ends it with that: nothing was sent.
            idle_timeout: seconds that a stream may take to bring the next item once that is waited for. Default: only
                `timeout`, which is for the whole stream.
            expect: how many instances `gather` and `broadcast` have to hear, and after how many they wait for no more.
                Default: as many as the broker counts.
            on_progress: called with a `Progress` when the handler has said how far it has come; on the event loop, a
                `Client`'s in its I/O thread, so it must neither wait nor block. What it raises is logged. Some progress
                may get lost, and none comes after the end.

        Raises:
            ValueError, TypeError: an option that makes no sense, or a header that AMQP cannot carry.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._is_view = True
        view._options = self._options.with_given(
            timeout=timeout,
            fail_fast=fail_fast,
            resend=resend,
            encoding=encoding,
            headers=headers,
            detached=detached,
            wait=wait,
            idle_timeout=idle_timeout,
            expect=expect,
            on_progress=on_progress,
        )
        view._targets = view._known_targets()
        return view

    def _known_targets(self) -> Targets:
        usual = self._usual.get(self._options.shape)
        if usual is None:
            usual = self._usual.setdefault(self._options.shape, Targets())
        return usual if self._options.own is None else Targets(usual)

    def _prepared(
        self,
        kind: Kind,
        target: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        items: Any = None,
    ) -> Prepared:
        """A call with items that is to be begun."""
        return Prepared(
            self._options, self._errors, kind, target, args, kwargs, items, self._max_item, self._middleware
        )

    def _asked_of_all(
        self, verb: str, target: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AskedOfAll:
        """A request to all instances, which is to be made; `verb` is the client's method that was called."""
        return AskedOfAll(self._options, self._errors, target, args, kwargs, self._middleware, verb)

    def _chained(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float) -> Chained:
        """A call through the client's middleware."""
        return Chained(self._middleware, target, args, kwargs, deadline, self._errors)
