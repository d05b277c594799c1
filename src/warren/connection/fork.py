"""What a forked child does with the connections of its parent: it lets go of them, without a word to the broker.

They belong to the parent, and their locks may be held by threads that the child does not have. A fork made by Python is
noticed at once; one made in C runs no hook, and is noticed by the process id when the child opens a connection.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar


class Disownable(Protocol):
    """Something of the parent's."""

    def disown(self) -> None:
        """Let go of it; called in the child."""


class Belonging:
    """Stands for an object of a compiled class, and is kept by it: those cannot be referred to weakly.

    Attributes:
        disown: lets go of it; called in the child.
    """

    def __init__(self, disown: Callable[[], None]) -> None:
        self.disown = disown


_Thing = TypeVar("_Thing", bound=Disownable)


class _Belongings:
    """What belongs to this process."""

    def __init__(self) -> None:
        self._things: weakref.WeakSet[Disownable] = weakref.WeakSet()
        self._process = os.getpid()

    def add(self, thing: _Thing) -> _Thing:
        if self._process != os.getpid():
            self.disown()
        self._things.add(thing)
        return thing

    def disown(self) -> None:
        self._process = os.getpid()
        for thing in list(self._things):
            thing.disown()


_belongings = _Belongings()

#: ``disown_in_children(thing)``: from now on, until it is collected, forked children let go of this. Returns it.
disown_in_children = _belongings.add

if sys.platform != "win32":  # where nothing forks
    os.register_at_fork(after_in_child=_belongings.disown)
