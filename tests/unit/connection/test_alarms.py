"""One timer for all that has to happen at a time."""

import asyncio
import contextvars
import time

from warren.connection.alarms import Alarms

WHOSE: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")


async def test_it_rings_for_each_at_its_time_and_for_none_that_was_removed() -> None:
    rung: list[str] = []
    last = asyncio.Event()

    def ring(item: str) -> None:
        rung.append(item)
        if item == "last":
            last.set()

    alarms: Alarms[str] = Alarms(ring)
    now = time.monotonic()
    alarms.timers.add(now + 0.1, "last")
    alarms.timers.add(now + 0.02, "first")
    alarms.timers.remove(alarms.timers.add(now + 0.05, "removed"), "removed")
    await asyncio.wait_for(last.wait(), 10)
    assert rung == ["first", "last"]
    assert not len(alarms.timers)


async def test_it_rings_in_the_context_of_no_call() -> None:
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    alarms: Alarms[str] = Alarms(lambda _item: heard.set_result(WHOSE.get()))
    WHOSE.set("a caller")
    alarms.timers.add(time.monotonic(), "now")
    assert await asyncio.wait_for(heard, 10) == "nobody"


async def test_what_is_added_after_it_was_at_rest_rings() -> None:
    rung = asyncio.Event()
    alarms: Alarms[str] = Alarms(lambda _item: rung.set())
    timers = alarms.timers
    timers.remove(timers.add(time.monotonic() + 60, "gone"), "gone")
    alarms.rest()
    alarms.timers.add(time.monotonic() + 90, "later")
    alarms.rest()  # there is something to wait for
    assert len(alarms.timers) == 1
    alarms.timers.add(time.monotonic(), "now")
    await asyncio.wait_for(rung.wait(), 10)
    alarms.clear()
    assert not len(alarms.timers)
