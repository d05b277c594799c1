"""How signatures are written in messages: ``place(item: str, qty: int = 1)``. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args, get_origin

_LONGEST = 300  # characters of a signature
_LONGEST_DEFAULT = 40
_SHORT = frozenset({type(None), bool, int, float, str})
# Quoted text stays, for `Literal['a.b']`; other dotted names lose their modules.
_DOTTED = re.compile(r"""('[^']*'|"[^"]*")|(?:\w+\.|<locals>\.)+(?=\w)""")
# Inside a type: all but its first part, as far as brackets go that have none within.
_ANNOTATED = re.compile(r"Annotated\[([^\[\],]+(?:\[[^\[\]]*\])?), [^\[\]]*\]")


class _Text:
    """What `inspect.Signature` writes as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def signature_of(name: str, parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]) -> str:
    """The call of a method: its arguments as they travel, without modules, constraints and long defaults."""
    plain = [
        parameter.replace(
            annotation=_Text(_type(hints[parameter.name])) if parameter.name in hints else parameter.empty,
            default=parameter.empty if parameter.default is parameter.empty else _Text(_default(parameter.default)),
        )
        for parameter in parameters
    ]
    text = f"{name}{inspect.Signature(plain)}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def returns_of(hints: Mapping[str, Any]) -> str:
    """The type of a method's result, written in the same way; empty where there is none."""
    if "return" not in hints:
        return ""
    text = _type(hints["return"])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _type(hint: Any) -> str:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if hint is type(None):
        return "None"
    text = _DOTTED.sub(lambda found: found[1] or "", inspect.formatannotation(hint))
    return _ANNOTATED.sub(r"\1", text)


def _default(value: object) -> str:
    text = repr(value) if type(value) in _SHORT else "…"
    return text if len(text) <= _LONGEST_DEFAULT else "…"
