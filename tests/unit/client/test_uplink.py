"""The way of items to workers: what fails for one of those that send ends nobody else."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from warren.client.uplink import Publish, Uplink
from warren.errors import CallError


class Channel:
    """One that may be closed in the breath that opens it."""

    closed: Exception | None = None
    on_closed: Any = None

    def attach(self, receiver: Any, *, body_limit: int) -> None:
        """Nothing comes."""

    def publish(self, exchange: bytes, to: bytes, properties: bytes, body: bytes) -> None:
        """It goes."""


class Link:
    """One with such a channel."""

    async def hot_channel(self) -> Channel:
        return Channel()


class Sender:
    """One that cannot write, or can."""

    def __init__(self, id: bytes, error: Exception | None = None) -> None:
        self.id = id
        self.written = 0
        self.failed: list[CallError] = []
        self._error = error

    def write(self, reply_to: bytes, publish: Publish) -> None:
        if self._error is not None:
            raise self._error
        self.written += 1

    def fail(self, error: CallError) -> None:
        self.failed.append(error)

    def returned(self) -> None:
        """Nothing comes back."""


async def test_one_that_cannot_write_is_told_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def declared(_link: Any) -> None:
        """As if the exchange were there."""

    monkeypatch.setattr("warren.client.uplink.declare_control_exchange", declared)
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(work))
        return tasks[-1]

    link: Any = Link()
    uplink = Uplink(lambda: link, lambda: b"replies", spawn)
    broken, sound = Sender(b"1", RuntimeError("closed meanwhile")), Sender(b"2")
    uplink.send(broken)
    uplink.send(sound)
    await asyncio.gather(*tasks)
    assert ([error.reason for error in broken.failed], sound.written, sound.failed) == (["CONNECTION_LOST"], 1, [])
    uplink.send(broken)
    uplink.send(sound)
    assert (len(tasks), len(broken.failed), sound.written) == (1, 2, 2)
