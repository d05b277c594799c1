"""`Client.gather` and `Client.broadcast`: a request to every instance of a service, from any thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar, cast, overload

from warren.client.base import BaseClient
from warren.client.core import ClientCore
from warren.client.gathering import Answer, AskedOfAll, Gathering, Told
from warren.client.io_thread import IOThread
from warren.client.outcomes import withdrawn
from warren.client.waiters import WaitingForTask, Withdrawal, result_of
from warren.errors import CallError

P = ParamSpec("P")
R = TypeVar("R")


class BlockingGather(BaseClient):
    """What a `Client` asks of all instances."""

    @overload
    def gather(
        self, target: str, /, *args: Any, returns: type[R], **kwargs: Any
    ) -> Generator[Answer[R], None, None]: ...
    @overload
    def gather(self, target: str, /, *args: Any, **kwargs: Any) -> Generator[Answer[Any], None, None]: ...
    @overload
    def gather(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Generator[Answer[R], None, None]: ...
    @overload
    def gather(
        self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Generator[Answer[R], None, None]: ...
    def gather(
        self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Generator[Answer[Any], None, None]:
        """Ask every running instance of a service, and have their answers as they come; see `AsyncClient.gather`.

        Raises:
            CallError: as for `AsyncClient.gather`.
            TypeError: as for `AsyncClient.gather`.
        """
        return _answers(cast("Any", self)._shared, self._asked_of_all("gather", target, args, kwargs))

    @overload
    def broadcast(self, target: str, /, *args: Any, **kwargs: Any) -> Told: ...
    @overload
    def broadcast(self, target: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Told: ...
    def broadcast(self, target: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Told:
        """Tell every running instance of a service, and wait until all have done it; see `AsyncClient.broadcast`.

        Raises:
            CallError, TypeError: as for `AsyncClient.broadcast`.
        """
        return Told(_answers(cast("Any", self)._shared, self._asked_of_all("broadcast", target, args, kwargs)))


def _answers(owner: Any, asked: AskedOfAll) -> Generator[Answer[Any], None, None]:
    """`owner` is kept until the end: what it owns must not end meanwhile."""
    io: IOThread = owner.io()
    deadline, running = asked.options.deadline(), asked.options.bound_to()
    held = _Held(asked, deadline)
    try:
        while True:
            step = _Step(held.next)
            outcome = io.take(step, Withdrawal(step), deadline, running)
            if step.withdrawn:
                raise withdrawn()
            answer = result_of(outcome)
            if answer is None:
                return
            yield answer
    finally:
        with contextlib.suppress(CallError):  # the client is closed, and all calls with it
            io.start(held)


class _Step(WaitingForTask):
    """A thread that waits for the next answer."""

    withdrawn = False

    def withdraw(self, core: ClientCore) -> None:
        """See `Withdrawal`."""
        self.withdrawn = True
        self.give_up(core)


class _Held:
    """A thread's gathering, in the I/O thread; as a request it gives it up (Request)."""

    given_up = False

    def __init__(self, asked: AskedOfAll, deadline: float) -> None:
        self._asked = asked
        self._deadline = deadline
        self._gathering: Gathering | None = None

    async def next(self, core: ClientCore) -> Answer[Any] | None:
        if self._gathering is None:
            self._gathering = Gathering(core, self._asked, self._deadline)
        return await self._gathering.next()

    def begin(self, core: ClientCore) -> None:
        """Give it up; see `Request`."""
        self.give_up(core)

    def give_up(self, core: ClientCore) -> None:
        """Nobody takes an answer any more."""
        if self._gathering is not None:
            self._gathering.close()

    def finish(self, outcome: Any) -> None:
        """Nobody waits for that."""
