"""One service on whatever link there is: what breaks is opened again, on the link that is there now."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from warren import Service
from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed, ConnectFailed
from warren.connection.link import Link
from warren.connection.tasks import Tasks
from warren.server.post import Post
from warren.server.repair import Repair
from warren.server.worker import Worker


class FakeLink:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def close(self) -> None:
        self.closed.set()


class Broken:
    """Something that is repaired; each attempt waits until it is let go on."""

    def __init__(self) -> None:
        self.attempts: asyncio.Queue[tuple[FakeLink, asyncio.Future[None]]] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        self.repair = Repair(self._spawn, self._attempt)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def _attempt(self, link: Link) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.attempts.put_nowait((cast(FakeLink, link), done))
        await done

    def wanted(self, link: FakeLink) -> None:
        self.repair.wanted(cast(Link, link))


@pytest.fixture
async def broken() -> Broken:
    return Broken()


async def test_what_breaks_while_it_is_repaired_is_repaired_once_more(broken: Broken) -> None:
    link = FakeLink()
    broken.wanted(link)
    _, done = await broken.attempts.get()
    broken.wanted(link)
    broken.wanted(link)
    done.set_result(None)
    _, again = await broken.attempts.get()
    again.set_result(None)
    await asyncio.gather(*broken.tasks)
    assert broken.attempts.empty()


async def test_a_repair_on_a_link_that_is_gone_holds_up_no_repair_on_the_next(broken: Broken) -> None:
    old, new = FakeLink(), FakeLink()
    broken.wanted(old)
    _, stuck = await broken.attempts.get()
    broken.wanted(new)
    link, done = await broken.attempts.get()
    assert link is new
    done.set_result(None)
    stuck.set_exception(ChannelClosed(404, "no queue"))
    await asyncio.gather(*broken.tasks)
    assert old.closed.is_set()
    assert not new.closed.is_set()


async def test_what_cannot_be_repaired_takes_its_link_along(broken: Broken) -> None:
    link = FakeLink()
    broken.wanted(link)
    _, done = await broken.attempts.get()
    done.set_exception(ChannelClosed(404, "no queue"))
    await link.closed.wait()
    await asyncio.gather(*broken.tasks)
    broken.wanted(link)  # and the next time it is tried again
    await broken.attempts.get()
    broken.tasks[-1].cancel()


class Window:
    """A channel whose broker answers each question when it is let; it remembers what it is asked for.

    Attributes:
        asked: consumers that were asked for, by how many deliveries they may have.
        consumes: whether one is there.
    """

    closed: Exception | None = None

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[int, asyncio.Future[None]]] = asyncio.Queue()
        self.consumes = True
        self.cancelled = 0

    async def widen(self, more: int) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((more, done))
        await done
        self.consumes = True

    async def cancel(self, *, window: int = 0) -> None:
        self.consumes = False
        self.cancelled += 1


class Parked:
    """A post that consumes through a `Window`, and whose requests are parked."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.window = Window()
        self.worker = Worker(Service("calc"), 10, "guest", "here")
        self.post = Post(self.worker, self.tasks.spawn)
        self.post._intake.channel = cast(HotChannel, self.window)

    def park(self, count: int) -> None:
        assert self.worker.copies.on_parked is not None
        self.worker.copies.on_parked(count)


async def test_a_window_that_widens_behind_the_drain_is_closed_again() -> None:
    parked = Parked()
    parked.park(1)
    _, done = await parked.window.asked.get()
    parked.worker.stop_taking()
    draining = asyncio.create_task(parked.post.drain(0))
    await asyncio.sleep(0)
    done.set_result(None)
    await asyncio.gather(parked.tasks.ended(), draining)
    assert not parked.window.consumes, "nobody stops that consumer any more"


async def test_windows_widen_one_after_the_other() -> None:
    parked = Parked()
    parked.park(1)
    more, done = await parked.window.asked.get()
    parked.park(5)
    await asyncio.sleep(0)
    assert (more, parked.window.asked.empty()) == (1, True), "a prefetch is for the consumer that follows it"
    done.set_result(None)
    more, done = await parked.window.asked.get()
    assert more == 4
    done.set_result(None)
    await parked.tasks.ended()


class Refusing(FakeLink):
    """A link to a broker where the service's queue is there with other arguments."""

    async def channel(self) -> "Refusing":
        return self

    async def declare_queue(self, name: str, *, arguments: dict[str, Any]) -> None:
        raise ChannelClosed(406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'")


async def test_a_queue_that_is_gone_or_another_one_now_is_no_longer_said_to_take_everything() -> None:
    parked = Parked()
    worker = parked.worker
    worker.replies.lean = True  # of the queue that was declared
    worker.consumer_cancelled(cast(HotChannel, parked.window))
    assert not worker.replies.lean
    worker.replies.lean = True
    with pytest.raises(ConnectFailed):
        await parked.post.declare(cast(Link, Refusing()))
    assert not worker.replies.lean
