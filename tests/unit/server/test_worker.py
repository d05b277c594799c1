"""A worker's promises about one request, over a channel that writes down what it is told."""

import asyncio
import contextvars
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.support.fake_channel import FakeChannel
from tests.support.odd_errors import ODD, Unwritable
from tests.support.waiting import until

from warren import Service, current_call
from warren.amqp.frames import Delivery, Properties, decode_properties, encode_properties
from warren.amqp.tables import decode_table, encode_table
from warren.connection.channel import HotChannel
from warren.connection.errors import LinkLost
from warren.server.worker import Worker

_VARIABLE = contextvars.ContextVar("_VARIABLE", default="nobody's")


class Desk:
    """A worker of one service, and both of its channels."""

    def __init__(self, service: Service, concurrency: int = 10) -> None:
        self.channel, self.elsewhere = FakeChannel(), FakeChannel()
        self.worker = Worker(service, concurrency, "server", "a process")
        self.worker.copies.attach(cast(HotChannel, self.elsewhere))
        self._tags = 0

    def deliver(
        self, method: str, body: bytes = b"[]", *, call: bool = True, headers: dict[str, Any] | None = None
    ) -> None:
        self._tags += 1
        p = Properties(table=encode_table({"rpc-v": 1} | (headers or {})), type=method.encode(), correlation_id=b"id")
        p.content_type = b"application/json"
        p.reply_to = b"replies" if call else None
        delivery = Delivery(self._tags, False, b"\x06warren\x03any")
        delivery.properties, delivery.body, delivery.body_size = encode_properties(p), body, len(body)
        self.worker.delivered(cast(HotChannel, self.channel), delivery)

    async def rest(self) -> list[dict[str, Any]]:
        """Drain it; returns what each reply says of errors."""
        await self.worker.finish_running(30.0)
        self.worker.close()
        return [decode_table(decode_properties(head).table or b"") for _, head in self.channel.published]


@pytest.fixture
def service() -> Service:
    return Service("any")


async def test_a_task_that_is_cancelled_before_its_first_step_is_answered_and_gives_its_place_back(
    service: Service,
) -> None:
    """No task has a step when it is made where the application makes the loop's tasks: it has to be cancelled first."""
    entered: list[int] = []

    @service.method
    async def work() -> None:
        entered.append(1)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))
    desk = Desk(service, concurrency=1)
    for _ in range(3):
        before = asyncio.all_tasks()
        desk.deliver("work")
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [reply["rpc-executed"] for reply in await desk.rest()] == ["NOT_EXECUTED"] * 3
    assert desk.channel.settlements == {1: 1, 2: 1, 3: 1}
    assert entered == []


eager_only = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has no eager tasks before 3.12")


@eager_only
@pytest.mark.parametrize("fails", [False, True])
async def test_a_handler_that_waits_for_nothing_is_answered_in_the_turn_in_which_its_request_came(
    service: Service, fails: bool
) -> None:
    entered: list[int] = []

    @service.method
    async def work() -> None:
        entered.append(1)
        if fails:
            raise asyncio.CancelledError

    desk = Desk(service, concurrency=1)
    for number in range(1, 4):
        desk.deliver("work")
        assert len(desk.channel.published) == len(entered) == number
    assert [reply.get("rpc-executed") for reply in await desk.rest()] == ["EXECUTED" if fails else None] * 3


@eager_only
async def test_the_first_step_runs_in_its_own_task_and_context_and_leaves_none_of_it_behind(service: Service) -> None:
    seen: list[asyncio.Task[Any] | None] = []
    gate = asyncio.Event()

    @service.method
    async def work() -> None:
        _VARIABLE.set("the handler's")
        assert current_call().method == "any.work"
        seen.append(asyncio.current_task())
        async with asyncio.timeout(30):
            await gate.wait()
        seen.append(asyncio.current_task())

    ours = asyncio.current_task()
    desk = Desk(service)
    desk.deliver("work")
    assert asyncio.current_task() is ours
    assert _VARIABLE.get() == "nobody's"
    with pytest.raises(LookupError):
        current_call()
    gate.set()
    assert [reply.get("rpc-executed") for reply in await desk.rest()] == [None]
    first, later = seen
    assert first is later is not ours


@eager_only
async def test_a_handler_that_is_cut_off_after_its_first_step_is_answered(service: Service) -> None:
    @service.method
    async def work() -> None:
        await asyncio.Event().wait()

    desk = Desk(service, concurrency=1)
    desk.deliver("work", headers={"rpc-timeout-ms": 50})
    desk.worker.stop_taking()
    (reply,) = await asyncio.wait_for(desk.rest(), 20)
    assert (reply["rpc-reason"], reply["rpc-executed"]) == ("HANDLER", "EXECUTED")


async def test_thousands_that_wait_for_one_place_and_end_at_once_do_not_pile_up_on_the_stack(service: Service) -> None:
    gate = asyncio.Event()

    @service.method(concurrency=1)
    async def work(first: bool) -> None:
        if first:
            await gate.wait()

    desk = Desk(service)
    desk.deliver("work", b"[true]")
    for _ in range(3_000):
        desk.deliver("work", b"[false]")
    gate.set()
    async with asyncio.timeout(60):
        while len(desk.channel.published) < 3_001:
            before = len(desk.channel.published)
            await asyncio.sleep(0)
            assert len(desk.channel.published) - before <= 300  # the loop turns meanwhile, for others
    assert [reply.get("rpc-executed") for reply in await desk.rest()] == [None] * 3_001


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("how", ["raised", "returned"])
async def test_every_exception_and_every_value_is_answered_and_gives_its_place_back(
    service: Service, odd: str, threaded: bool, how: str
) -> None:
    def end() -> Any:
        if how == "raised":
            raise ODD[odd]()
        return Unwritable(ODD[odd])

    async def work() -> Any:
        return end()

    service.method(name="work")(end if threaded else work)
    desk = Desk(service, concurrency=1)
    desk.deliver("work")
    (reply,) = await desk.rest()
    assert reply["rpc-executed"] == "EXECUTED"
    assert desk.channel.settlements == {1: 1}


async def test_a_time_limit_counts_from_the_beginning_and_shortens_no_cast_that_is_handed_back(
    service: Service,
) -> None:
    gate = asyncio.Event()

    @service.method(delivery="at-most-once", time_limit=20.0)
    async def work() -> None:
        await gate.wait()

    desk = Desk(service, concurrency=1)
    desk.deliver("work", call=False)
    desk.deliver("work", call=False)
    await asyncio.sleep(0)
    desk.worker.stop_taking()
    desk.worker.hand_back()
    ((key, head),) = desk.elsewhere.published
    desk.elsewhere.receiver.confirmed(1, False)
    assert (key, decode_properties(head).expiration) == (b"any", None)
    gate.set()
    await desk.rest()


async def test_what_comes_behind_the_hand_back_of_a_drain_is_handed_back_at_its_end(service: Service) -> None:
    gate = asyncio.Event()

    @service.method
    async def work() -> None:
        await gate.wait()

    desk = Desk(service)
    desk.deliver("work")
    desk.worker.stop_taking()
    desk.worker.hand_back()
    desk.deliver("work")  # the broker has not stopped the consumer yet
    draining = asyncio.create_task(desk.rest())
    gate.set()
    await until(lambda: desk.elsewhere.published)
    desk.elsewhere.receiver.confirmed(1, False)
    await draining
    assert desk.channel.settlements == {1: 1, 2: 1}


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_handler_that_middleware_has_left_behind_is_not_entered_after_its_call_has_ended(
    threaded: bool,
) -> None:
    left: list[asyncio.Task[Any]] = []
    entered: list[int] = []

    async def leave(_call: Any, proceed: Callable[[], Any]) -> Any:
        left.append(asyncio.ensure_future(proceed()))
        raise PermissionError("no")

    async def work() -> None:
        entered.append(1)

    service = Service("any", middleware=[leave])
    service.method(name="work")((lambda: entered.append(1)) if threaded else work)
    desk = Desk(service)
    desk.deliver("work")
    await asyncio.wait([*asyncio.all_tasks() - {asyncio.current_task()}])
    (reply,) = await desk.rest()
    assert (reply["rpc-executed"], entered) == ("NOT_EXECUTED", [])
    assert left[0].cancelled()


async def test_a_handler_that_middleware_does_not_wait_for_holds_its_place() -> None:
    gate = asyncio.Event()
    running: list[int] = []

    async def leave(_call: Any, proceed: Callable[[], Any]) -> str:
        running.append(1)
        task = asyncio.ensure_future(proceed())
        task.add_done_callback(lambda _: running.pop())
        await asyncio.sleep(0)
        return "early"

    service = Service("any", middleware=[leave])

    @service.method(delivery="at-most-once")
    async def work() -> None:
        assert len(running) == 1
        await gate.wait()

    desk = Desk(service, concurrency=1)
    desk.deliver("work")
    desk.deliver("work")
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(running) == 1
    gate.set()
    assert len(await desk.rest()) == 2


async def test_middleware_that_fails_before_the_handler_says_that_it_was_not_executed() -> None:
    async def refuse(_call: Any, _proceed: Any) -> None:
        raise SystemExit(3)

    service = Service("any", middleware=[refuse])

    @service.method
    async def work() -> None: ...

    desk = Desk(service)
    desk.deliver("work")
    (reply,) = await desk.rest()
    assert reply["rpc-executed"] == "NOT_EXECUTED"


@pytest.mark.parametrize(
    ("body", "method", "timeout", "reason"),
    [
        pytest.param(b"[]", "gone", 30_000, "METHOD", id="method"),
        pytest.param(b'["x"]', "work", 30_000, "VALIDATION", id="validation"),
        pytest.param(b"{", "work", 30_000, "DECODE", id="decode"),
        pytest.param(b"[1]", "work", 0, "ON_ARRIVAL", id="on arrival"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
async def test_a_refusal_proves_something_only_where_no_earlier_attempt_may_have_run(
    service: Service, body: bytes, method: str, timeout: int, reason: str, earlier: bool
) -> None:
    @service.method
    async def work(n: int) -> None: ...

    desk = Desk(service)
    desk.deliver(method, body, headers={"rpc-timeout-ms": timeout} | ({"rpc-attempt": 2} if earlier else {}))
    (reply,) = await desk.rest()
    assert (reply["rpc-reason"], reply["rpc-executed"]) == (reason, "UNKNOWN" if earlier else "NOT_EXECUTED")


async def test_what_a_def_returned_to_be_awaited_ends_at_the_deadline(service: Service) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    def work() -> Any:
        return never()

    service.method(name="work")(work)
    desk = Desk(service)
    desk.deliver("work", headers={"rpc-timeout-ms": 50})
    (reply,) = await asyncio.wait_for(desk.rest(), 20)
    assert reply["rpc-reason"] == "HANDLER"


async def test_without_a_thread_for_it_a_call_is_answered_and_gives_its_place_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", no_thread)

    @service.method
    def work() -> None: ...

    desk = Desk(service, concurrency=1)
    desk.deliver("work")
    desk.deliver("work")
    replies = await desk.rest()
    assert [(r["rpc-reason"], r["rpc-executed"]) for r in replies] == [("SERVER", "NOT_EXECUTED")] * 2
    assert desk.worker.statistics.as_object()["refused"] == {"work": {"SERVER": 2}}


@pytest.mark.parametrize("call", [True, False])
async def test_a_request_that_cannot_be_written_again_for_another_worker_is_answered_or_set_aside(
    service: Service, call: bool
) -> None:
    """Its caller may have asked for no bounce, as that of a lean call or a large one: a reject would tell nobody."""
    service.method(name="work")(lambda: None)
    desk = Desk(service)
    desk.elsewhere.room = 400  # far less than that of the request's sender
    desk.worker.copies.attach(cast(HotChannel, desk.elsewhere))
    desk.worker.stop_taking()
    desk.deliver("work", call=call, headers={"h": "x" * 500})
    desk.worker.hand_back()
    desk.elsewhere.receiver.confirmed(1, False)
    replies = await desk.rest()
    assert [(reply["rpc-reason"], reply["rpc-executed"]) for reply in replies] == [("HAND_BACK", "NOT_EXECUTED")] * call
    assert [key for key, _ in desk.elsewhere.published] == [b"any.dead"] * (not call)
    assert desk.channel.settlements == {1: 1}


async def test_the_reply_to_what_nobody_will_get_again_goes_over_another_channel_if_its_own_is_gone(
    service: Service,
) -> None:
    gate = asyncio.Event()

    async def work() -> int:
        await gate.wait()
        return 7

    service.method(name="once", delivery="at-most-once")(work)

    @service.method
    async def report() -> int:
        return await work()

    desk = Desk(service)
    desk.deliver("once")
    desk.deliver("report")
    await asyncio.sleep(0)
    desk.channel.closed = LinkLost("cut")
    desk.worker.link_lost()
    gate.set()
    while desk.worker.holding.running:
        await asyncio.sleep(0)
    assert desk.elsewhere.published == []
    link = FakeChannel()
    desk.worker.copies.attach(cast(HotChannel, link))
    assert [key for key, _ in link.published] == [b"replies"]
    desk.worker.link_lost()  # before the confirm: one reply is enough
    desk.worker.copies.attach(cast(HotChannel, FakeChannel()))
    assert await desk.rest() == []
