"""Pipelines: each stage's result is the next one's argument, and goes from worker to worker.

To callers a pipeline is a method: with the arguments of its first stage, and the result of its last. So how calls are
written, read and ended knows little of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from warren.amqp.frames import Properties
from warren.client.fitting import check_fits
from warren.client.options import CONTENT_TYPES, Options, resends
from warren.client.requests import Own, Target
from warren.errors import CallError
from warren.protocol import evidence
from warren.protocol.signature import Method, method_of
from warren.protocol.slip import MARK, MOST_STAGES, Slip, Stage, queue_of, slip_fields, slip_of

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class Pipeline(Generic[P, R]):
    """Stages, each of which takes what the one before it returns::

        thumbnails = Pipeline(images.fetch).then(images.resize).then(store.put)
        key = await client.call(thumbnails, "https://…")

    Each worker hands its result over to the next stage itself, and lets its own request go once the broker has
    confirmed that: nothing passes through the caller, who gets the last result, or the first error. It is called like a
    method, with `call`, `cast`, `submit` and `map`. It never changes; `then` makes another one.
    """

    @overload
    def __init__(self: Pipeline[P, S], first: Callable[P, Coroutine[Any, Any, S]], /) -> None: ...
    @overload
    def __init__(self: Pipeline[P, S], first: Callable[P, S], /) -> None: ...
    def __init__(self, first: Callable[..., Any], /) -> None:
        """A pipeline of one stage, which may have any arguments.

        Args:
            first: a function declared with ``@service.method`` or ``@service.stub``.

        Raises:
            TypeError: it is no method, or one that yields.
        """
        self._set([_stage_method(first)])

    @overload
    def then(self, following: Callable[[R], Coroutine[Any, Any, S]], /) -> Pipeline[P, S]: ...
    @overload
    def then(self, following: Callable[[R], S], /) -> Pipeline[P, S]: ...
    def then(self, following: Callable[..., Any], /) -> Pipeline[Any, Any]:
        """The same with one more stage, which takes as its one argument what the last one returns.

        Raises:
            TypeError: it is no method, yields, needs other arguments, or its hint does not fit.
            ValueError: it is in there already, or there are more stages than 16, or their names are too long.
        """
        method = _stage_method(following)
        if method in self._methods:
            raise ValueError(
                f"{method.full_name} is in the pipeline twice, and both runs would have the same call_id: declare a"
                " second method"
            )
        check_fits(self._methods[-1], method)
        made = object.__new__(type(self))
        made._set([*self._methods, method])
        return made

    def _set(self, methods: list[Method]) -> None:
        if len(methods) > MOST_STAGES:
            raise ValueError(f"a pipeline has at most {MOST_STAGES} stages: make two of it")
        self._methods = methods
        self.names = tuple(method.full_name for method in methods)
        self.slip = slip_fields(Slip(tuple(map(Stage, self.names))))
        self.__warren_method__ = _joined(methods)

    def __repr__(self) -> str:
        return f"<Pipeline {shown(self.names)}>"

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the stages here, one after the other, without a broker: for tests."""
        value: Any = await _run(self._methods[0], *args, **kwargs)
        for method in self._methods[1:]:
            value = await _run(method, value)
        result: R = value
        return result


async def _run(method: Method, *args: Any, **kwargs: Any) -> Any:
    value = method.declared(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value


def _stage_method(function: Callable[..., Any]) -> Method:
    method = method_of(function)
    if method.streams:
        raise TypeError(f"{method.full_name} yields items, and a stage has one result: return a list")
    return method


def _joined(methods: list[Method]) -> Method:
    """All of them as one method. A lost connection sends it again only where each of them may run twice."""
    first, last = methods[0], methods[-1]
    errors = {name: kind for method in reversed(methods) for name, kind in method.errors.items()}
    twice = all(method.delivery == "at-least-once" for method in methods)
    return replace(
        first,
        delivery="at-least-once" if twice else "report",
        errors=errors,
        result_hint=last.result_hint,
        _result_decoders={},
    )


def shown(names: tuple[str, ...]) -> str:
    """What a pipeline is called."""
    return " > ".join(names)


def pipeline_target(
    pipeline: Pipeline[..., Any], options: Options, kind: Literal["call", "cast"], caller: str | None
) -> Target:
    """The target of a pipeline: its first stage's queue, with the slip among the headers."""
    method: Method = pipeline.__warren_method__
    return Target(
        kind,
        method.name + MARK,
        queue_of(method.full_name),
        shown(pipeline.names),
        CONTENT_TYPES[options.encoding],
        fail_fast=options.fail_fast and kind == "call",
        resend=resends(options, method),
        wait=options.wait,
        declared=method,
        own=Own(pipeline.slip, None, pipeline.slip),
        caller=caller,
        stages=pipeline.names,
    )


def place(error: CallError, target: Target) -> None:
    """Make an error of a pipeline name the stage that it says it is of, or claim nothing if it says none."""
    stage = error.stage
    if stage is None or not 0 < stage.number <= len(target.stages):
        error.stage = None
        evidence.of_some_stage(error)
        return
    name = target.stages[stage.number - 1]
    error.stage = stage._replace(name=name)
    error.locate(method=name, queue=queue_of(name), call_id=None)


def bounced_stage(p: Properties, target: Target) -> int | None:
    """The number of the stage whose request the broker gave back; None of what is no pipeline, or does not say."""
    slip = slip_of(p) if target.stages else None
    return None if slip is None or slip.at >= len(target.stages) else slip.at + 1
