"""`AsyncClient.gather` and `AsyncClient.broadcast`: a request to every instance of a service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast, overload

from warren.client.base import BaseClient
from warren.client.core import ClientCore
from warren.client.gathering import Answer, AskedOfAll, Gathering, Told

P = ParamSpec("P")
R = TypeVar("R")


class AsyncGather(BaseClient):
    """What an `AsyncClient` asks of all instances."""

    @overload
    def gather(
        self, target: str, /, *args: Any, returns: type[R], **kwargs: Any
    ) -> AsyncGenerator[Answer[R], None]: ...
    @overload
    def gather(self, target: str, /, *args: Any, **kwargs: Any) -> AsyncGenerator[Answer[Any], None]: ...
    @overload
    def gather(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[Answer[R], None]: ...
    @overload
    def gather(
        self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncGenerator[Answer[R], None]: ...
    def gather(
        self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Answer[Any], None]:
        """Ask every running instance of a service, and have their answers as they come.

        Instances first say that they are there, for at least 0.3 s; each that does gets a call of its own, and ends in
        an `Answer`. It is over when all of them have ended, and as many were heard as ``options(expect=…)`` says, or
        else as the broker counts; or when the timeout is. Then one `Answer` without an instance stands for each that
        is missing: it was sent nothing. Not known of are instances that have no connection, or serve with
        ``control=None`` and take no requests. Where the iteration ends early, what is under way is given up.

        Args:
            target: a function declared with ``@service.method(broadcast=True)``, or ``"service.method"``.
            *args, **kwargs: as for `call`; at most 256 KiB.

        Raises:
            CallError: here, what cannot be sent; while iterating, that nobody is there, or that the broker does not
                let this client ask. What an instance's call ends in is in its `Answer`.
            TypeError: a method that does not allow it; arguments that do not fit.
        """
        asked = self._asked_of_all("gather", target, args, kwargs)
        return _answers(cast("Any", self)._shared.core, asked)

    @overload
    async def broadcast(self, target: str, /, *args: Any, **kwargs: Any) -> Told: ...
    @overload
    async def broadcast(self, target: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Told: ...
    async def broadcast(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Told:
        """Tell every running instance of a service, and wait until all have done it; see `gather`.

        Raises:
            CallError: nobody is there, or the broker does not let this client ask.
            TypeError: as for `gather`.
        """
        asked = self._asked_of_all("broadcast", target, args, kwargs)
        return Told([answer async for answer in _answers(cast("Any", self)._shared.core, asked)])


async def _answers(core: Callable[[], ClientCore], asked: AskedOfAll) -> AsyncGenerator[Answer[Any], None]:
    gathering = Gathering(core(), asked, asked.options.deadline())
    try:
        while (answer := await gathering.next()) is not None:
            yield answer
    finally:
        gathering.close()
