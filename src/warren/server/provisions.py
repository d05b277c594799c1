"""What a service provides to its methods: what its lifespan yields, instances of its classes, replacements in tests."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from warren.server.context import Scope
from warren.server.dependencies import (
    Handler,
    Need,
    Provider,
    make_provider,
    read_all,
    read_needs,
    types_in,
    walk,
    wrap,
)
from warren.server.lifespan import Lifespan, as_manager
from warren.server.supplies import finder, shown, yielded_type


class Provisions:
    """Those of one service. Declared with it; what is open while it is served is in the worker's `Scope`."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._lifespan: Lifespan | None = None
        self._state: Any = None  # the type that the lifespan says that it yields
        self._wanted: list[tuple[str, Any]] = []  # where which type is needed
        self._classes: dict[type, list[Need]] = {}
        self._providers: set[Any] = set()  # the functions that methods need
        self._overrides: Mapping[Any, Any] = {}

    # --- declaring ----------------------------------------------------------------------------------------------

    def set_lifespan(self, lifespan: Lifespan) -> None:
        """This is what the service keeps open.

        Raises:
            TypeError: it is no lifespan, or does not yield what methods need.
            ValueError: there is one.
        """
        if self._lifespan is not None:
            raise ValueError(f"service {self._service!r} has a lifespan already: open both in one")
        as_manager(lifespan)
        self._lifespan, self._state = lifespan, yielded_type(lifespan)
        for where, hint in self._wanted:
            self._check(where, hint)

    def needs(self, where: str, function: Callable[..., Any], owner: type | None = None) -> list[Need]:
        """What a method's function needs beside its arguments.

        Args:
            where: which method it is, for people.
            function: the method's.
            owner: the class whose instance is its first argument.

        Raises:
            TypeError: something that cannot be provided.
        """
        needs = read_needs(where, function)
        for hint in types_in(needs):
            self._check(where, hint)
        return needs if owner is None else [Need(next(iter(inspect.signature(function).parameters)), owner), *needs]

    def handler(self, where: str, function: Callable[..., Any], needs: list[Need]) -> Callable[..., Any]:
        """What to run for a method: its function itself, or with what it needs.

        Raises:
            TypeError: a ``def`` that needs what only an event loop can provide.
        """
        return wrap(Handler(where, function, needs, lambda: self._overrides), needs) if needs else function

    def want(self, where: str, needs: list[Need]) -> None:
        """A method that needs this is part of the service from now on."""
        self._wanted += [(where, hint) for hint in types_in(needs)]
        self._providers |= walk(needs, {}).keys()

    def add_class(self, where: str, cls: type) -> None:
        """Instances of this class are made once for each worker, from what the lifespan yields.

        Raises:
            TypeError: its constructor needs something else.
        """
        init: Callable[..., Any] = cls.__init__  # type: ignore[misc]  # it is only read
        needs = [] if init is object.__init__ else read_all(where, init, skip=1)
        if any(need.provider is not None or need.is_call for need in needs):
            raise TypeError(
                f"{where}: an instance serves many calls, so it cannot be made of what belongs to one: take"
                " that in the methods"
            )
        for need in needs:
            self._check(where, need.hint)
        self._classes[cls] = needs
        self.want(where, needs)

    def _check(self, where: str, hint: Any) -> None:
        if self._state is not None and hint not in self._classes:
            self._find(where, hint, self._state)

    def _find(self, where: str, hint: Any, state: Any) -> Callable[[Any], Any]:
        try:
            return finder(hint, state)
        except LookupError as error:
            raise TypeError(f"{where}: what the lifespan of service {self._service!r} yields: {error}") from None

    # --- being served -------------------------------------------------------------------------------------------

    def begin(self) -> AbstractAsyncContextManager[Any] | None:
        """The lifespan, to be entered."""
        lifespan = self._overrides.get(self._lifespan, self._lifespan)
        return None if lifespan is None else as_manager(lifespan)()

    def prepare(self, scope: Scope) -> None:
        """Find all that is needed by type, and make the instances of the classes.

        Raises:
            TypeError: something is not there, or more than once.
            Exception: what a constructor raises.
        """
        lifespan = self._overrides.get(self._lifespan, self._lifespan)
        declared = None if lifespan is None else yielded_type(lifespan)
        state = type(scope.state) if declared is None else declared
        for where, hint in (*self._wanted, *self._wanted_by_overrides()):
            if hint not in self._classes and hint not in self._overrides:
                self._require_lifespan(where, hint, lifespan)
                scope.supplies[hint] = self._find(where, hint, state)(scope.state)
        for cls, needs in self._classes.items():
            if cls not in self._overrides:
                scope.supplies[cls] = cls(**{need.name: self._supply(scope, need.hint) for need in needs})

    def _wanted_by_overrides(self) -> list[tuple[str, Any]]:
        providers = [provider for provider in self._overrides.values() if isinstance(provider, Provider)]
        return [("an override", hint) for provider in providers for hint in types_in(provider.needs)]

    def _require_lifespan(self, where: str, hint: Any, lifespan: Lifespan | None) -> None:
        if lifespan is None:
            raise TypeError(
                f"{where} needs {shown(hint)}, and service {self._service!r} has no lifespan that yields it:"
                " declare one with @service.lifespan"
            )

    def _supply(self, scope: Scope, hint: Any) -> Any:
        supplies = self._overrides if hint in self._overrides else scope.supplies
        if hint not in supplies:
            raise TypeError(f"class {shown(hint)} must be declared before the class that is made of it")
        return supplies[hint]

    # --- tests --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def override(self, what: Any, by: Any) -> Iterator[None]:
        """Provide something else meanwhile; see `Service.override`."""
        before = self._overrides
        self._overrides = {**before, what: self._replacement(what, by)}
        try:
            walk([Need("", None, Provider(function, ())) for function in self._providers], self._overrides)
            yield
        finally:
            kept = {key: value for key, value in self._overrides.items() if key is not what}
            self._overrides = {**kept, **({what: before[what]} if what in before else {})}

    def _replacement(self, what: Any, by: Any) -> Any:
        if what is not None and what is self._lifespan:
            as_manager(by)
            return by
        if what in self._providers:
            provider = make_provider(f"{self._service}: override", by)
            if provider.is_async and not Provider(what, ()).is_async:
                raise TypeError(f"{what!r} is a plain function, which a `def` may need: put a plain one in its place")
            return provider
        if what in self._classes or any(what == hint for _where, hint in self._wanted):
            return by
        raise ValueError(f"nothing in service {self._service!r} depends on {what!r}: name what a method needs")
