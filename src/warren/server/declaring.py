"""The decorators of a service: what makes functions, classes and stubs its methods, and what it keeps open for them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from warren import keywords
from warren.protocol.signature import DeliveryMode
from warren.server.lifespan import Lifespan
from warren.server.methods import Methods, Options

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Lifespan)


class Declaring:
    """What a service is declared with.

    Attributes:
        methods: its methods by name; as a decorator it makes a class part of the service, see `Methods`.
    """

    methods: Methods

    @overload
    def method(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def method(
        self,
        *,
        name: str | None = None,
        delivery: DeliveryMode = "report",
        max_attempts: int = 3,
        default: bool = False,
        time_limit: float | None = None,
        concurrency: int | None = None,
        broadcast: bool = False,
        resumable: bool = False,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
    @keywords.refusing("method")
    def method(
        self,
        function: Callable[P, R] | None = None,
        *,
        name: str | None = None,
        delivery: DeliveryMode = "report",
        max_attempts: int = 3,
        default: bool = False,
        time_limit: float | None = None,
        concurrency: int | None = None,
        broadcast: bool = False,
        resumable: bool = False,
    ) -> Any:
        """Make a function a method of this service. The function itself stays as it was.

        A ``def`` runs in a worker thread, an ``async def`` on the event loop; neither delays heartbeats.

        Args:
            name: what it is called remotely; the function's own name by default.
            delivery: what happens when a worker dies during a call. ``report``: the request is not run again, the
                caller gets `WorkerLost`. ``at-least-once``: it is run again, in up to `max_attempts` attempts.
                ``at-most-once``: it is taken off the queue before it starts.
            max_attempts: deliveries of an ``at-least-once`` request before it is set aside as poison; begun or not.
            default: whether it answers bare requests (RabbitMQ's tutorial six): one argument, text in, text out.
            time_limit: seconds that one run may take: casts have no other deadline. An ``async`` handler
                is cancelled then, and its caller gets `DeadlineExceeded` (reason ``TIME_LIMIT``). A ``def`` one cannot
                be stopped, but the calls that it makes end by then. Default: only the caller's deadline.
            concurrency: calls of this method that one worker process runs at a time, within the service's own
                `concurrency`. One more waits in the worker, in order, while calls of other methods overtake it.
                Default: only the service's.
            broadcast: whether `gather` and `broadcast` may ask every instance of the service at once to run it.
            resumable: that each run of it, with the same arguments, yields the same items in the same order. Where a
                worker is lost, or the broker restarts, another run goes on behind the items that have come. Streams
                that are ``at-least-once`` only.

        Raises:
            TypeError: a signature that cannot be called remotely.
            ValueError: a name that is taken, or an option that makes no sense.
        """

        options = Options(name, delivery, max_attempts, default, time_limit, concurrency, broadcast, resumable)

        def declare(function: Callable[P, R]) -> Callable[P, R]:
            self.methods.declare(function, options)
            return function

        return declare if function is None else declare(function)

    @overload
    def stub(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def stub(
        self,
        *,
        name: str | None = None,
        delivery: DeliveryMode = "report",
        max_attempts: int = 3,
        default: bool = False,
        time_limit: float | None = None,
        concurrency: int | None = None,
        broadcast: bool = False,
        resumable: bool = False,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
    def stub(self, function: Callable[P, R] | None = None, **options: Any) -> Any:
        """Declare a method without its body, for callers; `implement` gives it one, in a module of the workers' own.

        It takes the options of `method`. A body for type checkers: ``raise NotImplementedError``.

        Raises:
            TypeError, ValueError: as for `method`; or a stub that needs more than its arguments.
        """
        keywords.refuse_unknown("stub", Declaring.method, options)
        given = Options(**options)

        def declare(function: Callable[P, R]) -> Callable[P, R]:
            self.methods.declare_stub(function, given)
            return function

        return declare if function is None else declare(function)

    @overload
    def implement(self, stub: Callable[P, Coroutine[Any, Any, R]], /) -> Implements[P, R]: ...
    @overload
    def implement(self, stub: Callable[P, R], /) -> Implements[P, R]: ...
    def implement(self, stub: Callable[..., Any], /) -> Any:
        """Make a function the implementation of a stub, with the stub's name and options.

        It has the stub's parameters, defaults and types, and may need more (see `warren.provided`). It may be ``def``
        or ``async def``, whatever the stub is. Callers may name either of the two.

        Raises:
            TypeError: it does not fit the stub; the message shows both.
            ValueError: the stub is implemented already.
        """

        def declare(function: Callable[P, R]) -> Callable[P, R]:
            self.methods.implement(stub, function)
            return function

        return declare

    def lifespan(self, function: L, /) -> L:
        """Make a function the service's lifespan: what it opens before its ``yield`` is there for all calls.

        An async generator function without parameters, or one decorated with `contextlib.asynccontextmanager`. It is
        entered whenever the service is served, before the first request is taken, and left after the drain. What it
        yields is ``current_call().state``, and where methods find by type what they need (see `warren.provided`).

        Raises:
            TypeError: no such function, or it does not yield what methods need.
            ValueError: there is a lifespan already.
        """
        self.methods.provisions.set_lifespan(function)
        return function

    def override(self, what: Any, by: Any, /) -> AbstractContextManager[None]:
        """Provide something else as long as the ``with`` block lasts: for tests.

        Args:
            what: the type of a dependency; or a function that provides one; or the lifespan.
            by: the object to provide; or a function to call instead; or another lifespan.

        Raises:
            TypeError: a function that does not fit.
            ValueError: nothing depends on it.
        """
        return self.methods.provisions.override(what, by)


class Implements(Protocol[P, R]):
    """Takes the implementation of a stub of these parameters and this result."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...
