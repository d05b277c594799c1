"""One question to running processes, and what all of them said: answers, refusals, and what could not be read."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from warren.checks import nearest
from warren.control.asking import Asking
from warren.errors import CallError, Code
from warren.operate import told
from warren.protocol.control import TO_ALL, Answer, to_service

T = TypeVar("T", bound=msgspec.Struct)

#: Characters of a complaint that are shown: its text is a peer's.
_MOST_TEXT = 500


@dataclass
class Told(Generic[T]):
    """What was said, by instance.

    Attributes:
        said: what could be read.
        after: seconds after which each was heard.
        refused: why others did not say it: an older version, or not allowed.
        unreadable: what is wrong with answers that make no sense, and with how many.
        strange: the instances that gave them, where they said who they are.
    """

    said: dict[str, T] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    refused: dict[str, CallError] = field(default_factory=dict)
    unreadable: Counter[str] = field(default_factory=Counter)
    strange: set[str] = field(default_factory=set)

    @property
    def heard(self) -> set[str]:
        """The instances that have answered, whatever they said."""
        return {*self.said, *self.refused, *self.strange}

    @property
    def forbidden(self) -> bool:
        """Whether somebody does not allow it, or does not know it."""
        return any(error.code in (Code.PERMISSION_DENIED, Code.UNIMPLEMENTED) for error in self.refused.values())

    def texts(self) -> list[str]:
        """What to tell of each that did not answer as asked."""
        return [*(error.message for error in self.refused.values()), *self.unreadable.elements()]

    def complaints(self) -> list[str]:
        """What to tell of those that did not answer as asked, alike ones together."""
        return [f"{_processes(count)}: {text[:_MOST_TEXT]}" for text, count in Counter(self.texts()).items()]

    def hear(self, verb: str, kind: type[T], answer: Answer, after: float) -> None:
        """Read what one process has said to a verb, `after` so many seconds."""
        try:
            if answer.trouble:
                raise ValueError(answer.trouble)
            if answer.instance in self.said or answer.instance in self.refused:
                raise ValueError(
                    "it is not the first answer, and only that one counts: look what else answers in its name"
                )
            if answer.error is not None:
                self.refused[answer.instance] = answer.error
            else:
                self.said[answer.instance] = told.read(kind, answer.body)
                self.after[answer.instance] = after
        except ValueError as error:
            self.unreadable[f"what it says to {verb!r} makes no sense: {error}"[:_MOST_TEXT]] += 1
            if answer.instance:
                self.strange.add(answer.instance)


def _processes(number: int) -> str:
    return f"{number} process{'' if number == 1 else 'es'}"


async def ask(
    asking: Asking,
    verb: str,
    key: str,
    kind: type[T],
    *,
    patience: float,
    body: Mapping[str, Any] | None = None,
    first: bool = False,
) -> Told[T]:
    """Ask, and read what is said.

    Args:
        asking: with what.
        verb, key, body, patience, first: as for `Asking.ask`.
        kind: what an answer is.

    Raises:
        CallError: the connection is lost, or the broker does not let us ask.
    """
    began, all_ = time.monotonic(), Told[T]()
    async for answer in asking.ask(verb, key, dict(body or {}), patience=patience, first=first):
        all_.hear(verb, kind, answer, time.monotonic() - began)
    all_.said = dict(sorted(all_.said.items()))
    return all_


def joined(several: Iterable[Told[T]]) -> Told[T]:
    """What was said to several questions, each of other processes."""
    all_ = Told[T]()
    for one in several:
        for whole, part in zip(_answers(all_), _answers(one), strict=True):
            whole |= part
    return all_


def _answers(of: Told[T]) -> tuple[dict[str, Any], ...]:
    return of.said, of.after, of.refused, of.unreadable


async def services(asking: Asking, patience: float) -> dict[str, list[str]]:
    """The services that answer, each with its instances."""
    return services_of((await ask(asking, "ping", TO_ALL, told.Process, patience=patience)).said)


def services_of(processes: Mapping[str, told.Process]) -> dict[str, list[str]]:
    """The services of these processes, each with its instances."""
    found: dict[str, list[str]] = {}
    for instance, process in processes.items():
        for name in process.services:
            found.setdefault(name, []).append(instance)
    return dict(sorted(found.items()))


async def near(asking: Asking, service: str, patience: float) -> str | None:
    """The service that was meant by a name to which nobody answers."""
    return nearest(service, await services(asking, patience))


async def info(asking: Asking, name: str, patience: float) -> tuple[str, str | None, Told[told.Info]]:
    """What is said of ``service`` or ``service.method``: a dot may stand in either."""
    service, _, method = name.rpartition(".")
    asked = [ask(asking, "info", to_service(name), told.Info, patience=patience)]
    if service and method:
        asked.append(ask(asking, "info", to_service(service), told.Info, patience=patience))
    whole, *part = await asyncio.gather(*asked)
    if part and not whole.said and part[0].said:
        return service, method, part[0]
    return name, None, whole


def newest(name: str, infos: Mapping[str, told.Info]) -> tuple[told.ServiceInfo | None, int]:
    """A service as the process that was started last declares it, and how many others declare it otherwise."""
    by_start = sorted(infos.values(), key=lambda info: info.started)
    declared = [service for info in by_start if (service := info.service(name)) is not None]
    return (declared[-1], sum(other != declared[-1] for other in declared)) if declared else (None, 0)
