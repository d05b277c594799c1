"""What a task waits for when it makes a call."""

from __future__ import annotations

import asyncio
from typing import Any

from warren.client.calls import PendingCall
from warren.client.core import ClientCore
from warren.client.requests import Target


class AwaitedCall(asyncio.Future[Any]):
    """A call's outcome, whatever it is; a task that is cancelled while it waits for it gives the call up."""

    __slots__ = ("_call", "_core")

    def __init__(self, core: ClientCore, target: Target, body: bytes, deadline: float) -> None:
        """Start the call, as `ClientCore.start` does."""
        super().__init__(loop=core.loop)
        self._core = core
        self._call: PendingCall | None = None
        self._call = core.start(target, body, deadline, self)

    @property
    def call_id(self) -> str | None:
        """The ``message_id``; None when the call has ended."""
        return None if self._call is None else self._call.first_id.decode()

    def finish(self, outcome: Any) -> None:
        self._call = None  # which knows us: no cycle is left for the garbage collector
        if not self.done():
            self.set_result(outcome)

    def cancel(self, msg: Any = None) -> bool:
        call, self._call = self._call, None
        if call is not None:
            self._core.cancel(call)
        return super().cancel(msg)
