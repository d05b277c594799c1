"""The way out for requests that are not confirmed."""

import asyncio
from typing import Any, cast

from tests.support.model_link import ModelBroker, ModelLink, VirtualLoop

from warren.client.calls import Calls
from warren.client.lane import Lane
from warren.client.requests import Target
from warren.connection.link import Link
from warren.connection.tasks import Tasks
from warren.protocol.request import bare_properties


class _Unheard:
    """Who waits for a call that does not end here."""

    def finish(self, outcome: Any) -> None:
        raise AssertionError(outcome)


class Bench:
    """A lane without confirms, on a broker that answers when it is told to."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.broker = ModelBroker()
        self.broker.prompt = False
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        self.tasks = Tasks(self.loop)
        ids = iter(b"%d" % number for number in range(100))
        self.calls = Calls(ids, 100, 1000, lambda _when: None)
        self.lane = Lane(
            self.calls, cast(Any, None), self.tasks.spawn, confirm=False, on_ready=lambda: None, on_broken=print
        )
        await self.lane.open(cast(Link, ModelLink(self.broker, lambda: None)))
        assert self.lane.current is not None
        self.channel = cast(Any, self.lane.current.channel)

    def publish(self) -> None:
        target = Target("bare", "m", "q", "q.m", "application/json")
        call = self.calls.start(1e9, _Unheard(), target, True)
        self.lane.publish(call, b"", b"q", bare_properties(call.id, b"replies", b"1000"), b"")

    def pass_time(self) -> None:
        self.loop.now += 0.06
        self.loop.settle()

    def end(self) -> None:
        self.channel._close(asyncio.CancelledError())
        self.loop.settle()
        self.loop.close()

    @property
    def open(self) -> int:
        assert self.lane.current is not None
        return len(self.lane.current.confirms)


def test_a_silent_broker_is_asked_once_whatever_is_published_meanwhile() -> None:
    bench = Bench()
    for _ in range(20):
        bench.publish()
        bench.pass_time()
    assert len(bench.channel._asked) == 1
    bench.end()


def test_what_was_published_behind_a_question_is_asked_about_when_that_is_answered() -> None:
    bench = Bench()
    bench.publish()
    bench.pass_time()
    bench.publish()
    bench.pass_time()
    bench.channel.answer()
    bench.loop.settle()
    assert bench.open == 1
    bench.pass_time()
    bench.channel.answer()
    bench.loop.settle()
    assert bench.open == 0
    bench.end()
