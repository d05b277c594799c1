"""An event loop that turns once at a time, on a clock that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Clock:
    """Stands for the module `time`, where code under test reads it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_700_000_000


class SteppedLoop(asyncio.SelectorEventLoop):
    """Turns when it is told to; what callbacks raise is kept in `errors`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.errors: list[BaseException] = []
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        return self._clock.now

    def _keep(self, _loop: object, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    def turn(self, action: Callable[[], object] | None = None) -> None:
        """One turn: what is ready, then `action`; what that one raises is raised here."""
        raised: list[BaseException] = []

        def act() -> None:
            try:
                if action is not None:
                    action()
            except BaseException as error:
                raised.append(error)

        self.call_soon(act)
        self.call_soon(self.stop)
        self.run_forever()
        if raised:
            raise raised[0]

    @property
    def ready(self) -> int:
        """Callbacks that wait for the next turn."""
        return len(self._ready)  # type: ignore[attr-defined]

    def settle(self, turns: int = 200) -> None:
        """Turn until nothing is ready any more."""
        for _ in range(turns):
            if not self.ready:
                return
            self.turn()
        raise AssertionError(f"still busy after {turns} turns")
