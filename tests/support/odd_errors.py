"""Exceptions that are hard to tell of: each class is somebody's mistake, or somebody's joke."""

from __future__ import annotations

import asyncio
from typing import Any

from warren import Unavailable


class Bare(BaseException):
    """No `Exception`."""


class NoText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class NoArguments(Exception):
    args = property(lambda self: 1 / 0)


class _Liar(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyError("no name")

    def __instancecheck__(cls, instance: object) -> bool:
        raise LookupError("no answer")


class Lying(Exception, metaclass=_Liar):
    pass


class NoClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class NoTraceback(Exception):
    __traceback__ = property(lambda self: 1 / 0)
    __cause__ = property(lambda self: 1 / 0)


class NoCause(Exception):
    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise SystemExit(4)


class OddCode(Unavailable):
    def __init__(self) -> None:
        super().__init__("away")
        self.code = "MAINTENANCE"  # type: ignore[assignment]
        self.reason = object()  # type: ignore[assignment]


#: By names of ours: even the name of a class may fail.
ODD: dict[str, type[BaseException]] = {
    "ValueError": ValueError,
    "Bare": Bare,
    "SystemExit": SystemExit,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "StopAsyncIteration": StopAsyncIteration,
    "RecursionError": RecursionError,
    "NoText": NoText,
    "NoArguments": NoArguments,
    "Lying": Lying,
    "NoClass": NoClass,
    "NoTraceback": NoTraceback,
    "NoCause": NoCause,
    "OddCode": OddCode,
}


class Unwritable:
    """A result that no encoding takes, and that says so in its own way."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def model_dump(self, **_options: Any) -> Any:
        raise self._kind

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise self._kind
