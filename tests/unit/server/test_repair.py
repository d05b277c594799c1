"""What has broken on a link is opened again, whatever an attempt at it ends in."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from tests.support.waiting import within

from warren.connection.backoff import Backoff
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.link import Link
from warren.server.repair import Repair


class FakeLink:
    """A link that is there until it is closed."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        self.closed.set_result(LinkLost("closed"))


class Broken:
    """Something that is repaired; each attempt waits until it is let go on."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self._attempts: asyncio.Queue[tuple[FakeLink, asyncio.Future[None]]] = asyncio.Queue()
        self._repair = Repair(self._spawn, self._attempt)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def _attempt(self, link: Link) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._attempts.put_nowait((cast(FakeLink, link), done))
        await done

    def wanted(self, link: FakeLink) -> None:
        self._repair.wanted(cast(Link, link))

    async def tried(self) -> tuple[FakeLink, asyncio.Future[None]]:
        """The next attempt: its link, and what it waits for."""
        return await within(self._attempts.get(), "an attempt")

    async def rests(self) -> None:
        """No attempt is under way, and none begins."""
        await within(asyncio.gather(*self.tasks, return_exceptions=True), "the end of all attempts")
        assert self._attempts.empty()


@pytest.fixture
async def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    monkeypatch.setattr(Backoff, "next", lambda _self, _now: 0.0)
    return Broken()


@pytest.mark.parametrize("end", [None, ValueError("a fault of ours")], ids=["well", "odd"])
async def test_it_is_tried_again_whenever_it_breaks(broken: Broken, end: BaseException | None) -> None:
    link = FakeLink()
    for error in (end, None, None):
        broken.wanted(link)
        _, done = await broken.tried()
        done.set_result(None) if error is None else done.set_exception(error)
        await broken.rests()
    assert not link.closed.done()


async def test_what_breaks_while_it_is_repaired_is_repaired_once_more(broken: Broken) -> None:
    link = FakeLink()
    broken.wanted(link)
    _, done = await broken.tried()
    broken.wanted(link)
    broken.wanted(link)
    done.set_result(None)
    _, again = await broken.tried()
    again.set_result(None)
    await broken.rests()


@pytest.mark.parametrize("error", [ChannelClosed(404, "no queue"), LinkLost("gone")])
async def test_what_cannot_be_repaired_takes_its_link_along(broken: Broken, error: Exception) -> None:
    link, following = FakeLink(), FakeLink()
    broken.wanted(link)
    _, done = await broken.tried()
    done.set_exception(error)
    await broken.rests()
    assert link.closed.done()
    broken.wanted(following)
    assert (await broken.tried())[0] is following
    broken.tasks[-1].cancel()


async def test_a_repair_on_a_link_that_is_gone_holds_up_no_repair_on_the_next(broken: Broken) -> None:
    old, new = FakeLink(), FakeLink()
    broken.wanted(old)
    _, stuck = await broken.tried()
    broken.wanted(new)
    link, done = await broken.tried()
    assert link is new
    done.set_result(None)
    stuck.set_exception(ChannelClosed(404, "no queue"))
    await broken.rests()
    assert old.closed.done()
    assert not new.closed.done()


async def test_what_was_lost_with_its_link_is_not_opened_there(broken: Broken) -> None:
    """It would be taken for that of the next link, which has it already."""
    link = FakeLink()
    broken.wanted(link)
    await link.close()
    await broken.rests()
