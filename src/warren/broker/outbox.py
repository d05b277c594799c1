"""What is to be written to a client, and whether it reads that. Pure."""

from __future__ import annotations

from collections.abc import Callable

from warren.broker.state import State
from warren.broker.timers import Alarms


class Outbox:
    """The output of one connection that its socket has not taken.

    Attributes:
        congested: the socket takes no more.
        sent_at: when something was written last.
    """

    def __init__(self, state: State, alarms: Alarms, backlog: Callable[[], int], cut_off: Callable[[], None]) -> None:
        """`backlog` tells how many bytes the socket has taken and not got rid of; `cut_off` ends the connection."""
        self.congested = False
        self.sent_at = state.timers.now
        self._state = state
        self._alarms = alarms
        self._backlog = backlog
        self._cut_off = cut_off
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._stuck_at, self._stuck = 0.0, 0  # since when it takes no more, and how many bytes waited then

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def full(self) -> bool:
        """The client does not read what it is sent."""
        return self.congested or self._bytes >= self._state.settings.buffer_limit

    def add(self, data: bytes) -> None:
        """Keep bytes until `take`."""
        self._pieces.append(data)
        self._bytes += len(data)

    def take(self) -> bytes:
        """What is to be written now."""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._bytes = 0
        return data

    def drop_after(self, count: int) -> None:
        """Forget all pieces but the first ones."""
        del self._pieces[count:]

    def congest(self) -> None:
        """The socket takes no more."""
        self.congested = True
        self._watch()

    def relieve(self) -> None:
        """The socket takes more again."""
        self.congested = False
        self._alarms.cancel(self._check)

    def skip(self, seconds: float) -> None:
        """The clock is about to be set forward."""
        self.sent_at += seconds
        self._stuck_at += seconds

    def _watch(self) -> None:
        self._stuck_at, self._stuck = self._state.timers.now, self._backlog()
        self._alarms.at(self._stuck_at + self._state.settings.send_timeout, self._check)

    def _check(self) -> None:
        """Cut off a client that reads nothing: for RabbitMQ heartbeats do not make up for it."""
        due = self._stuck_at + self._state.settings.send_timeout
        if due > self._state.timers.now:
            self._alarms.at(due, self._check)
        elif self._backlog() < self._stuck:
            self._watch()
        else:
            self._cut_off()
