"""What has broken on a link is opened again, whatever an attempt at it ends in."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from tests.support.waiting import within

from warren.connection.backoff import Backoff
from warren.connection.errors import LinkLost
from warren.connection.link import Link
from warren.server.repair import Repair


class Loose:
    """A link."""

    closed = False

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "next", lambda _self, _now: 0.0)


async def tried(*ends: BaseException | None) -> tuple[int, Loose]:
    """How often something was tried that broke once more after each of these ends, and its link."""
    tasks: list[asyncio.Task[Any]] = []
    attempts = iter(ends)
    count = 0

    def spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    async def attempt(_link: Link) -> None:
        nonlocal count
        count += 1
        if (error := next(attempts)) is not None:
            raise error

    loose = Loose()
    broken = Repair(spawn, attempt)
    for _ in ends:
        broken.wanted(cast(Link, loose))
        await within(asyncio.wait(tasks), "the end of an attempt")
    for task in tasks:
        task.exception()
    return count, loose


@pytest.mark.parametrize("end", [None, ValueError("a fault of ours")], ids=["well", "odd"])
async def test_it_is_tried_again_whenever_it_breaks(end: BaseException | None) -> None:
    count, link = await tried(end, None, None)
    assert (count, link.closed) == (3, False)


async def test_a_link_on_which_it_cannot_be_opened_is_closed() -> None:
    count, link = await tried(LinkLost("gone"))
    assert (count, link.closed) == (1, True)
