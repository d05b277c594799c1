"""One service on whatever link there is: what breaks is opened again, on the link that is there now."""

import asyncio
from typing import Any, cast

import pytest

from warren import Service
from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed, ConnectFailed
from warren.connection.link import Link
from warren.connection.tasks import Tasks
from warren.server.post import Post
from warren.server.worker import Worker


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


class Refusing:
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
