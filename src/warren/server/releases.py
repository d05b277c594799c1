"""Whether this worker has got rid of the requests that it has put elsewhere.

A copy is safe before its original is acknowledged, and the ack may still be lost with the connection or the process.
If this worker then begins the copy, or another request that kills it, both come back: a request that kills its workers
would multiply. So a request that is suspected, as earlier attempts at it were lost, begins only when every ack behind
a copy has been proven to be at the broker, by an answer on the same channel.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed, LinkLost
from warren.server.copies import Copies


class Releases:
    """The originals of copies whose acks are not proven yet."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._proofs: set[asyncio.Task[None]] = set()
        self.on_clean: Callable[[], None] | None = None
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
        with contextlib.suppress(ChannelClosed, LinkLost):
            await channel.settled()

    def _proven(self, proof: asyncio.Task[None]) -> None:
        self._proofs.discard(proof)
        if not proof.cancelled():
            proof.exception()  # seen: an unexpected one must not be reported as forgotten
        self._look()

    def _look(self) -> None:
        if self.clean and self.on_clean is not None:
            self.on_clean()

    def close(self) -> None:
        """Stop asking."""
        for proof in self._proofs:
            proof.cancel()
