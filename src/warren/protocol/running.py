"""The call that is being served here and now, as far as calls made inside it have to know.

It lives in a context variable, so that it follows a handler into its tasks. A leaf that both sides may import: the
server sets it, the clients read it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol


class Running(Protocol):
    """A call that is being served, or was: work that a handler started may outlive it."""

    @property
    def deadline(self) -> float | None:
        """When its caller stops waiting, in seconds of `time.monotonic`; None for no limit."""

    @property
    def ended(self) -> bool:
        """Whether its handler has ended: what it started and what goes on is bound by nothing of it any more."""

    @property
    def root_id(self) -> str | None:
        """The id of the call that all of this is done for; None where it is not known."""

    @property
    def service(self) -> str:
        """Whose handler it is."""

    def on_cancelled(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, in some thread, when its caller gives up; at once if it has. Returns what undoes that."""


_running: ContextVar[Running | None] = ContextVar("warren_running_call", default=None)

#: None outside a handler.
get_running = _running.get
set_running = _running.set
reset_running = _running.reset
