"""For how long the broker lets us in: a password that expires, renewed on the open connection before that.

This is what RabbitMQ has ``connection.update-secret`` for: with OAuth 2 it refuses everything under an old token.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from warren.checks import MAX_SECONDS
from warren.connection import password
from warren.connection.backoff import Backoff
from warren.connection.errors import ConnectFailed, LinkLost
from warren.connection.settings import Password, Secret
from warren.logs import get_logger

log = get_logger("warren.amqp")

#: When a secret is renewed, as shares of its life: somewhere between, so that a thousand clients do not ask at once.
EARLIEST, LATEST = 0.6, 0.8

Update = Callable[[str], Awaitable[None]]


class Lease:
    """The life of the secrets of one connection."""

    def __init__(
        self, source: Password, limit: float, rng: random.Random, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`limit`: seconds for one attempt to renew it."""
        self._source, self._limit, self._rng, self._clock = source, limit, rng, clock
        self._begun, self._left = clock(), float("inf")

    async def ask(self) -> str:
        """A secret, with which a new life begins.

        Raises:
            ConnectFailed: as `warren.connection.password.ask` does.
        """
        secret = await password.ask(self._source)
        self._begin(secret, self._clock())
        return secret.value

    @property
    def expires(self) -> bool:
        """Whether there will be anything to renew."""
        return self._left != float("inf")

    async def keep(self, update: Update) -> bool:
        """Renew the secret as long as it expires and that works; False once one has expired."""
        while self.expires:
            if not await self._renewed(update):
                return False
        return True

    async def _renewed(self, update: Update) -> bool:
        """Wait until it is time, then try until the secret expires; False if it has."""
        expiry, backoff, said = self._begun + self._left, Backoff(self._rng), ""
        pause = self._begun + self._left * self._rng.uniform(EARLIEST, LATEST) - self._clock()
        while self._clock() + pause < expiry:
            await asyncio.sleep(pause)
            failure = await self._attempt(update, expiry)
            if failure is None:
                return True
            said = _report(failure, said, expiry - self._clock())
            pause = backoff.next(self._clock())
        await asyncio.sleep(expiry - self._clock())
        return False

    async def _attempt(self, update: Update, expiry: float) -> Exception | None:
        """Ask for a secret and give it to the broker; what was wrong, if anything."""
        limit = min(self._limit, expiry - self._clock())
        try:
            async with asyncio.timeout(limit):
                secret = await password.ask(self._source)
                asked = self._clock()
                await update(secret.value)
        except TimeoutError:
            return TimeoutError(f"no answer within {limit:.1f} s")
        except (ConnectFailed, LinkLost) as error:
            return error
        self._begin(secret, asked)
        return None

    def _begin(self, secret: Secret, now: float) -> None:
        self._begun = now
        # A timer holds no more; a secret that lasts longer is renewed sooner than it had to be.
        self._left = float("inf") if secret.expires_in is None else min(secret.expires_in, MAX_SECONDS)


def _report(failure: Exception, said: str, left: float) -> str:
    """One WARNING per change: the same failure again is not news."""
    level = logging.WARNING if str(failure) != said else logging.DEBUG
    log.log(level, "the password cannot be renewed: %s; trying again, it expires in %.0f s", failure, max(left, 0.0))
    return str(failure)
