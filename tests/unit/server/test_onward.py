"""What a worker does after a stage of a pipeline, over channels that write down what they are told."""

import asyncio
from typing import Any, cast

import pytest
from tests.support.fake_channel import FakeChannel

from warren import Service
from warren.amqp.frames import Delivery, Properties, decode_properties, encode_properties
from warren.amqp.tables import decode_table, encode_table
from warren.connection.channel import HotChannel, Returned
from warren.connection.errors import ChannelClosed
from warren.protocol.slip import Slip, Stage, read_slip, slip_fields
from warren.server import onward, settler
from warren.server.worker import Worker

FIRST, SECOND = Stage("shop.pay", "shop.refund", b"[7]"), Stage("shop.pack", "shop.unpack", b"[8]")
REPORT, REPEATED = "shop.report", "shop.repeated"


class Desk:
    """A worker of a service with stages in two delivery modes, and its channels."""

    def __init__(self) -> None:
        self.channel = FakeChannel()
        self.fails = False
        service = Service("shop")

        def run(n: int) -> int:
            if self.fails:
                raise ValueError("no")
            return n

        @service.method
        async def report(n: int) -> int:
            return run(n)

        @service.method(delivery="at-least-once")
        async def repeated(n: int) -> int:
            return run(n)

        self.worker = Worker(service, 10, "server", "a process")
        self.elsewhere = self.another_channel()

    def another_channel(self) -> FakeChannel:
        """The channel for copies goes, and there is another one."""
        self.elsewhere = FakeChannel()
        self.worker.copies.attach(cast(HotChannel, self.elsewhere))
        return self.elsewhere

    async def run(self, *stages: Stage, at: int, call: bool = True, redelivered: bool = False, **headers: Any) -> None:
        """Deliver a request of a stage, and wait until its handler has ended."""
        slip = Slip(stages, at)
        p = Properties(type=slip.here.to.partition(".")[2].encode() + b">", correlation_id=b"id", message_id=b"id")
        p.table = encode_table({"rpc-v": 1, **headers}) + slip_fields(slip)
        p.content_type, p.reply_to = b"application/json", b"replies" if call else None
        delivery = Delivery(1, redelivered, b"\x06warren\x04shop")
        delivery.properties, delivery.body, delivery.body_size = encode_properties(p), b"[1]", 3
        self.worker.delivered(cast(HotChannel, self.channel), delivery)
        while self.worker.holding.running:
            await asyncio.sleep(0)

    @property
    def copies(self) -> list[tuple[bytes, bytes | None]]:
        """Where copies went, and what they ask for, on all channels."""
        return [(key, decode_properties(p).type) for key, p in self.elsewhere.published]

    def returned(self) -> None:
        """The newest copy comes back, and is confirmed then."""
        (copy,) = self.elsewhere.receiver.confirms.open()
        self.elsewhere.receiver.returned(Returned(copy.way[:2], copy.id, "NO_ROUTE"))
        self.confirmed()

    def confirmed(self) -> None:
        self.elsewhere.receiver.confirmed(len(self.elsewhere.published), False)

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [decode_table(decode_properties(head).table or b"") for _, head in self.channel.published]


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(onward, "_PATIENCE", 0.0)
    monkeypatch.setattr(onward, "_CAST_PATIENCE", 0.0)
    monkeypatch.setattr(settler, "_ASIDE_PATIENCE", 0.0)
    return Desk()


async def test_what_has_something_to_undo_is_not_published_twice(desk: Desk) -> None:
    """One of the two might fail and undo what the other one builds on."""
    await desk.run(FIRST, Stage(REPEATED), Stage("other.run"), at=1)
    assert desk.copies == [(b"other", b"run>")]
    desk.another_channel()
    desk.another_channel()  # the broker has not answered on the first
    assert desk.copies == [(b"shop.dead", b"run>")]
    ((_, kept),) = desk.elsewhere.published
    assert read_slip(decode_properties(kept)).again
    desk.confirmed()
    assert desk.answers[0]["rpc-reason"] == "CHANNEL_CLOSED"


async def test_no_queue_for_a_second_copy_proves_nothing_of_the_first(desk: Desk) -> None:
    await desk.run(Stage(REPEATED), Stage("other.run"), at=0)
    desk.another_channel()
    desk.another_channel()  # the broker has not answered on the first
    desk.returned()
    desk.returned()
    assert desk.answers[0]["rpc-reason"] == "QUEUE_DOWN"
    assert desk.answers[0]["rpc-stage-executed"] == "UNKNOWN"


async def test_each_undoing_is_confirmed_before_the_next_one_and_before_the_answer(desk: Desk) -> None:
    desk.fails = True
    await desk.run(FIRST, SECOND, Stage(REPORT), at=2)
    assert desk.copies == [(b"shop", b"unpack")]
    desk.confirmed()
    assert desk.copies == [(b"shop", b"unpack"), (b"shop", b"refund")]
    assert desk.answers == []
    desk.confirmed()
    assert desk.answers[0]["rpc-undone"] is True
    assert desk.channel.settlements == {1: 1}


async def test_no_more_is_undone_once_the_broker_delivers_the_request_again(desk: Desk) -> None:
    desk.fails = True
    await desk.run(FIRST, SECOND, Stage(REPORT), at=2)
    desk.channel.closed = ChannelClosed(406, "no ack in time")
    desk.worker.channel_lost()
    desk.confirmed()
    assert desk.copies == [(b"shop", b"unpack")]


async def test_nothing_is_undone_of_a_hand_over_that_failed_after_the_request_was_the_brokers_again(desk: Desk) -> None:
    await desk.run(FIRST, Stage(REPORT), Stage("other.run"), at=1)
    desk.returned()
    desk.channel.closed = ChannelClosed(406, "no ack in time")
    desk.worker.channel_lost()
    desk.returned()
    assert desk.copies == [(b"other", b"run>")] * 2


@pytest.mark.parametrize("call", [True, False])
async def test_what_undoes_is_never_said_to_be_on_its_way_if_it_is_nowhere(desk: Desk, call: bool) -> None:
    desk.fails = True
    await desk.run(FIRST, Stage(REPORT), at=1, call=call)
    desk.returned()
    desk.returned()
    assert desk.copies[-1] == (b"shop.dead", b"refund>")
    desk.returned()  # nor is there a dead queue
    assert desk.copies[3:] == []
    assert desk.channel.settlements == {1: 1}
    assert ["rpc-undone" in answer for answer in desk.answers] == [False] * call
