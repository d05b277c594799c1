"""What a program may ask of the server that it runs."""

from __future__ import annotations

from typing import Any

from warren.server.lifecycle import Lifecycle
from warren.server.looking import Looking


class Observable:
    """A server as a probe or a page of the same program sees it."""

    _life: Lifecycle
    _looking: Looking

    def health(self) -> dict[str, Any]:
        """Whether requests are being consumed, for a probe of your program's; from any thread.

        Returns:
            ``healthy``: it serves, is connected, and consumes the requests of all its services. ``state``: ``idle``,
            ``starting``, ``serving`` or ``draining``. ``checks``: ``connection``, and ``consuming`` by service.

        Raises:
            TimeoutError: the event loop has not answered in a second: something blocks it.
        """
        return self._life.ask(self._looking.health)

    def statistics(self) -> dict[str, Any]:
        """What it has done and does, by service and method, as the control verb ``stats`` tells it; from any thread.

        Raises:
            TimeoutError: as for `health`.
        """
        return self._life.ask(self._looking.stats)
