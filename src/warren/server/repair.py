"""What has broken on a link that is still there is opened again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from warren.connection.backoff import Backoff
from warren.connection.errors import ChannelClosed, ConnectFailed, LinkLost
from warren.connection.explainer import Spawn
from warren.connection.link import Link
from warren.logs import get_logger

log = get_logger("warren.server")


class Repair:
    """Opens something of a link again, in the background: one attempt at a time, and one more if it broke meanwhile.

    What is under way for a link that is gone does not count: the new link's things break by themselves.
    """

    def __init__(self, spawn: Spawn, attempt: Callable[[Link], Coroutine[Any, Any, None]]) -> None:
        self._spawn = spawn
        self._attempt = attempt
        self._backoff = Backoff(random.Random())
        self._link: Link | None = None  # for which one is under way
        self._once_more = False

    def wanted(self, link: Link) -> None:
        """It has broken on this link."""
        if self._link is link:
            self._once_more = True
        else:
            self._link, self._once_more = link, False
            self._spawn(self._run(link))

    async def _run(self, link: Link) -> None:
        again = True
        try:
            while again and self._link is link:
                self._once_more = False
                await asyncio.sleep(self._backoff.next(time.monotonic()))  # what broke it may do so again
                if link.closed.done():  # the next one has its own
                    return
                await self._attempt(link)
                again = self._once_more
        except (ChannelClosed, ConnectFailed, LinkLost) as error:
            log.warning("a channel cannot be opened again: %s; reconnecting", error)
            await link.close()
        finally:  # also after what nobody has thought of: the next time it breaks, it is tried again
            if self._link is link:
                self._link = None
