"""All that a worker has in hand: what runs, what waits for a place or a proof, what is kept while it drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from warren.protocol.signature import Method
from warren.server.attempt import Attempt
from warren.server.cutoffs import CutOffs
from warren.server.places import Places
from warren.server.releases import Releases

#: Handlers that had to wait and may begin in one turn of the event loop: some 2 ms of our own work.
_STARTS = 100


class Holding:
    """Where a worker's attempts are.

    Attributes:
        kept: what is not begun while it drains; it is handed back in the end.
    """

    def __init__(
        self,
        places: Places[Attempt],
        releases: Releases[Attempt],
        patience: CutOffs,
        take_turn: Callable[[Attempt], None],
    ) -> None:
        """`patience` watches over the time of those that wait for a place; `take_turn` starts one, and never raises."""
        self._places = places
        self._releases = releases
        releases.on_clean = take_turn
        self._patience = patience
        self._take_turn = take_turn
        self._starting = False
        self.kept: list[Attempt] = []

    def __iter__(self) -> Iterator[Attempt]:
        yield from (*self._places.taken, *self._places.waiting(), *self._releases.waiting, *self.kept)

    def runs(self, attempt: Attempt) -> bool:
        """Whether code of it runs."""
        return attempt in self._places.taken

    @property
    def taken(self) -> list[Attempt]:
        """Those of which code runs; from any thread."""
        return [*self._places.taken]

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._places.taken)

    @property
    def waiting(self) -> int:
        """How many wait, for whatever reason."""
        return self._places.waits + len(self._releases.waiting) + len(self.kept)

    def start_waiting(self) -> None:
        """Start those that can begin, some in each turn of the loop: each may end at once and make room for another."""
        if self._starting:  # one that was started below has ended at once: its place is given away there
            return
        self._starting = True
        try:
            for _ in range(_STARTS):
                if (waiting := self._places.next()) is None:
                    return
                self._start(waiting)
        finally:
            self._starting = False
        asyncio.get_running_loop().call_soon(self.start_waiting)

    def _start(self, waiting: Attempt) -> None:
        self._patience.forget(waiting)
        if waiting.earlier and not self._releases.clean:  # it was when it began to wait
            self._places.leave(waiting)
            self._releases.wait(waiting)
        else:
            self._take_turn(waiting)

    def withdraw(self, attempt: Attempt) -> None:
        """It waits for nothing more, if it does."""
        self._releases.withdraw(attempt)
        if self._places.withdraw(attempt):
            self._patience.forget(attempt)

    def give_up_waiting(self) -> list[Attempt]:
        """Take out those that wait for a place or a proof."""
        self._patience.clear()
        return [*self._places.give_up_waiting(), *self._releases.give_up_waiting()]

    def keep(self, attempt: Attempt, method: Method, left: float | None, now: float) -> None:
        """Keep a request of this method, with these seconds left, until it is handed back."""
        attempt.method = method
        attempt.deadline = None if left is None else now + left
        self.kept.append(attempt)

    def lose(self) -> list[Attempt]:
        """Forget what does not run, and will be delivered again; returns what will not."""
        lost = [*self.give_up_waiting(), *self.take_kept()]
        return [attempt for attempt in lost if attempt.acked]

    def take_kept(self) -> list[Attempt]:
        """Take out what is kept."""
        kept, self.kept = self.kept, []
        return kept
