"""Whether this worker has got rid of what it has put elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from warren.connection.errors import LinkLost
from warren.server import releases
from warren.server.copies import Copies
from warren.server.releases import Releases


class Channel:
    """Answers as it is told, and says when it was asked."""

    def __init__(self, *answers: Exception | None) -> None:
        self.closed: Exception | None = None
        self.answers = list(answers)
        self.asked: asyncio.Queue[None] = asyncio.Queue()

    async def settled(self) -> None:
        self.asked.put_nowait(None)
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer


async def begun(channel: Channel) -> tuple[Releases[str], asyncio.Queue[str]]:
    suspects: Releases[str] = Releases(Copies())
    clean: asyncio.Queue[str] = asyncio.Queue()
    suspects.on_clean = clean.put_nowait
    suspects.prove(cast(Any, channel))
    suspects.wait("a suspect")
    return suspects, clean


async def test_an_answer_is_a_proof() -> None:
    _, clean = await begun(Channel(None))
    assert await clean.get() == "a suspect"


async def test_a_channel_that_goes_takes_its_deliveries_along() -> None:
    _, clean = await begun(Channel(LinkLost("reset")))
    assert await clean.get() == "a suspect"


async def test_an_unexpected_error_proves_nothing_and_the_question_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(releases, "_PAUSE", 0.01)
    channel = Channel(MemoryError(), RuntimeError("no"), None)
    suspects, clean = await begun(channel)
    for _ in range(2):
        await channel.asked.get()
        assert not suspects.clean
        assert clean.empty()
    assert await clean.get() == "a suspect"
    assert channel.answers == []


async def test_a_channel_that_goes_meanwhile_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "_PAUSE", 0.01)
    channel = Channel(RuntimeError("no"))
    _, clean = await begun(channel)
    await channel.asked.get()
    channel.closed = LinkLost("reset")
    assert await clean.get() == "a suspect"
