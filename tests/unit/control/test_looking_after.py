"""A server's control queue comes back, on the channel that it has, unless the broker forbids it."""

from typing import Any

import pytest

from warren.connection.errors import ChannelClosed, LinkLost
from warren.control.answering import Answering


class Channel:
    """A channel that notes what is done on it; its first `bind` may be refused."""

    def __init__(self, refusal: ChannelClosed | None) -> None:
        self.closed: ChannelClosed | None = None
        self.consumes = False
        self.on_closed: Any = None
        self.done: list[str] = []
        self._refusal = refusal

    def attach(self, receiver: Any, *, body_limit: int) -> None:
        self.done.append("attach")

    async def declare_exchange(self, name: str, kind: str) -> None: ...
    async def close(self) -> None: ...

    async def declare_reply_queue(self, *, arguments: dict[str, Any]) -> str:
        self.done.append("declare")
        return "amq.gen-1"

    async def delete_queue(self, name: str) -> None: ...

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        if self._refusal is not None:
            self.closed = self._refusal
            raise self._refusal
        self.done.append("bind")

    async def qos(self, prefetch: int) -> None: ...
    async def consume(self, queue: str, *, no_ack: bool) -> None:
        self.consumes = True


class Link:
    may_not_declare_control = False

    def __init__(self, *refusals: ChannelClosed | None) -> None:
        self.hot: list[Channel] = []
        self._refusals = iter(refusals)

    async def channel(self) -> Channel:
        return Channel(None)

    async def hot_channel(self) -> Channel:
        self.hot.append(Channel(next(self._refusals, None)))
        return self.hot[-1]


async def test_a_control_queue_that_was_deleted_comes_back_on_the_same_channel() -> None:
    link: Any = Link()
    answering, broken = Answering("one", ["all"], {}), list[Any]()
    answering.on_broken = broken.append
    await answering.open(link)
    channel = link.hot[0]
    channel.consumes = False
    answering.consumer_cancelled(channel)
    assert broken == [link]
    await answering.look_after(link)
    await answering.look_after(link)
    assert link.hot == [channel]
    assert channel.done == ["attach", "declare", "bind", "declare", "bind", "bind"]


@pytest.mark.parametrize(("code", "channels"), [(404, 2), (403, 1)])
async def test_what_was_gone_for_a_moment_is_tried_again_and_what_is_forbidden_is_not(code: int, channels: int) -> None:
    link: Any = Link(ChannelClosed(code, "no"))
    answering = Answering("one", ["all"], {})
    await answering.open(link)
    assert answering.comes_back is (code == 404)
    await answering.look_after(link)
    assert len(link.hot) == channels


@pytest.mark.parametrize(
    ("reason", "times"), [(ChannelClosed(404, "no"), 1), (ChannelClosed(403, "no"), 1), (LinkLost(), 0)]
)
async def test_a_channel_that_is_closed_is_missed_at_once_unless_the_link_is_gone_with_it(
    reason: Exception, times: int
) -> None:
    link: Any = Link()
    answering, broken = Answering("one", ["all"], {}), list[Any]()
    answering.on_broken = broken.append
    await answering.open(link)
    link.hot[0].on_closed(reason)
    assert broken == [link] * times
