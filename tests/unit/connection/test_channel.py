"""How a consumer is stopped whose queue would take back what it has sent and nobody has seen yet."""

import pytest

from warren.amqp.acks import Acks
from warren.connection import channel


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_LOOK", 0.0)
    monkeypatch.setattr(channel, "_FILLING", 60.0)


class Queue:
    """Something comes with every third look, as long as there is any."""

    def __init__(self, messages: int) -> None:
        self.acks = Acks()
        self.messages = messages
        self.looks = 0

    async def inspect(self) -> tuple[int, int]:
        self.looks += 1
        if self.looks % 3 == 0 and len(self.acks) < self.messages:
            self.acks.open(self.looks)
        return 0, 1


async def test_a_window_fills_up_also_while_requests_come_one_by_one() -> None:
    queue = Queue(messages=100)
    await channel._fill(queue.acks, queue.inspect, 8)
    assert len(queue.acks) == 8


async def test_a_window_is_not_waited_for_where_nothing_comes_any_more() -> None:
    queue = Queue(messages=2)
    await channel._fill(queue.acks, queue.inspect, 8)
    assert (len(queue.acks), queue.looks) == (2, 6 + channel._QUIET_LOOKS)


async def test_what_waits_in_the_queue_is_waited_for() -> None:
    queue = Queue(messages=0)

    async def inspect() -> tuple[int, int]:
        await queue.inspect()
        return (1 if queue.looks < 20 else 0), 1

    await channel._fill(queue.acks, inspect, 8)
    assert queue.looks == 19 + channel._QUIET_LOOKS


async def test_a_window_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_FILLING", 0.05)
    queue = Queue(messages=10**9)
    await channel._fill(queue.acks, queue.inspect, 10**9)
