"""The methods of a service as they are declared: functions, the methods of classes, and stubs with implementations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, cast

from warren import checks
from warren.protocol.signature import (
    DeliveryMode,
    Method,
    is_of_a_class,
    make_method,
    mark,
    method_of,
    name_of,
    plain_function,
)
from warren.server.contracts import check_fit
from warren.server.dependencies import Need
from warren.server.provisions import Provisions
from warren.server.streaming import streamed
from warren.server.uploading import taking

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a method; see `Declaring.method`."""

    name: str | None = None
    delivery: DeliveryMode = "report"
    max_attempts: int = 3
    default: bool = False
    time_limit: float | None = None
    concurrency: int | None = None
    broadcast: bool = False
    resumable: bool = False


class Methods(dict[str, Method]):
    """The methods of a service, by name. As a decorator it makes the functions of a class methods.

    Example::

        @service.methods
        class Orders:
            def __init__(self, pool: Pool) -> None:
                self._pool = pool

            async def place(self, item: str, count: int = 1) -> int: ...

    One instance serves all calls of a worker. It is made after the service's lifespan was entered, which yields what
    the constructor takes, found by type. Methods are the functions in the body of the class whose names do not begin
    with an underscore, static ones too; inherited ones are not. ``@service.method(...)`` in the body gives one options.
    """

    def __init__(self, service: str, errors: dict[str, type[Exception]]) -> None:
        super().__init__()
        self._service = service
        self._errors = errors
        self._of_classes: dict[Callable[..., Any], Options] = {}  # declared in the body of a class that is not yet
        self._stubs: dict[str, Method] = {}
        self.provisions = Provisions(service)
        self.default: Method | None = None

    def __call__(self, cls: C, /) -> C:
        """Declare a class.

        Raises:
            TypeError: no class; a method that cannot be called remotely; a constructor that needs what is not there.
            ValueError: no methods, or a name that is taken.
        """
        if not isinstance(cls, type):
            raise TypeError(f"{self._service}: {cls!r} is not a class; for a function say @service.method")
        functions = [*self._functions(cls)]
        if not functions:
            raise ValueError(
                f"{self._service}: class {cls.__qualname__} has no public methods of its own: declare"
                " functions in its body"
            )
        self.provisions.add_class(f"{self._service}: {cls.__qualname__}()", cls)
        for function, options in functions:
            self._add(function, options, None if isinstance(function, staticmethod) else cls)
        return cls

    def _functions(self, cls: type) -> Iterator[tuple[Any, Options]]:
        for name, value in vars(cls).items():
            options = self._of_classes.pop(value, None) if inspect.isfunction(value) else None
            if options is not None:
                yield value, options
            elif not name.startswith("_") and self._is_new(value):
                yield value, Options()

    def _is_new(self, value: object) -> bool:
        """Whether it is a function, and not one that ``@service.method`` has declared already, as it has no `self`."""
        function = value.__func__ if isinstance(value, staticmethod) else value
        declared = any(method.declared is function for method in self.values())
        return (inspect.isfunction(function) or isinstance(value, classmethod)) and not declared

    def declare(self, function: Any, options: Options) -> None:
        """Declare a function; one that takes `self` waits for its class.

        Raises:
            TypeError, ValueError: as for `Service.method`.
        """
        if _takes_self(function):
            self._of_classes[function] = options
        else:
            self._add(function, options, None)

    def declare_stub(self, function: Any, options: Options) -> None:
        """Declare what callers see of a method that is implemented elsewhere.

        Raises:
            TypeError, ValueError: as for `Service.method`; or it needs more than its arguments.
        """
        method, needs = self._make(function, options, None)
        if needs:
            raise TypeError(
                f"{method.full_name}: what an implementation needs is no part of a stub; leave it out there"
            )
        self._refuse_second(method)
        mark(method)
        self._stubs[method.name] = method

    def implement(self, stub: Callable[..., Any], function: Any) -> None:
        """Declare the implementation of a stub.

        Raises:
            TypeError: it does not fit, or there is no such stub here.
            ValueError: the stub is implemented already.
        """
        of = method_of(stub, otherwise="with @service.stub")
        if self._stubs.get(of.name) is not of:
            raise TypeError(f"{of.full_name} is not a stub of service {self._service!r}: declare it with @service.stub")
        if of.name in self:
            raise ValueError(f"{of.full_name} is implemented already, by {self[of.name].declared!r}: leave one out")
        options = Options(
            of.name,
            of.delivery,
            of.max_attempts,
            of.default,
            of.time_limit,
            of.concurrency,
            of.broadcast,
            of.resumable,
        )
        self._add(function, options, None, stub=of)

    def check(self) -> None:
        """Whether they can be served.

        Raises:
            TypeError: a method of a class that was not declared.
            ValueError: there are no methods, or stubs without an implementation.
        """
        for function in self._of_classes:
            raise TypeError(
                f"{self._service}: {function.__qualname__} takes `self`, and its class is not part of the service:"
                " decorate the class with @service.methods, or declare a plain function or a static method"
            )
        missing = sorted(self._stubs.keys() - self.keys())
        if missing:
            raise ValueError(
                f"service {self._service!r} has stubs without an implementation: {', '.join(missing)}; import the"
                " module that has them, declared with @service.implement"
            )
        if not self:
            raise ValueError(f"service {self._service!r} has no methods: decorate functions with @service.method")

    def _make(self, function: Any, options: Options, owner: type | None) -> tuple[Method, list[Need]]:
        name = name_of(self._service, function) if options.name is None else options.name
        where = f"{self._service}.{name}"
        plain = plain_function(where, function)
        taken, stream = taking(where, plain, owner), streamed(where, plain)
        runs = plain if stream is None else stream.function
        if taken is not None:
            runs = taken.wrap(where, runs, streams=stream is not None)
        needs = self.provisions.needs(where, runs, owner)
        handler = self.provisions.handler(where, runs, needs)
        given = asdict(options) | {"name": name}
        resumable = given.pop("resumable")
        method = make_method(self._service, handler, errors=self._errors, declared=plain, **given)
        for kind in (stream, taken):
            method = method if kind is None else kind.describe(method)
        _check_resumable(method, resumable)
        return replace(method, resumable=resumable), needs

    def _add(self, function: Any, options: Options, owner: type | None, stub: Method | None = None) -> None:
        method, needs = self._make(function, options, owner)
        if stub is None:
            self._refuse_second(method)
        else:
            check_fit(stub, method)
        mark(method)
        self[method.name] = method
        self.provisions.want(method.full_name, needs)
        if method.default:
            self.default = method

    def _refuse_second(self, method: Method) -> None:
        if method.name in self or method.name in self._stubs:
            raise ValueError(f"{method.full_name} is declared twice: give one of the functions another name")
        before = [known for known in (*self.values(), *self._stubs.values()) if known.default and method.default]
        if before:
            raise ValueError(
                f"{self._service} has two default methods: {before[0].name} and {method.name}: leave default out of one"
            )


def _check_resumable(method: Method, resumable: bool) -> None:
    checks.flag("resumable", resumable)
    if resumable and not method.streams:
        raise TypeError(f"{method.full_name} yields no items that another run could go on with: leave resumable out")
    if resumable and method.delivery != "at-least-once":
        raise TypeError(
            f"{method.full_name}: it is not run again where a worker is lost, so nothing goes on: declare it"
            " at-least-once, or leave resumable out"
        )


def _takes_self(function: Any) -> bool:
    if not inspect.isfunction(function) or not is_of_a_class(function):
        return False
    return next(iter(inspect.signature(function).parameters), None) == "self"


def remote(cls: type[T], /) -> T:
    """A class that was declared with ``@service.methods``, as type checkers have to see it to call its methods.

    ``client.call(Orders.place, "tea")`` works, but a type checker misses `self`; it checks
    ``client.call(remote(Orders).place, "tea")``, which is the same.
    """
    return cast("T", cls)
