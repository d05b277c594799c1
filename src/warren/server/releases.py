"""Whether this worker has got rid of the requests that it has put elsewhere, and what waits for that.

A copy is safe before its original is acknowledged, and the ack may still be lost with the connection or the process.
If this worker then begins the copy, or another request that kills it, both come back: a request that kills its workers
would multiply. So a request that is suspected, as earlier attempts at it were lost, begins only when every ack behind
a copy has been proven to be at the broker, by an answer on the same channel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed, LinkLost
from warren.logs import get_logger
from warren.server.copies import Copies

T = TypeVar("T")

log = get_logger("warren.server")

#: Seconds that a suspected request waits at most for copies that the broker does not confirm. For acks it waits longer:
#: they are proven, or their channel goes, and then the request goes with it.
_SUSPICION = 5.0
#: Seconds until a proof that could not be asked for is asked for again.
_PAUSE = 0.5


class Releases(Generic[T]):
    """The originals of copies whose acks are not proven yet, and the suspected requests that wait meanwhile."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._proofs: set[asyncio.Task[None]] = set()
        self._suspected: dict[T, float] = {}  # with the time until which they wait for copies, in order
        self._timer: asyncio.TimerHandle | None = None
        self.on_clean: Callable[[T], None] | None = None
        copies.on_change = self._look

    @property
    def clean(self) -> bool:
        """Whether nothing that was put elsewhere can still come back by itself."""
        return not self._proofs and not len(self._copies)

    def prove(self, channel: HotChannel) -> None:
        """Find out when the acks that were given on this channel have arrived; to be called right behind them."""
        proof = asyncio.get_running_loop().create_task(self._prove(channel))
        self._proofs.add(proof)
        proof.add_done_callback(self._proven)

    async def _prove(self, channel: HotChannel) -> None:
        # A channel that is gone has taken its deliveries along: they come back, or their acks had arrived.
        while channel.closed is None:
            try:
                await channel.settled()
            except (ChannelClosed, LinkLost):
                return
            except Exception:  # which proves nothing
                log.exception("whether an ack has arrived cannot be asked; asking again")
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _proven(self, proof: asyncio.Task[None]) -> None:
        self._proofs.discard(proof)
        self._look()

    # --- what waits ---------------------------------------------------------------------------------------------

    def wait(self, attempt: T) -> None:
        """Give this attempt to `on_clean` when there is nothing to be afraid of any more."""
        self._suspected[attempt] = time.monotonic() + _SUSPICION
        self._look()

    @property
    def waiting(self) -> list[T]:
        """Those that wait."""
        return list(self._suspected)

    def withdraw(self, attempt: T) -> None:
        """This attempt waits no more, if it does."""
        self._suspected.pop(attempt, None)

    def give_up_waiting(self) -> list[T]:
        """Take out those that wait."""
        suspected, self._suspected = list(self._suspected), {}
        return suspected

    def _look(self) -> None:
        now = time.monotonic()
        while self._suspected and not self._proofs:
            attempt, patience = next(iter(self._suspected.items()))
            if len(self._copies) and now < patience:
                self._look_at(patience - now)
                return
            del self._suspected[attempt]
            if self.on_clean is not None:
                self.on_clean(attempt)

    def _look_at(self, pause: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause, self._look)

    def close(self) -> None:
        """Stop asking, and let nothing begin any more."""
        self._suspected.clear()
        if self._timer is not None:
            self._timer.cancel()
        for proof in self._proofs:
            proof.cancel()
