"""The registered errors of services as classes, written: what stubs raise. Pure.

What a peer says of one is its name, its text and its nearest base that anybody has: only checked names, and literals,
get into what is written.
"""

from __future__ import annotations

import builtins

from warren import errors
from warren.operate.hints import name_of
from warren.operate.told import ErrorInfo
from warren.printable import printable

_PLAIN = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
#: Bases that are Warren's own, and have to be imported.
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.CallError)}


class Errors:
    """The errors of several services; those that are the same share a class, so that one ``except`` catches both."""

    def __init__(self, taken: set[str]) -> None:
        """`taken`: names that are others' already; those of the errors come to them."""
        self._taken = taken
        self._names: dict[ErrorInfo, str] = {}
        self._written: dict[str, str] = {}

    def add(self, told: list[ErrorInfo]) -> list[str]:
        """The names of the classes of one service's errors, which are written from now on."""
        left = list(dict.fromkeys(told))
        while left:  # bases first
            waiting = {one.name for one in left}
            ready = [one for one in left if one.base not in waiting - {one.name}] or left
            for one in ready:
                self._add(one, told)
            left = [one for one in left if one not in ready]
        return [self._names[one] for one in dict.fromkeys(told)]

    def _add(self, one: ErrorInfo, among: list[ErrorInfo]) -> None:
        if one in self._names:
            return
        name = name_of(one.name)
        while name in self._taken | _PLAIN | OURS:
            name += "_"
        self._taken.add(name)
        self._names[one] = name
        self._written[name] = _class(one, name, self._base(one, among))

    def _base(self, one: ErrorInfo, among: list[ErrorInfo]) -> str:
        bases = [other for other in among if other.name == one.base and other != one]
        own = next((self._names[base] for base in bases if base in self._names), None)
        return own or (one.base if one.base in _PLAIN | OURS else "Exception")

    def classes(self) -> list[str]:
        """What is to be written, bases first."""
        return list(self._written.values())


def _class(one: ErrorInfo, name: str, base: str) -> str:
    text = printable((one.doc or "").strip().partition("\n")[0]).replace("\\", "\\\\").replace('"', '\\"')
    lines = [f"class {name}({base}):", f'    """{text or "Raised by the service."}"""']
    if name != one.name:  # it is known by its own name when it comes
        lines += ["", "", f"{name}.__name__ = {one.name!r}"]
    return "\n".join(lines)
