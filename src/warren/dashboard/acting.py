"""What the pages may do where that is allowed: call a method, and deal with dead letters. So many at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from warren import AsyncClient, CallError, RemoteError
from warren.connection.settings import Settings
from warren.dashboard import reading
from warren.dead.queue import DeadMessage, DeadQueue, DeadQueueError, open_dead_queue
from warren.printable import printable_json

#: Deeds under way at a time; others are told to come again.
MOST_AT_A_TIME = 8
#: Dead letters that are listed, and seconds that looking at them may take.
MOST_LISTED, PATIENCE = 200, 30.0
#: Characters of a result that are shown.
MOST_SHOWN = 100_000


class Busy(Exception):
    """Too much is under way."""


class CallWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that somebody wants; `timeout` is seconds."""

    service: str
    method: str
    arguments: dict[str, Any] = {}
    timeout: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0


class DeadWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service whose dead letters are meant, and one of them by its id, as it is listed."""

    service: str
    id: str = ""


class Acting:
    """Does what is wished, with a client and connections of its own."""

    def __init__(self, url: str, settings: Settings, most: int = MOST_AT_A_TIME) -> None:
        """`most` deeds may be under way at a time."""
        self._client = AsyncClient(url, name="dashboard")
        self._settings = settings
        self._most = most
        self._under_way = 0

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()

    async def call(self, wish: CallWish) -> dict[str, Any]:
        """The result of a call as text, or what it ended in."""
        with self._turn():
            client = self._client.options(timeout=wish.timeout)
            try:
                result = await client.call(f"{wish.service}.{wish.method}", **wish.arguments)
            except CallError as error:
                return {"error": _as_object(error)}
            return {"result": _shown(result)}

    async def dead(self, wish: DeadWish) -> dict[str, Any]:
        """The oldest dead letters of a service, and how many there are."""
        async with self._queue(wish.service, bodies=False) as queue:
            letters = [_letter(entry) async for entry in queue.messages(MOST_LISTED)]
            return {"count": len(letters) + await queue.count(), "letters": letters}

    async def retry(self, wish: DeadWish) -> dict[str, Any]:
        """Send a dead letter to its service once more."""
        async with self._queue(wish.service, bodies=True) as queue:
            await queue.retry(await queue.find(wish.id))
        return {"done": "sent again"}

    async def drop(self, wish: DeadWish) -> dict[str, Any]:
        """Take a dead letter away for good."""
        async with self._queue(wish.service, bodies=False) as queue:
            queue.drop(await queue.find(wish.id))
        return {"done": "dropped"}

    @contextlib.asynccontextmanager
    async def _queue(self, service: str, *, bodies: bool) -> AsyncIterator[DeadQueue]:
        with self._turn():
            try:
                async with asyncio.timeout(PATIENCE), open_dead_queue(self._settings, service, bodies=bodies) as queue:
                    yield queue
            except TimeoutError:
                message = f"the broker took more than {PATIENCE:g} seconds: look what became of it"
                raise DeadQueueError(message) from None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if self._under_way >= self._most:
            raise Busy(f"{self._most} things are under way: wait for one of them, and try again")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1


def _shown(result: Any) -> str:
    encoded = msgspec.json.format(msgspec.json.encode(result, enc_hook=str), indent=2).decode()
    return printable_json(encoded)[:MOST_SHOWN]


def _as_object(error: CallError) -> dict[str, Any]:
    names = ("code", "reason", "execution", "origin", "message", "call_id", "safe_to_retry")
    said: dict[str, Any] = {name: getattr(error, name) for name in names}
    if isinstance(error, RemoteError):
        said |= {"type": error.type, "traceback": error.traceback}
    return {name: reading.prose(value) if isinstance(value, str) else value for name, value in said.items()}


def _letter(entry: DeadMessage) -> dict[str, Any]:
    death = entry.death
    said: Mapping[str, Any] = {
        "id": entry.id,
        "reason": entry.reason,
        "method": entry.method,
        "caller": entry.caller,
        "code": death.code,
        "execution": death.execution,
        "type": death.type,
        "text": death.text,
    }
    return {name: reading.prose(value) for name, value in said.items()} | {
        "since": entry.since.isoformat() if entry.since is not None else None,
        "size": entry.size,
        "call": entry.was_a_call,
        "attempt": death.attempt,
    }
