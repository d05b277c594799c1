"""What a handler needs beside its arguments: found by type in what the lifespan yielded, or made for each call.

What is needed is read from a function's signature when it is declared. A method that needs something gets a handler of
its own around its function, with the arguments that travel as its signature; so runners and workers know nothing of
this, and a method that needs nothing pays nothing.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar, get_origin, overload

from warren.protocol.signature import hints_of, is_async, is_awaitable
from warren.server.context import CurrentCall, current_call, enter, prepare, scope_of

T = TypeVar("T")
Parameter = inspect.Parameter


class _Provided:
    """The default that marks a parameter as a dependency."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = function

    def __repr__(self) -> str:
        return f"provided({'' if self._function is None else _name(self._function)})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for these, to see what kind of thing it is
            raise AttributeError(name)
        raise TypeError(
            f"{self!r} was not given: pass it when you call the function yourself, for example f(1, db=fake)"
        )


@overload
def provided() -> Any: ...
@overload
def provided(function: Callable[..., AsyncGenerator[T, Any]], /) -> T: ...
@overload
def provided(function: Callable[..., Generator[T, Any, Any]], /) -> T: ...
@overload
def provided(function: Callable[..., AsyncIterator[T]], /) -> T: ...
@overload
def provided(function: Callable[..., Iterator[T]], /) -> T: ...
@overload
def provided(function: Callable[..., Coroutine[Any, Any, T]], /) -> T: ...
@overload
def provided(function: Callable[..., T], /) -> T: ...
def provided(function: Callable[..., Any] | None = None, /) -> Any:
    """The default of a parameter that is no argument: the service provides it.

    ``db: Pool = provided()`` is found by type in what the service's lifespan yielded; ``call: CurrentCall =
    provided()`` is the call. ``user: User = provided(get_user)`` is what the function returns, or yields: it is called
    once for each call, before the handler, and its own parameters are provided in turn.

    Raises:
        TypeError: what cannot be called for it.
    """
    if function is not None and (not callable(function) or isinstance(function, type)):
        raise TypeError(f"provided({function!r}): give it a function that returns or yields what is needed")
    return _Provided(function)


@dataclass(frozen=True, slots=True, eq=False)
class Need:
    """One parameter that is provided: by a function, or found by its type."""

    name: str
    hint: Any
    provider: Provider | None = None

    @property
    def is_call(self) -> bool:
        return _is_call(self.hint)


class Provider:
    """A function that makes what a handler needs, once for each call.

    Attributes:
        needs: what it needs itself.
        is_async: whether it needs the event loop, and what `open` returns is still to be awaited.
    """

    __slots__ = ("_manager", "function", "is_async", "needs")

    def __init__(self, function: Callable[..., Any], needs: tuple[Need, ...]) -> None:
        on_loop = inspect.isasyncgenfunction(function)
        self.function = function
        self.needs = needs
        self.is_async = on_loop or is_async(function)
        self._manager: Callable[..., Any] | None = None
        if on_loop or inspect.isgeneratorfunction(function):
            self._manager = (contextlib.asynccontextmanager if on_loop else contextlib.contextmanager)(function)

    def open(self, stack: AsyncExitStack | ExitStack, values: dict[str, Any]) -> Any:
        """Call it; what it yields is left with the stack."""
        if self._manager is None:
            return self.function(**values)
        if self.is_async:
            assert isinstance(stack, AsyncExitStack)
            return stack.enter_async_context(self._manager(**values))
        return stack.enter_context(self._manager(**values))

    def left_it(self, value: Any) -> bool:
        """Whether the function, like a ``lambda`` around an ``async def``, returned a coroutine. What else can be
        awaited may be the very thing that is needed, like a pool of connections.
        """
        return self._manager is None and isinstance(value, Coroutine)

    def checked(self, value: Any, why_not: str) -> Any:
        """What the function has made.

        Raises:
            TypeError: it is still to be made: a coroutine, because of `why_not`, or a generator.
        """
        if self.left_it(value):
            what = f"a coroutine, {why_not}"
        elif self._manager is None and isinstance(value, Generator | AsyncGenerator):
            what = "a generator, which nobody runs: give provided() the generator function itself"
        else:
            return value
        if not isinstance(value, AsyncGenerator):
            value.close()  # else Python warns that it was never awaited
        raise TypeError(f"{_name(self.function)}, given to provided(), returned {what}")


def read_needs(where: str, function: Callable[..., Any]) -> list[Need]:
    """What a method's function needs beside its arguments.

    Raises:
        TypeError: a dependency without a type, or one that cannot be provided.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # declared by who says more about it
        return []
    hints = hints_of(where, function)
    return [
        _need(where, parameter, hints)
        for parameter in parameters
        if isinstance(parameter.default, _Provided) or _is_call(hints.get(parameter.name))
    ]


def read_all(where: str, function: Callable[..., Any], *, skip: int = 0) -> list[Need]:
    """The same of a function without other arguments: what has no default is needed. `skip`: leave out the first."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except ValueError as error:  # of some that are written in C
        raise TypeError(f"{where}: {error}; wrap it in a plain function") from error
    hints = hints_of(where, function)
    needs = []
    for parameter in parameters:
        if parameter.kind not in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            raise TypeError(f"{where}: {parameter} cannot be provided: give each parameter a name and a type")
        if parameter.default is Parameter.empty or isinstance(parameter.default, _Provided):
            needs.append(_need(where, parameter, hints))
    return needs


def _need(where: str, parameter: Parameter, hints: Mapping[str, Any]) -> Need:
    hint = hints.get(parameter.name)
    function = getattr(parameter.default, "_function", None) if isinstance(parameter.default, _Provided) else None
    if function is not None:
        return Need(parameter.name, hint, make_provider(f"{where}: {_name(function)}", function))
    if hint is None:
        raise TypeError(
            f"{where}: say of which type {parameter.name!r} is, so that it can be found: {parameter.name}: …"
        )
    try:
        hash(hint)
    except TypeError:
        raise TypeError(f"{where}: {parameter.name!r}: {hint} is no type that can be looked up: take a class") from None
    return Need(parameter.name, hint)


def make_provider(where: str, function: Callable[..., Any]) -> Provider:
    """A provider that calls a function.

    Raises:
        TypeError: a parameter of it cannot be provided.
    """
    return Provider(function, tuple(read_all(where, function)))


def walk(needs: list[Need] | tuple[Need, ...], overrides: Mapping[Any, Any]) -> dict[Any, Provider]:
    """The providers to call for these needs, in order, by the functions that were asked for.

    Raises:
        TypeError: one needs itself, as it was replaced by one that needs it.
    """
    found: dict[Any, Provider] = {}
    _walk(needs, overrides, found, ())
    return found


def _walk(
    needs: list[Need] | tuple[Need, ...], overrides: Mapping[Any, Any], found: dict[Any, Provider], on_the_way: Any
) -> None:
    for asked in (need.provider for need in needs if need.provider is not None):
        if asked.function in on_the_way:
            raise TypeError(
                f"{_name(asked.function)} is replaced by a function that needs it: take one that does without"
            )
        if asked.function not in found:
            provider = overrides.get(asked.function, asked)
            _walk(provider.needs, overrides, found, (*on_the_way, asked.function))
            found[asked.function] = provider


def types_in(needs: list[Need] | tuple[Need, ...]) -> list[Any]:
    """The types that have to be found for these needs, those of providers included."""
    every = [*needs, *(need for provider in walk(needs, {}).values() for need in provider.needs)]
    return [need.hint for need in every if need.provider is None and not need.is_call]


class Handler:
    """A method's function with what it needs."""

    def __init__(
        self, where: str, function: Callable[..., Any], needs: list[Need], overrides: Callable[[], Mapping[Any, Any]]
    ) -> None:
        """`overrides` tells what is provided by others at present.

        Raises:
            TypeError: a ``def`` that needs what only an event loop can provide.
        """
        self.function = function
        # A stream has begun when its way to the caller is open, and notes that itself.
        self._enter = _leave_it if hasattr(function, "enters_itself") else enter
        self._needs = needs
        self._overrides = overrides
        self._walked: tuple[Mapping[Any, Any], dict[Any, Provider]] = ({}, walk(needs, {}))
        names = {need.name for need in needs}
        positional = [p for p in inspect.signature(function).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        self._slots = [p.name if p.name in names else None for p in positional]
        if not is_async(function):
            self._refuse_async(where)

    def _refuse_async(self, where: str) -> None:
        for asked, provider in self._walked[1].items():
            if provider.is_async:
                raise TypeError(
                    f"{where} is a `def`, which runs in a thread, and {_name(asked)} needs the event loop: make the"
                    " method `async def`, or the function it needs a plain one"
                )

    def _providers(self) -> dict[Any, Provider]:
        overrides = self._overrides()
        if overrides is not self._walked[0]:
            self._walked = (overrides, walk(self._needs, overrides))
        return self._walked[1]

    def _values(self, call: CurrentCall[Any], needs: list[Need] | tuple[Need, ...], made: Mapping[Any, Any]) -> Any:
        return {need.name: self._value(call, need, made) for need in needs}

    def _value(self, call: CurrentCall[Any], need: Need, made: Mapping[Any, Any]) -> Any:
        if need.provider is not None:
            return made[need.provider.function]
        if need.is_call:
            return call
        overrides = self._overrides()
        supplies = overrides if need.hint in overrides else scope_of(call).supplies
        if need.hint not in supplies:
            raise LookupError(
                f"{need.name}: {need.hint!r} was replaced when the service started, and now it is not: keep"
                " it replaced while that serves"
            )
        return supplies[need.hint]

    def _given(
        self, call: CurrentCall[Any], args: tuple[Any, ...], made: Mapping[Any, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """All that the function gets by position and by name, beside the caller's named arguments."""
        values = self._values(call, self._needs, made)
        sent = iter(args)
        return [next(sent) if name is None else values.pop(name) for name in self._slots], values

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Provide, call, and clean up, in a thread."""
        call, providers, made = current_call(), self._providers(), dict[Any, Any]()
        prepare(call)
        if not providers:
            arguments, values = self._given(call, args, made)
            self._enter(call)
            return self.function(*arguments, **kwargs, **values)
        failure: BaseException
        with ExitStack() as stack:
            try:
                for asked, provider in providers.items():
                    value = provider.open(stack, self._values(call, provider.needs, made))
                    made[asked] = provider.checked(value, "and a `def` runs in a thread: make both `async def`")
                arguments, values = self._given(call, args, made)
                self._enter(call)
                return _finished(self.function(*arguments, **kwargs, **values))
            except BaseException as error:
                failure = error
                raise
        raise failure  # what was provided has swallowed it, and there is no result

    async def run_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same on the event loop."""
        call, providers, made = current_call(), self._providers(), dict[Any, Any]()
        prepare(call)
        if not providers:
            arguments, values = self._given(call, args, made)
            self._enter(call)
            return await self.function(*arguments, **kwargs, **values)
        failure: BaseException
        async with AsyncExitStack() as stack:
            try:
                for asked, provider in providers.items():
                    value = provider.open(stack, self._values(call, provider.needs, made))
                    if provider.is_async or provider.left_it(value):
                        value = await value
                    made[asked] = provider.checked(value, "which nobody awaits: await it in there")
                arguments, values = self._given(call, args, made)
                self._enter(call)
                return await self.function(*arguments, **kwargs, **values)
            except BaseException as error:
                failure = error
                raise
        raise failure


def _leave_it(_call: CurrentCall[Any]) -> None:
    """The function notes itself that it begins."""


def _finished(value: Any) -> Any:
    if is_awaitable(value):
        raise TypeError(
            "a `def` method returned what is still to be awaited, and what was provided ends before that: make it"
            " `async def`"
        )
    return value


def wrap(handler: Handler, needs: list[Need]) -> Callable[..., Any]:
    """A function like a method's own, without the parameters that are provided."""
    function = handler.function

    async def run_async(*args: Any, **kwargs: Any) -> Any:
        return await handler.run_async(args, kwargs)

    def run_plain(*args: Any, **kwargs: Any) -> Any:
        return handler.run(args, kwargs)

    run: Any = run_async if is_async(function) else run_plain
    functools.update_wrapper(run, function)
    del run.__wrapped__  # whose signature this is not
    names = {need.name for need in needs}
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in names]
    run.__signature__ = signature.replace(parameters=parameters)
    run.__annotations__ = {n: h for n, h in hints_of(_name(function), function).items() if n not in names}
    handler_function: Callable[..., Any] = run
    return handler_function


def _is_call(hint: Any) -> bool:
    return hint is CurrentCall or get_origin(hint) is CurrentCall


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
