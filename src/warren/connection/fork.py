"""What a forked child does with the connections of its parent: it lets go of them, without a word to the broker.

They belong to the parent, and their locks may be held by threads that the child does not have.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Disownable(Protocol):
    """Something of the parent's."""

    def disown(self) -> None:
        """Let go of it; called in the child."""


_belongings: weakref.WeakSet[Disownable] = weakref.WeakSet()


def disown_in_children(thing: Disownable) -> None:
    """From now on, until it is collected, forked children let go of this."""
    _belongings.add(thing)


def _disown_all() -> None:
    for thing in list(_belongings):
        thing.disown()


os.register_at_fork(after_in_child=_disown_all)
