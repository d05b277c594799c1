"""The ways out for requests, with confirms and without."""

import asyncio
from typing import Any, cast

from tests.support.model_link import ModelBroker, ModelLink, VirtualLoop

from warren.client.calls import CONFIRMED, Calls, PendingCall
from warren.client.lane import Lane
from warren.client.requests import Target
from warren.connection.link import Link
from warren.connection.tasks import Tasks
from warren.protocol.request import bare_properties


class _Unheard:
    """Who waits for a call that does not end here."""

    def finish(self, outcome: Any) -> None:
        raise AssertionError(outcome)


class _Owner:
    """Hears of refused calls, and ends them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def on_refused(self, calls: list[PendingCall]) -> None:
        for call in calls:
            self._calls.end(call)


class Bench:
    """A lane, without confirms unless it is told otherwise, on a broker that answers when it is told to."""

    def __init__(self, *, confirm: bool = False) -> None:
        self.loop = VirtualLoop()
        self.broker = ModelBroker()
        self.broker.prompt = False
        self.loop.run_until_complete(self._begin(confirm))

    async def _begin(self, confirm: bool) -> None:
        self.tasks = Tasks(self.loop)
        ids = iter(b"%d" % number for number in range(100))
        self.calls = Calls(ids, 100, 1000, lambda _when: None)
        owner = cast(Any, _Owner(self.calls))
        self.lane = Lane(self.calls, owner, self.tasks.spawn, confirm=confirm, on_ready=lambda: None, on_broken=print)
        self.link = ModelLink(self.broker, lambda: None)
        await self.lane.open(cast(Link, self.link))

    @property
    def channel(self) -> Any:
        assert self.lane.current is not None
        return self.lane.current.channel

    def publish(self) -> PendingCall:
        target = Target("bare", "m", "q", "q.m", "application/json")
        call = self.calls.start(1e9, _Unheard(), target, True)
        self.lane.publish(call, b"", b"q", bare_properties(call.id, b"replies", b"1000"), b"")
        return call

    def refuse(self) -> None:
        """The broker refuses the last publish, and the lane has time to go on elsewhere."""
        self.channel.receiver.refused(self.channel.published, False)
        self.pass_time(30.0)

    def pass_time(self, seconds: float = 0.06) -> None:
        self.loop.now += seconds
        self.loop.settle()

    def end(self) -> None:
        for channel in list[Any](self.link.channels):
            channel._close(asyncio.CancelledError())
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


def test_a_channel_of_which_nobody_waits_for_anything_more_does_not_keep_the_next_one_from_being_replaced() -> None:
    """The broker never answers what was published on it, and the calls' time is up: that may go on for ever."""
    bench = Bench(confirm=True)
    hanging, first = bench.publish(), bench.channel
    bench.publish()
    bench.refuse()
    second = bench.channel
    assert second is not first
    bench.calls.end(hanging)
    bench.publish()
    bench.refuse()
    third = bench.channel
    assert third is not second
    assert bench.link.channels == [third]
    bench.end()


def test_what_is_open_on_a_channel_without_confirms_is_asked_about_when_that_is_replaced_too() -> None:
    """A broker that refuses a publish there is none; its client sees it through all the same."""
    bench = Bench()
    call, first = bench.publish(), bench.channel
    bench.pass_time()
    waiting = bench.publish()  # while the first one is asked about
    bench.publish()
    bench.refuse()
    assert bench.channel is not first
    first.answer()
    bench.loop.settle()
    bench.pass_time()
    first.answer()
    bench.loop.settle()
    assert [one.state for one in (call, waiting)] == [CONFIRMED] * 2
    assert bench.link.channels == [bench.channel]
    bench.end()
