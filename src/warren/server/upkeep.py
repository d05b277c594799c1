"""Exchanges, queues and bindings: declared on each link before anything is consumed, and looked after from then on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from warren.connection.declare import declare_exchanges
from warren.connection.errors import ChannelClosed, ConnectFailed, LinkLost
from warren.connection.explainer import Spawn
from warren.connection.link import Link
from warren.control.answering import Answering
from warren.logs import get_logger
from warren.server.post import Post
from warren.server.repair import Repair

log = get_logger("warren.server")

#: Seconds between two looks at whether exchanges, queues and bindings are all there.
INTERVAL = 30.0
#: And at least between those at the process's own queues, as items wait for what comes through them.
PAUSE = 5.0


class Upkeep:
    """What a server's services need at the broker.

    Nothing tells a server that its exchange was deleted, and the bindings with it: its queue and consumer stay, and no
    request reaches them any more. So all of it is declared again from time to time, and sooner where items wait.

    Attributes:
        link: the link that is served on; None without one.
        answering: the control queue; None where there shall be none.
    """

    def __init__(self, posts: Sequence[Post], spawn: Spawn, answering: Answering | None = None) -> None:
        """`spawn` runs what has to be done in the background, for as long as the server is served."""
        self.link: Link | None = None
        self.answering = answering
        self._posts = posts
        self._spawn = spawn
        self._looks_again = 0.0
        for post in posts:
            post.streams.on_still = post.uploads.on_still = self._on_still
        self._may_declare = True
        if answering is not None:
            answering.on_broken = Repair(spawn, answering.look_after).wanted

    async def declare(self, link: Link) -> None:
        """Declare everything on a new link.

        Raises:
            ConnectFailed: the broker has something else of that name.
            ChannelClosed, LinkLost: the link, or its channel, is gone.
        """
        allowed = await declare_exchanges(link)
        for post in self._posts:
            allowed &= await post.declare(link)
        self._may_declare = allowed

    async def run(self) -> None:
        """Declare everything again on whatever link there is, for ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            link = self.link
            if link is not None:
                await self._look_after_own(link)
            if link is None or not self._may_declare:  # each refusal closes a channel and fills the broker's log
                continue
            try:
                await self.declare(link)
            except (ChannelClosed, ConnectFailed, LinkLost) as error:
                log.warning("exchanges, queues or bindings cannot be declared again: %s; trying again later", error)

    def _on_still(self) -> None:
        """Items stand still, perhaps as somebody has deleted the exchange: nothing but that tells of it."""
        now = time.monotonic()
        if self.link is not None and now >= self._looks_again:
            self._looks_again = now + PAUSE
            self._spawn(self._look_after_own(self.link))

    async def _look_after_own(self, link: Link) -> None:
        """The queues of this very process, which are bound to an exchange that somebody may have deleted."""
        with contextlib.suppress(LinkLost):
            if self.answering is not None:
                await self.answering.look_after(link)
            for post in self._posts:
                await post.uploads.look_after(link)
