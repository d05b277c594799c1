"""Whether an implementation fits the stub that callers see: the same arguments, defaults and types, and result."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from inspect import Parameter
from typing import Any

from warren.protocol.signature import Method
from warren.server.supplies import shown


def check_fit(stub: Method, own: Method) -> None:
    """Compare what travels; what is provided to the implementation does not.

    Raises:
        TypeError: they differ; it says in what, and shows both.
    """
    differences = [*_differences(stub, own)]
    if differences:
        raise TypeError(
            f"{stub.full_name}: the implementation does not fit its stub: {'; '.join(differences)}."
            f" Stub: {_signature(stub)}. Implementation: {_signature(own)}"
        )


def _differences(stub: Method, own: Method) -> Iterator[str]:
    wanted, given = _parameters(stub), _parameters(own)
    yield from (f"{name!r} is missing" for name in wanted if name not in given)
    yield from (f"{name!r} is not in the stub" for name in given if name not in wanted)
    for name in (name for name in wanted if name in given):
        yield from _of_parameter(name, wanted[name], given[name])
        if stub.hints[name] != own.hints[name]:
            yield f"{name!r} is {_hint(own.hints[name])}, not {_hint(stub.hints[name])}"
    if wanted.keys() == given.keys() and stub.positional != own.positional and {*stub.positional} == {*own.positional}:
        yield "the order differs"
    if stub.result_hint != own.result_hint:
        yield f"the result is {_hint(own.result_hint)}, not {_hint(stub.result_hint)}"
    if stub.streams != own.streams:
        yield "only one of the two is a stream"
    elif stub.item_hint != own.item_hint:
        yield f"the items are {_hint(own.item_hint)}, not {_hint(stub.item_hint)}"
    if stub.takes != own.takes:
        yield "only one of the two takes items"
    elif stub.taken_hint != own.taken_hint:
        yield f"the items that it takes are {_hint(own.taken_hint)}, not {_hint(stub.taken_hint)}"


def _of_parameter(name: str, wanted: Parameter, given: Parameter) -> Iterator[str]:
    if wanted.kind != given.kind:
        yield f"{name!r} is {given.kind.description}, not {wanted.kind.description}"
    if not _same(wanted.default, given.default):
        yield f"{name!r} has {_default(given)}, not {_default(wanted)}"


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))


def _default(parameter: Parameter) -> str:
    return "no default" if parameter.default is Parameter.empty else f"the default {parameter.default!r}"


def _parameters(method: Method) -> dict[str, Parameter]:
    return dict(inspect.signature(method.function).parameters)


def _hint(hint: Any) -> str:
    return "of any type" if hint is Any else f"of type {shown(hint)}"


def _signature(method: Method) -> str:
    signature = inspect.signature(method.function)
    parameters = [p.replace(annotation=Shown(method.hints[p.name])) for p in signature.parameters.values()]
    return f"{method.name}{signature.replace(parameters=parameters, return_annotation=Shown(method.result_hint))}"


class Shown:
    """An annotation as people write it."""

    def __init__(self, hint: Any) -> None:
        self._hint = hint

    def __repr__(self) -> str:
        return shown(self._hint)
