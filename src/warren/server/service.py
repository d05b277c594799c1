"""Declaring a service: its name, its methods, and how they are delivered. Nothing here touches the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Unpack

from warren import checks, keywords
from warren.connection.settings import ConnectionOptions
from warren.middleware import Middleware, checked_middleware
from warren.protocol import topology
from warren.protocol.content import MAX_MESSAGE_SIZE
from warren.protocol.control import MAX_CONCURRENCY
from warren.protocol.problems import registry
from warren.protocol.signature import Method, is_async
from warren.server.context import CurrentCall, OnRefused, Scope
from warren.server.declaring import Declaring
from warren.server.methods import Methods
from warren.server.server import DEFAULT_DRAIN_TIMEOUT, Server

QueueKind = Literal["classic", "quorum"]

#: Calls at a time where nothing is said: a prefetch of 100 gives the best throughput (docs/broker-facts.md), but a
#: thread per call is worth less than that.
ASYNC_CONCURRENCY = 100
THREAD_CONCURRENCY = 32


class Service(Declaring):
    """A set of methods behind one queue, served by any number of workers.

    Example::

        service = Service("calc")

        @service.method
        def double(n: int) -> int:
            return 2 * n

        service.run("amqp://localhost")
    """

    @keywords.refusing("Service")
    def __init__(
        self,
        name: str,
        *,
        queue: QueueKind = "classic",
        concurrency: int | None = None,
        max_length: int | None = None,
        errors: Iterable[type[Exception]] = (),
        middleware: Sequence[Middleware[CurrentCall]] = (),
        tracebacks: bool = False,
        declare: bool = True,
        max_message_size: int = MAX_MESSAGE_SIZE,
        version: str | None = None,
        description: str | None = None,
        on_refused: OnRefused | None = None,
    ) -> None:
        """Declare a service.

        Args:
            name: the service's and its queue's name.
            queue: ``classic`` for speed; ``quorum`` to survive the loss of a node of a cluster, at half the
                throughput and three times the latency.
            concurrency: calls that one worker process serves at a time; it prefetches as many. 1 is the fairest
                dispatch. Default: 100 where all methods are ``async def``, else 32.
            max_length: requests that may wait in the queue; one more is refused to its caller as `Overloaded`,
                certainly not executed. Fixed once the queue exists.
            errors: exception classes that travel as themselves: raised by a handler, raised again at the caller,
                with arguments, attributes and notes, if JSON can carry all of them.
            middleware: async functions around every call, the first one outermost (see `warren.middleware`).
            tracebacks: send tracebacks to callers. Off by default: they reveal code and data.
            declare: False to use an existing queue as it is, whatever its arguments.
            max_message_size: bytes of the largest request taken and the largest reply sent.
            version, description: what tools tell of it; they change nothing else.
            on_refused: called, on the event loop, with each request that ends before its handler begins and what its
                caller is told: no middleware sees these. What it raises is logged.

        Raises:
            TypeError: an option of the wrong type.
            ValueError: one that makes no sense.
        """
        checks.text("service name", name)
        topology.check_service(name)
        if queue not in ("classic", "quorum"):
            raise ValueError(f"queue={queue!r} must be 'classic' or 'quorum'")
        if concurrency is not None:
            checks.whole("concurrency", concurrency, most=MAX_CONCURRENCY)
        if max_length is not None:
            checks.whole("max_length", max_length, most=2**31 - 1)
        checks.whole("max_message_size", max_message_size)
        checks.flag("tracebacks", tracebacks)
        checks.flag("declare", declare)
        if on_refused is not None and (not callable(on_refused) or is_async(on_refused)):
            raise TypeError(f"on_refused={on_refused!r} must be a plain function that takes a RefusedCall and an error")
        for option, text in (("version", version), ("description", description)):
            if text is not None:
                checks.text(option, text)
        self.name = name
        self.queue: QueueKind = queue
        self.max_length = max_length
        self.errors = registry(errors)
        self.middleware = checked_middleware(middleware)
        self.tracebacks = tracebacks
        self.declare = declare
        self.max_message_size = max_message_size
        self.version = version
        self.description = description
        self.on_refused = on_refused
        self.methods = Methods(name, self.errors)
        self._concurrency = concurrency

    def __repr__(self) -> str:
        return f"Service({self.name!r}, methods={sorted(self.methods)})"

    @property
    def default(self) -> Method | None:
        """The method that answers bare requests, if there is one."""
        return self.methods.default

    @property
    def concurrency(self) -> int:
        """Calls that one worker process serves at a time."""
        if self._concurrency is not None:
            return self._concurrency
        return ASYNC_CONCURRENCY if all(m.is_async for m in self.methods.values()) else THREAD_CONCURRENCY

    @keywords.naming(ConnectionOptions)
    def run(
        self,
        url: str | Sequence[str] | None = None,
        *,
        concurrency: int | None = None,
        drain_timeout: float = DEFAULT_DRAIN_TIMEOUT,
        **connection: Unpack[ConnectionOptions],
    ) -> None:
        """Serve until SIGTERM or Ctrl-C, then finish what is running; a second signal ends at once.

        Args:
            url: as for `AsyncClient`.
            concurrency: overrides the service's.
            drain_timeout, **connection: as for `Server`.

        Raises:
            CallError: the broker refuses the login or the service: what trying again cannot mend.
            LifespanError: it cannot start, or its lifespan ended while it was served.
        """
        Server(self, url=url, concurrency=concurrency, drain_timeout=drain_timeout, **connection).run()

    @keywords.naming(ConnectionOptions)
    async def serve(
        self,
        url: str | Sequence[str] | None = None,
        *,
        concurrency: int | None = None,
        drain_timeout: float = DEFAULT_DRAIN_TIMEOUT,
        **connection: Unpack[ConnectionOptions],
    ) -> None:
        """Serve until cancelled, then finish what is running; arguments and errors as for `run`."""
        await Server(self, url=url, concurrency=concurrency, drain_timeout=drain_timeout, **connection).serve()

    def check(self) -> None:
        """Whether it can be served; raises `TypeError` or `ValueError` where it is not complete."""
        self.methods.check()

    def begin(self) -> AbstractAsyncContextManager[Any] | None:
        """The lifespan, to be entered by a server."""
        return self.methods.provisions.begin()

    def prepare(self, scope: Scope) -> None:
        """Find what methods depend on, once the lifespan was entered; raises what keeps it from being served."""
        self.methods.provisions.prepare(scope)
