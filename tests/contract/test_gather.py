"""Gather and broadcast: every instance of a service is asked, each answers once, and who does not is told of."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from tests.support.serving import serving
from tests.support.waiting import PATIENCE, until, until_ended, within
from warren import (
    AsyncClient,
    CallError,
    Client,
    DeadlineExceeded,
    Execution,
    InvalidArgument,
    MethodNotFound,
    Overloaded,
    Pipeline,
    Progress,
    Server,
    Service,
    Unavailable,
    current_call,
)
from warren.amqp.frames import Properties, encode_properties
from warren.client.gathering import Answer
from warren.client.roll_call import RollCall
from warren.connection.dial import open_link
from warren.connection.settings import make_settings
from warren.control.asking import Asking, Questions
from warren.operate.asked import ask
from warren.operate.queues import look
from warren.operate.silent import find
from warren.operate.told import Process
from warren.protocol import topology
from warren.protocol.control import read_question, to_service


class Shop:
    """One instance's service: it counts what it is asked."""

    def __init__(self, name: str, number: int, concurrency: int | None = None) -> None:
        self.number = number
        self.asked = 0
        self.running = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.service = service = Service(name, concurrency=concurrency)

        @service.method(broadcast=True)
        async def stock(item: str) -> int:
            self.asked += 1
            return len(item) + 100 * self.number

        @service.method(broadcast=True, delivery="at-most-once")
        def clear() -> None:
            self.asked += 1

        @service.method(broadcast=True)
        async def odd() -> int:
            if self.number % 2:
                raise ValueError(f"{self.number} is odd")
            return self.number

        @service.method(broadcast=True)
        async def hang() -> str:
            self.running.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return current_call().method

        @service.method
        async def charge() -> None:
            self.asked += 1

        @service.method(broadcast=True)
        async def count() -> int:
            current_call().progress(self.number + 1)
            await self.go_on.wait()
            return self.number

        self.stock, self.clear, self.odd, self.hang, self.charge = stock, clear, odd, hang, charge
        self.count = count


@asynccontextmanager
async def shops(url: str, name: str, count: int, **options: Any) -> AsyncIterator[tuple[list[Shop], AsyncClient]]:
    async with AsyncExitStack() as stack:
        made = [Shop(name, number) for number in range(count)]
        for shop in made:
            await stack.enter_async_context(serving(shop.service, url=url, **options))
        yield made, await stack.enter_async_context(AsyncClient(url, timeout=30))


async def test_every_instance_answers_once_and_says_who_it_is(url: str, service_name: str) -> None:
    async with shops(url, service_name, 3) as (made, client):
        answers = [answer async for answer in client.gather(made[0].stock, "tea")]
        assert sorted(answer.result() for answer in answers) == [3, 103, 203]
        assert len({answer.instance for answer in answers}) == 3
        assert [shop.asked for shop in made] == [1, 1, 1]
        assert client.statistics.in_flight == 0
        assert client.ignored_replies == 0


async def test_a_call_of_such_a_method_is_a_call_as_ever(url: str, service_name: str) -> None:
    async with shops(url, service_name, 2) as (made, client):
        assert await client.call(made[0].stock, "tea") in (3, 103)
        assert sum(shop.asked for shop in made) == 1


async def test_the_progress_of_every_instance_is_told(url: str, service_name: str) -> None:
    told: set[float] = set()

    async with shops(url, service_name, 2) as (made, client):

        def on_progress(progress: Progress) -> None:
            told.add(progress.done)
            if told == {1, 2}:
                for shop in made:
                    shop.go_on.set()

        answers = [answer async for answer in client.options(on_progress=on_progress).gather(made[0].count)]
        assert sorted(answer.result() for answer in answers) == [0, 1]


def test_a_thread_gathers_too(url: str, service_name: str) -> None:
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with shops(url, service_name, 2):
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        with Client(url, timeout=30) as client:
            answers = list(client.gather(f"{service_name}.stock", "tea", returns=int))
            assert sorted(answer.result() for answer in answers) == [3, 103]
            told = client.broadcast(f"{service_name}.clear")
            assert (len(told.told), told.all) == (2, True)
            for _ in client.gather(f"{service_name}.stock", "tea"):
                break
            assert client.call(f"{service_name}.stock", "tea") in (3, 103)
    finally:
        stop.set()
        until_ended(thread)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_broadcast_tells_whom_it_has_reached(url: str, service_name: str, encoding: Any) -> None:
    async with shops(url, service_name, 3) as (made, client):
        told = await client.options(encoding=encoding, headers={"tenant": "acme"}).broadcast(made[0].clear)
        assert (len(told.told), told.failed, told.silent, told.all) == (3, {}, 0, True)
        assert [shop.asked for shop in made] == [1, 1, 1]


async def test_what_one_instance_raises_is_its_own_answer(url: str, service_name: str) -> None:
    async with shops(url, service_name, 3) as (made, client):
        answers = [answer async for answer in client.gather(made[0].odd)]
        assert sorted(answer.result() for answer in answers if answer.error is None) == [0, 2]
        (failed,) = [answer for answer in answers if answer.error is not None]
        assert isinstance(failed.error, CallError)
        assert failed.error.execution is Execution.EXECUTED
        assert "1 is odd" in str(failed.error)
        with pytest.raises(CallError):
            failed.result()
        told = await client.broadcast(made[0].odd)
        assert (len(told.told), list(told.failed), told.all) == (2, [failed.instance], False)


async def test_an_answer_comes_before_the_others_have_answered(url: str, service_name: str) -> None:
    async with shops(url, service_name, 2) as (made, client):
        made[0].go_on.set()
        answers = client.gather(made[0].hang)
        first = await anext(answers)
        assert first.result() == f"{service_name}.hang"
        await within(made[1].running.wait(), "the handler")
        made[1].go_on.set()
        assert [answer.result() async for answer in answers] == [f"{service_name}.hang"]


async def test_who_stops_taking_answers_gives_up_the_rest(url: str, service_name: str) -> None:
    async with shops(url, service_name, 2) as (made, client):
        made[0].go_on.set()
        answers = client.gather(made[0].hang)
        await anext(answers)
        await within(made[1].running.wait(), "the handler")
        await answers.aclose()
        await asyncio.wait_for(made[1].cancelled.wait(), 20)
        assert client.statistics.in_flight == 0


# --- who may not be asked -----------------------------------------------------------------------------------------


async def test_a_method_that_does_not_allow_it_is_refused_by_each_instance(url: str, service_name: str) -> None:
    async with shops(url, service_name, 2) as (made, client):
        answers = [answer async for answer in client.gather(f"{service_name}.charge")]
        assert len(answers) == 2
        for answer in answers:
            assert isinstance(answer.error, MethodNotFound)
            assert (answer.error.reason, answer.error.execution) == ("BROADCAST", Execution.NOT_EXECUTED)
        assert [shop.asked for shop in made] == [0, 0]
        with pytest.raises(TypeError, match=r"broadcast=True"):
            client.gather(made[0].charge)
        with pytest.raises(TypeError, match=r"broadcast=True"):
            await client.broadcast(made[0].charge)


def test_a_method_with_items_is_not_asked_of_all_and_the_error_says_how_it_is_called(url: str) -> None:
    service = Service("s")

    @service.method
    def store(items: Iterator[int]) -> int:
        return len(list(items))

    @service.method
    def rows() -> Iterator[int]:
        yield 1

    client = Client(url)
    with pytest.raises(TypeError, match=r"takes items and has one result: call it with client\.upload"):
        client.gather(store, iter([1]))
    with pytest.raises(TypeError, match=r"yields items: call it with client\.stream"):
        client.broadcast(rows)


async def test_a_pipeline_is_not_asked_of_all(url: str) -> None:
    shop = Shop("shop", 0)
    client = AsyncClient(url)
    with pytest.raises(TypeError, match=r"<Pipeline shop.stock> passes one result on"):
        client.gather(Pipeline(shop.stock), "tea")
    with pytest.raises(TypeError, match=r"passes one result on"):
        await client.broadcast(Pipeline(shop.stock), "tea")


async def test_a_method_that_nobody_has_and_arguments_that_do_not_fit_are_refused_by_each(
    url: str, service_name: str
) -> None:
    async with shops(url, service_name, 2) as (_, client):
        answers = [answer async for answer in client.gather(f"{service_name}.nothing")]
        assert [type(answer.error) for answer in answers] == [MethodNotFound] * 2
        assert all("has no method 'nothing'" in str(answer.error) for answer in answers)
        answers = [answer async for answer in client.gather(f"{service_name}.stock", 3)]
        assert [type(answer.error) for answer in answers] == [InvalidArgument] * 2


async def test_nobody_there_is_said_at_once(url: str, service_name: str) -> None:
    async with AsyncClient(url, timeout=30) as client:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no process that serves") as caught:
            await client.broadcast(f"{service_name}.clear")
        assert caught.value.execution is Execution.NOT_EXECUTED
        assert time.monotonic() - began < 20


async def test_more_than_an_instance_takes_at_once_is_not_sent(url: str, service_name: str) -> None:
    async with AsyncClient(url, timeout=30) as client:
        with pytest.raises(Overloaded, match="send less") as caught:
            client.gather(f"{service_name}.stock", "x" * 300_000)
        assert caught.value.execution is Execution.NOT_SENT


async def test_several_services_of_a_process_are_asked_each_for_itself(url: str, service_name: str) -> None:
    one, other = Shop(f"{service_name}.one", 1), Shop(f"{service_name}.other", 2)
    async with Server(one.service, other.service, url=url), AsyncClient(url, timeout=30) as client:
        assert [a.result() async for a in client.gather(one.stock, "tea")] == [103]
        assert [a.result() async for a in client.gather(other.stock, "tea")] == [203]


# --- who is known of ----------------------------------------------------------------------------------------------


async def test_with_a_known_count_nobody_waits_for_more(url: str, service_name: str) -> None:
    async with shops(url, service_name, 2) as (made, client):
        answers = [answer async for answer in client.options(expect=2).gather(made[0].stock, "tea")]
        assert len(answers) == 2
        told = await client.options(expect=3, timeout=1.5).broadcast(made[0].clear)
        assert (len(told.told), told.failed, told.silent, told.all) == (2, {}, 1, False)


async def test_an_instance_that_had_to_hold_requests_aside_is_still_one_instance(url: str, service_name: str) -> None:
    shop, later = Shop(service_name, 0), Service(f"{service_name}-later")

    @later.method
    def note(price: int) -> None: ...

    async with serving(shop.service, url=url), AsyncClient(url, timeout=30) as client:
        with pytest.raises(Unavailable):  # its second stage has no queue: the request is held until that is certain
            await client.call(Pipeline(shop.stock).then(note), "tea")
        async with Asking(make_settings(url)) as asking:
            (standing,) = await look(asking.link, [service_name], 20)
            assert standing.consumers == 2
            heard = await ask(asking, "ping", to_service(service_name), Process, patience=2)
            assert find([standing], heard.said, heard.said) == []
        told = await client.broadcast(shop.clear)
        assert (len(told.told), told.all) == (1, True)


async def test_an_instance_that_lets_nobody_ask_is_counted_and_was_sent_nothing(url: str, service_name: str) -> None:
    shop, mute = Shop(service_name, 0), Shop(service_name, 1)
    both = serving(shop.service, url=url), serving(mute.service, url=url, control=None)
    async with both[0], both[1], AsyncClient(url, timeout=2) as client:
        answers = [answer async for answer in client.gather(shop.stock, "tea")]
        silent = [answer for answer in answers if answer.instance is None]
        assert len(answers) == 2
        assert len(silent) == 1
        assert isinstance(silent[0].error, Unavailable)
        assert (silent[0].error.reason, silent[0].error.execution) == ("NO_ANSWER", Execution.NOT_SENT)
        assert mute.asked == 0


async def test_an_instance_that_does_not_end_in_time_is_an_error_of_its_own(url: str, service_name: str) -> None:
    async with shops(url, service_name, 2) as (made, client):
        made[0].go_on.set()
        answers = [answer async for answer in client.options(timeout=2).gather(made[0].hang)]
        assert len(answers) == 2
        (late,) = [answer for answer in answers if answer.error is not None]
        assert isinstance(late.error, DeadlineExceeded)
        assert late.instance is not None


async def test_a_drained_instance_refuses_and_one_that_joins_later_is_not_asked(url: str, service_name: str) -> None:
    async with shops(url, service_name, 2, control="full") as (made, client):
        async with Asking(make_settings(url)) as asking:
            first, _ = await asking.gather("ping", to_service(service_name), patience=2)
            await asking.gather("drain", f"instance:{first.instance}", patience=2, first=True)
        told = await client.broadcast(made[0].clear)
        assert len(told.told) == 1
        error = told.failed[first.instance]
        assert isinstance(error, Unavailable)
        assert (error.reason, error.execution) == ("DRAINING", Execution.NOT_EXECUTED)
        late = Shop(service_name, 7)
        async with serving(late.service, url=url):
            assert late.asked == 0


async def test_what_waits_for_its_turn_is_refused_when_the_instance_drains(url: str, service_name: str) -> None:
    shop = Shop(service_name, 0, concurrency=1)
    async with AsyncClient(url, timeout=30) as client:
        async with serving(shop.service, url=url):
            running = asyncio.create_task(client.call(shop.hang))
            await within(shop.running.wait(), "the handler")
            asked = asyncio.create_task(client.broadcast(shop.clear))
            async with Asking(make_settings(url)) as asking:

                async def waits() -> bool:
                    said = await asking.gather("stats", to_service(service_name), patience=1, first=True)
                    return bool(said and said[0].body["services"][service_name]["waiting"] == 1)

                async with asyncio.timeout(60):
                    while not await waits():
                        await asyncio.sleep(0.05)
            asyncio.get_running_loop().call_later(0.5, shop.go_on.set)
        (error,) = (await asked).failed.values()
        assert isinstance(error, Unavailable)
        assert (error.reason, error.execution) == ("DRAINING", Execution.NOT_EXECUTED)
        assert await running == f"{service_name}.hang"
        assert shop.asked == 0


async def test_an_instance_with_too_much_to_do_says_so(url: str, service_name: str) -> None:
    shop = Shop(service_name, 0, concurrency=1)
    async with serving(shop.service, url=url), AsyncClient(url, timeout=60) as client:
        running = asyncio.create_task(client.call(shop.hang))
        await within(shop.running.wait(), "the handler")
        asked = [asyncio.create_task(client.options(expect=1).broadcast(shop.clear)) for _ in range(110)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        (error,) = done.pop().result().failed.values()
        assert isinstance(error, Overloaded)
        assert (error.reason, error.execution) == ("INSTANCE_FULL", Execution.NOT_EXECUTED)
        shop.go_on.set()
        told = [await one for one in asked]
        assert sum(len(one.told) for one in told) == shop.asked < 110
        await running


async def test_who_is_cancelled_while_it_finds_out_who_is_there_leaves_no_channel(url: str, service_name: str) -> None:
    settings = make_settings(url)
    link = await open_link(settings, *settings.hosts[0])
    roll, asked = RollCall(lambda: link), [Questions() for _ in range(60)]

    async def cancelled(work: Coroutine[Any, Any, Any], after: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(after):
                await work

    async def is_tidy() -> bool:
        channel = await link.channel()  # which has the lowest number that is free; there may be gaps
        await channel.close()
        return channel.number <= 1 + sum(questions.is_open for questions in asked)

    async with shops(url, service_name, 1):
        for number, questions in enumerate(asked):  # one by one, so that they get to different points
            await cancelled(roll.counted(service_name), number / 20_000)
            await cancelled(questions.open(link), number / 10_000)
        async with asyncio.timeout(PATIENCE):
            while not await is_tidy():
                await asyncio.sleep(0.05)
    await link.close()


# --- hostile ------------------------------------------------------------------------------------------------------


async def test_somebody_who_answers_twice_or_for_nobody_is_not_believed(url: str, service_name: str) -> None:
    settings = make_settings(url)
    link = await open_link(settings, *settings.hosts[0])
    channel = await link.hot_channel()

    class Liar:
        def delivered(self, channel: Any, delivery: Any) -> None:
            question = read_question(delivery.properties, b"{}")
            p = encode_properties(
                Properties(content_type=b"application/json", type=b"ping", correlation_id=question.id)
            )
            for said in (b"\xff", b"[]", b"{}", b'{"instance": 3}', b'{"instance": "ghost"}', b'{"instance": "ghost"}'):
                channel.publish_unrouted(b"", question.reply_to, p, said)

        def confirmed(self, tag: int, multiple: bool) -> None: ...
        def refused(self, tag: int, multiple: bool) -> None: ...
        def returned(self, message: Any) -> None: ...
        def consumer_cancelled(self, channel: Any) -> None: ...

    async with shops(url, service_name, 1) as (made, client):
        channel.attach(Liar(), body_limit=1000)
        queue = await channel.declare_reply_queue()
        await channel.bind(queue, topology.CONTROL_EXCHANGE, to_service(service_name))
        await channel.consume(queue, no_ack=True)
        answers: list[Answer[int]] = [answer async for answer in client.gather(made[0].stock, "tea")]
        assert [answer.result() for answer in answers if answer.error is None] == [3]
        (ghost,) = [answer for answer in answers if answer.error is not None]
        assert ghost.instance == "ghost"
        assert isinstance(ghost.error, Unavailable)
        assert (ghost.error.reason, ghost.error.execution) == ("NO_ROUTE", Execution.NOT_EXECUTED)
    await link.close()


async def test_requests_that_cannot_be_read_harm_nobody(url: str, service_name: str) -> None:
    settings = make_settings(url)
    async with shops(url, service_name, 1) as (made, client):
        link = await open_link(settings, *settings.hosts[0])
        channel = await link.hot_channel()
        exchange, key = topology.CONTROL_EXCHANGE.encode(), to_service(service_name).encode()
        for name in (f"{service_name}.stock", ".", "nobody.stock", f"{service_name}.", f"{service_name}.charge"):
            for body in (b"\xff", b"[1, 2, 3]", msgspec.json.encode(["tea"])):
                for reply_to in (None, b"amq.rabbitmq.reply-to.forged", b"nowhere"):
                    p = Properties(type=name.encode(), content_type=b"application/json", reply_to=reply_to)
                    channel.publish_unrouted(exchange, key, encode_properties(p), body)
        await until(lambda: made[0].asked == 3)  # what could be read and is allowed: those with ["tea"]
        assert [a.result() async for a in client.gather(made[0].stock, "tea")] == [3]
        await link.close()
