"""Pipelines: each stage's result is the next one's argument, and goes from worker to worker.

To callers a pipeline is a method: with the arguments of its first stage, and the result of its last. So how calls are
written, read and ended knows little of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar, overload

from warren.amqp.frames import Properties
from warren.client.fitting import check_fits
from warren.client.options import CONTENT_TYPES, Options, resends
from warren.client.requests import Stages, Target
from warren.errors import CallError
from warren.protocol import evidence
from warren.protocol.signature import Method, method_of
from warren.protocol.slip import MARK, MOST_STAGES, Slip, Stage, lean_fields, queue_of, slip_fields, slip_of

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class _Made(NamedTuple):
    """A stage, and what undoes it."""

    method: Method
    undo: Method | None

    @property
    def written(self) -> Stage:
        """It, as it stands on a slip."""
        return Stage(self.method.full_name, None if self.undo is None else self.undo.full_name)


class Pipeline(Generic[P, R]):
    """Stages, each of which takes what the one before it returns::

        thumbnails = Pipeline(images.fetch).then(images.resize).then(store.put)
        key = await client.call(thumbnails, "https://…")

    Each worker hands its result over to the next stage itself, and lets its own request go once the broker has
    that: nothing passes through the caller, who gets the last result, or the first error. It is called like a
    method, with `call`, `cast`, `submit` and `map`. It never changes; `then` makes another one.
    """

    @overload
    def __init__(
        self: Pipeline[P, S],
        first: Callable[P, Coroutine[Any, Any, S]],
        /,
        *,
        undo: Callable[[S], Any] | None = None,
    ) -> None: ...
    @overload
    def __init__(self: Pipeline[P, S], first: Callable[P, S], /, *, undo: Callable[[S], Any] | None = None) -> None: ...
    def __init__(self, first: Callable[..., Any], /, *, undo: Callable[..., Any] | None = None) -> None:
        """A pipeline of one stage, which may have any arguments.

        Args:
            first: a function declared with ``@service.method`` or ``@service.stub``.
            undo: as for `then`.

        Raises:
            TypeError, ValueError: as for `then`.
        """
        self._set([_made_stage(first, undo)])

    @overload
    def then(
        self, following: Callable[[R], Coroutine[Any, Any, S]], /, *, undo: Callable[[S], Any] | None = None
    ) -> Pipeline[P, S]: ...
    @overload
    def then(self, following: Callable[[R], S], /, *, undo: Callable[[S], Any] | None = None) -> Pipeline[P, S]: ...
    def then(self, following: Callable[..., Any], /, *, undo: Callable[..., Any] | None = None) -> Pipeline[Any, Any]:
        """The same with one more stage, which takes as its one argument what the last one returns.

        Args:
            following: a function declared with ``@service.method`` or ``@service.stub``.
            undo: what undoes this stage when a later one fails for good: an ``at-least-once`` method that takes what
                the stage returned. It is cast, with the last stage first, before anybody is told of the failure. The
                results that are kept for it, the names of all stages, and what undoes them have 1,960 bytes together.

        Raises:
            TypeError: it is no method, yields, needs other arguments, or its hint does not fit.
            ValueError: it is in there already; there are more stages than 16, or their names are too long; or what has
                to be undone might get lost, as something is not ``at-least-once``, or is ``at-most-once``.
        """
        stage = _made_stage(following, undo)
        if any(stage.method is one.method for one in self._stages):
            raise ValueError(
                f"{stage.method.full_name} is in the pipeline twice, and both runs would have the same call_id: declare"
                " a second method"
            )
        check_fits(self._stages[-1].method, stage.method)
        made = object.__new__(type(self))
        made._set([*self._stages, stage])
        return made

    def _set(self, stages: list[_Made]) -> None:
        if len(stages) > MOST_STAGES:
            raise ValueError(f"a pipeline has at most {MOST_STAGES} stages: make two of it")
        _check_undone(stages)
        self._stages = stages
        self.names = tuple(stage.method.full_name for stage in stages)
        slip = Slip(tuple(stage.written for stage in stages))
        queues = tuple(dict.fromkeys(map(queue_of, self.names)))
        self.stages = Stages(self.names, queues, slip_fields(slip), lean_fields(slip))
        self._undoes = any(stage.undo is not None for stage in stages)
        self.__warren_method__ = _joined([stage.method for stage in stages])

    def __repr__(self) -> str:
        return f"<Pipeline {shown(self.names)}>"

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the functions of the stages here, one after the other, without a broker: for tests.

        They get what any function gets that is called: no `current_call`, no middleware, nothing that is provided,
        and no check of what goes from one to the next. A stub has nothing to run.
        """
        value: Any = await _run(self._stages[0].method, *args, **kwargs)
        for stage in self._stages[1:]:
            value = await _run(stage.method, value)
        result: R = value
        return result


async def _run(method: Method, *args: Any, **kwargs: Any) -> Any:
    value = method.declared(*args, **kwargs)
    return await value if inspect.isawaitable(value) else value


def _made_stage(function: Callable[..., Any], undo: Callable[..., Any] | None) -> _Made:
    method = _stage_method(function)
    if undo is None:
        return _Made(method, None)
    undoing = _stage_method(undo)
    check_fits(method, undoing)
    if undoing.delivery != "at-least-once":
        raise ValueError(
            f"{undoing.full_name} undoes {method.full_name} and is {undoing.delivery}, so it may be lost with its"
            " worker: declare it at-least-once"
        )
    return _Made(method, undoing)


def _check_undone(stages: list[_Made]) -> None:
    """What is taken off its queue before it runs is lost with its worker, and with it what was to be undone."""
    first = next((at for at, stage in enumerate(stages) if stage.undo is not None), len(stages))
    for stage in stages[first:]:
        if stage.method.delivery == "at-most-once":
            raise ValueError(
                f"{stage.method.full_name} is at-most-once: with its worker, what has to be undone would be lost;"
                " declare it report or at-least-once, or leave undo out"
            )


def _stage_method(function: Callable[..., Any]) -> Method:
    if isinstance(function, str):
        raise TypeError(
            f"{function!r} is a name, and a stage is a function: import it, or declare it with @service.stub"
        )
    if isinstance(function, (list, tuple, Pipeline)):
        raise TypeError(f"{function!r} is several stages: give one after the other, Pipeline(first).then(second)")
    method = method_of(function, otherwise="with @service.stub")
    if method.streams:
        raise TypeError(f"{method.full_name} yields items, and a stage has one result: return a list")
    if method.takes:
        raise TypeError(f"{method.full_name} takes items, and a stage gets one result: take a list")
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
    """The target of a pipeline: its first stage's queue, with the slip among the headers.

    One with something to undo is not sent again: of two, one might fail and undo what the other one builds on.

    Raises:
        ValueError: that is wanted all the same.
    """
    method: Method = pipeline.__warren_method__
    if options.resend and pipeline._undoes:
        raise ValueError(
            f"resend=True: what one run of {shown(pipeline.names)} undoes another one may have done; say"
            " options(resend=False), and look what has become of it before you repeat it"
        )
    return Target(
        kind,
        method.name + MARK,
        queue_of(method.full_name),
        shown(pipeline.names),
        CONTENT_TYPES[options.encoding],
        fail_fast=options.fail_fast and kind == "call",
        resend=resends(options, method) and not pipeline._undoes,
        wait=options.wait,
        declared=method,
        caller=caller,
        stages=pipeline.stages,
    )


def place(error: CallError, target: Target) -> None:
    """Make an error of a pipeline name the stage that it says it is of, or claim nothing if it says none."""
    stage, names = error.stage, () if target.stages is None else target.stages.names
    if stage is None or not 0 < stage.number <= len(names):
        error.stage = None
        evidence.of_some_stage(error)
        return
    name = names[stage.number - 1]
    error.stage = stage._replace(name=name)
    error.locate(method=name, queue=queue_of(name), call_id=None)


def bounced_stage(p: Properties, target: Target) -> int | None:
    """The number of the stage whose request the broker gave back; None of what is no pipeline, or does not say."""
    if target.stages is None:
        return None
    slip = slip_of(p)
    return None if slip is None or slip.at >= len(target.stages.names) else slip.at + 1
