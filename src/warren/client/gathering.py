"""Asking every instance of a service: who is there is found out first, and each of those then gets a call of its own.

So each answer, and what each failure proves, is that of an ordinary call; and whoever says nothing was sent nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from warren.client.awaited import AwaitedCall
from warren.client.chain import Chained, ClientMiddleware, retrieve
from warren.client.core import ClientCore
from warren.client.options import CONTENT_TYPES, Options
from warren.client.pipeline import Pipeline
from warren.client.requests import Own, Target
from warren.client.roll_call import consumers_of
from warren.client.target import encode_call, read_result, split_name, typed_decoder
from warren.client.waiters import result_of
from warren.connection.supervisor import closed_error
from warren.errors import CallError, Code
from warren.protocol import evidence, topology
from warren.protocol.control import MAX_QUESTION, to_instance
from warren.protocol.control import Answer as Heard
from warren.protocol.evidence import conclude
from warren.protocol.problems import in_words
from warren.protocol.request import root_field
from warren.protocol.running import get_running
from warren.protocol.signature import method_of
from warren.protocol.uploading import CALL, kind_of

R = TypeVar("R")

#: Seconds in which instances may say that they are there, at least: one whose event loop is blocked takes longer.
ROLL_CALL = 0.3
#: Seconds between two looks at whether those that have a request are still there.
_LOOK = 1.0
#: Seconds beyond the deadline that the broker gets to say who is there: with that it is known why nobody has answered.
_LAST_WORD = 1.0


class Answer(Generic[R]):
    """What one instance of a service has answered.

    Attributes:
        instance: its id, as tools show it; None for one that the broker counts, and that has not said that it is there.
        error: what its call ended in; None where there is a result.
    """

    __slots__ = ("_result", "error", "instance")

    def __init__(self, instance: str | None, result: R | None = None, error: Exception | None = None) -> None:
        self.instance = instance
        self.error = error
        self._result = result

    def __repr__(self) -> str:
        shown = f"error={self.error!r}" if self.error is not None else f"result={self._result!r}"
        return f"Answer(instance={self.instance!r}, {shown})"

    def result(self) -> R:
        """The result; raises what the call ended in where there is none."""
        if self.error is not None:
            raise self.error
        return cast("R", self._result)


class Told:
    """Which instances a broadcast has reached.

    Attributes:
        told: those whose handlers have ended well, by their ids.
        failed: what the calls of others ended in; `CallError.execution` says whether the handler may have run.
        silent: how many more the broker counts, that have not said that they are there: they were sent nothing.
    """

    __slots__ = ("failed", "silent", "told")

    def __init__(self, answers: Iterable[Answer[Any]]) -> None:
        self.told: list[str] = []
        self.failed: dict[str, Exception] = {}
        self.silent = 0
        for answer in answers:
            if answer.instance is None:
                self.silent += 1
            elif answer.error is None:
                self.told.append(answer.instance)
            else:
                self.failed[answer.instance] = answer.error

    def __repr__(self) -> str:
        return f"Told(told={self.told!r}, failed={self.failed!r}, silent={self.silent})"

    @property
    def all(self) -> bool:
        """Whether all that are known of were told. One that has lost its connection is not known of."""
        return not self.failed and not self.silent


class AskedOfAll:
    """A request to all instances that is not made yet, and how what comes of it is read."""

    def __init__(
        self,
        options: Options,
        errors: dict[str, type[Exception]],
        function: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        middleware: tuple[ClientMiddleware, ...] = (),
        verb: str = "gather",
    ) -> None:
        """Write it.

        Raises:
            CallError, TypeError, ValueError: it cannot be made; nothing was sent.
        """
        self.options = options
        self._errors = errors
        if isinstance(function, Pipeline):
            raise TypeError(
                f"{function!r} passes one result on: ask all instances of a method, and pass on each answer"
            )
        method = None if isinstance(function, str) else method_of(function)
        if method is not None and kind_of(method) is not CALL:
            kind = kind_of(method)
            raise TypeError(f"{method.full_name} {kind.shown}: call it with client.{kind.verb}")
        if method is not None and not method.broadcast:
            raise TypeError(
                f"{method.full_name} may not be asked of all instances at once: declare it with"
                " @service.method(broadcast=True)"
            )
        self._method = method
        self.name = str(function) if method is None else method.full_name
        self.service, _ = split_name(self.name)
        self._returns = Any if method is not None else kwargs.pop("returns", Any)
        running = get_running()
        root = b"" if running is None or running.root_id is None else root_field(running.root_id)
        own = options.own or Own()
        self._own = Own(own.headers + root, None, own.root + root, own.on_progress)
        self._caller = None if running is None or options.named else running.service
        target = self.target("")
        if self._returns is not Any:
            typed_decoder(target.content_type, self._returns)
        self.body = encode_call(target, args, kwargs, verb)
        self.check_size(self.body)
        self.middleware = middleware
        self.args, self.kwargs = (args, kwargs) if middleware else ((), {})
        self.context: Context | None = copy_context() if middleware else None

    def check_size(self, body: bytes) -> None:
        """Refuse (`CallError`) what control queues do not take."""
        if len(body) > MAX_QUESTION:
            why = f"the request has {len(body)} bytes: all instances are sent {MAX_QUESTION} at most; send less"
            raise self.failed(evidence.REQUEST_TOO_LARGE, why)

    def target(self, instance: str) -> Target:
        """Where the call of this instance goes."""
        target = Target(
            "call",
            self.name,
            topology.service_queue(self.service),
            self.name,
            CONTENT_TYPES[self.options.encoding],
            wait=self.options.wait,
            headers=self.options.headers,
            declared=self._method,
            returns=self._returns,
            own=self._own,
            caller=self._caller,
        )
        target.exchange, target.routing_key = topology.CONTROL_EXCHANGE.encode(), to_instance(instance).encode()
        target.trusting = False  # which is about the service's queue
        return target

    def begin(self, core: ClientCore, target: Target, deadline: float) -> _Begun:
        """Call one instance.

        Raises:
            CallError: it cannot even begin: nothing was sent.
        """
        if not self.middleware:
            call = AwaitedCall(core, target, self.body, deadline)
            return _Begun(call, lambda: call.call_id)
        chained = _ChainedToOne(self, target, deadline, self._errors)
        context = None if self.context is None else self.context.copy()
        task = core.tasks.spawn(chained.run_alone(core), context)
        task.add_done_callback(retrieve)
        return _Begun(task, lambda: chained.call.call_id)

    def answer(self, instance: str, target: Target, call: asyncio.Future[Any]) -> Answer[Any]:
        """What this instance's call has ended in."""
        try:
            outcome = result_of(call)
            return Answer(instance, outcome if self.middleware else read_result(outcome, target, self._errors))
        except Exception as error:
            if isinstance(error, CallError) and error.reason == evidence.NO_ROUTE.reason:
                error.message = "the instance has ended since it has said that it is there: it was not told"
            return Answer(instance, error=error)
        except BaseException as error:  # it would end the loop, and this instance would be missing
            failure = RuntimeError(f"the call has ended in {in_words(error)}: let middleware raise another exception")
            failure.__cause__ = error
            return Answer(instance, error=failure)

    def failed(self, ending: evidence.Ending, why: str, call_id: str | None = None) -> CallError:
        """The error that stands for an answer which does not come."""
        queue = topology.service_queue(self.service)
        return conclude(ending, why, method=self.name, queue=queue, call_id=call_id)


class _Begun(NamedTuple):
    """The call of one instance, and what tells its ``message_id`` while it is under way."""

    outcome: asyncio.Future[Any]
    call_id: Callable[[], str | None]


class _ChainedToOne(Chained):
    """The call of one instance through a client's middleware."""

    __slots__ = ("_asked",)

    def __init__(self, asked: AskedOfAll, target: Target, deadline: float, errors: dict[str, type[Exception]]) -> None:
        super().__init__(asked.middleware, target, asked.args, dict(asked.kwargs), deadline, errors)
        self.call.method = asked.name.removeprefix(f"{asked.service}.")
        self._asked = asked

    def _written(self) -> tuple[Target, bytes]:
        target, body = super()._written()
        self._asked.check_size(body)
        return target, body


class Gathering:
    """One request to all instances, under way on the event loop."""

    def __init__(self, core: ClientCore, asked: AskedOfAll, deadline: float) -> None:
        """Begin it; it ends at `deadline`."""
        self._core = core
        self._asked = asked
        self._deadline = deadline
        self._expect = asked.options.expect
        self._calls: dict[str, _Begun] = {}
        self._ready: deque[Answer[Any]] = deque()
        self._changed = asyncio.Event()
        self._heard = self._taking = self._counted = 0
        self._listens, self._waited, self._over = True, False, False
        self._failure: CallError | None = None
        self._tasks = [core.tasks.spawn(self._listen())]

    async def next(self) -> Answer[Any] | None:
        """What comes next; None at the end.

        Raises:
            CallError: nobody is there, or it cannot be found out who is.
        """
        while not self._ready and not self._over:
            if not self._calls and (not self._listens or self._enough):
                self._end()
            else:
                self._changed.clear()
                await self._changed.wait()
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Give up what is under way."""
        self._over = True
        for task in self._tasks:
            task.cancel()
        for call in self._calls.values():
            call.outcome.cancel()
        self._calls.clear()
        self._ready.clear()
        self._changed.set()

    @property
    def _enough(self) -> bool:
        """Whether all that are known of were heard."""
        if self._expect is not None:
            return self._heard >= self._expect
        return self._waited and self._heard > 0 and self._counted <= self._taking

    def _end(self) -> None:
        """All that were heard have answered, and nobody else is waited for."""
        in_time = time.monotonic() < self._deadline
        missing = self._counted - self._taking if self._expect is None else self._expect - self._heard
        asked = self._asked
        self.close()
        if self._failure is not None:
            raise self._failure
        if not self._heard and missing <= 0:
            if in_time:
                why = f"no process that serves {asked.service!r} can be asked: start one, or check the name"
                raise asked.failed(evidence.NO_ROUTE, why)
            missing = 1
        why = "an instance has not said in time that it is there, and was sent nothing: look at its event loop"
        self._ready.extend(Answer(None, error=asked.failed(evidence.NO_ANSWER, why)) for _ in range(missing))

    # --- who is there -------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            await self._connected()
            self._tasks.append(self._core.tasks.spawn(self._watch()))
            left = max(0.0, self._deadline - time.monotonic())
            async with asyncio.timeout(left + _LAST_WORD):
                await self._hear_all(left)
        except TimeoutError:  # the broker says nothing: nobody is known of then
            pass
        except CallError as error:
            self._failure = error
        except asyncio.CancelledError:  # with the client
            self._failure = closed_error()
            raise
        finally:
            self._listens = False
            self._changed.set()

    async def _hear_all(self, left: float) -> None:
        async for heard in self._core.roll.heard(self._asked.service, left):
            self._hear(heard)
            if self._expect is not None and self._enough:
                break
        if not self._heard:  # nobody is there, or nobody lets itself be asked
            self._counted = await self._core.roll.counted(topology.service_queue(self._asked.service))

    async def _connected(self) -> None:
        """Wait for the connection, as calls do."""
        failure = self._asked.failed(evidence.NOT_CONNECTED, "no connection to the broker in time: allow more")
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                while True:
                    try:
                        await self._core.connected()
                    except CallError as error:
                        if self._asked.options.fail_fast or error.code is not Code.UNAVAILABLE:
                            raise
                        failure = error
                        await asyncio.sleep(ROLL_CALL)
                    else:
                        return
        except TimeoutError:
            raise failure from None

    def _hear(self, heard: Heard) -> None:
        """An instance is there: ask it."""
        self._heard += 1
        self._taking += consumers_of(heard, self._asked.service)
        instance, asked = heard.instance, self._asked
        target = asked.target(instance)
        try:
            call = asked.begin(self._core, target, self._deadline)
        except CallError as error:
            self._ready.append(Answer(instance, error=error))
        else:
            self._calls[instance] = call
            call.outcome.add_done_callback(partial(self._ended, instance, target))
        self._changed.set()

    def _ended(self, instance: str, target: Target, outcome: asyncio.Future[Any]) -> None:
        call = self._calls.get(instance)
        if call is not None and call.outcome is outcome:
            del self._calls[instance]
            self._ready.append(self._asked.answer(instance, target, outcome))
            self._changed.set()

    # --- who is still there -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        with contextlib.suppress(CallError):  # which whoever listens is told, too
            await self._look_again_and_again()

    async def _look_again_and_again(self) -> None:
        queue, roll = topology.service_queue(self._asked.service), self._core.roll
        self._counted = await roll.counted(queue)
        await asyncio.sleep(ROLL_CALL)
        self._waited = True
        self._changed.set()
        while True:
            await asyncio.sleep(_LOOK)
            for instance in list(self._calls):
                if await roll.is_gone(instance):
                    self._lose(instance)
            if self._counted > self._taking:
                self._counted = await roll.counted(queue)
                self._changed.set()

    def _lose(self, instance: str) -> None:
        call = self._calls.get(instance)
        if call is not None and not call.outcome.done():
            del self._calls[instance]
            call_id = call.call_id()
            call.outcome.cancel()
            why = "the instance had the request, and is gone: look what it has done before you repeat it"
            self._ready.append(Answer(instance, error=self._asked.failed(evidence.INSTANCE_LOST, why, call_id)))
            self._changed.set()
