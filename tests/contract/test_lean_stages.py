"""Lean pipelines: requests of their stages without a confirm, where the queues of all are known to take everything."""

import asyncio
import json
from typing import Any

import pika
import pytest

from tests.contract.test_endings import declare_queue
from tests.contract.test_lean import LEAN, answer, taken
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Execution, Pipeline, Service, Unavailable
from warren.protocol.stage import TRUST


class Two:
    """A pipeline whose first stage is a Warren service's; the second is played by the test."""

    def __init__(self, name: str, delivery: Any = "report", **options: Any) -> None:
        self.first, self.second = Service(f"{name}-one", **options), Service(f"{name}-two")
        self.go, self.begun = asyncio.Event(), asyncio.Event()
        self.go.set()

        @self.first.method(delivery=delivery)
        async def begin(n: int) -> int:
            self.begun.set()
            await self.go.wait()
            return n

        @self.second.stub
        async def end(n: int) -> int:
            raise NotImplementedError

        self.queue = self.second.name
        self.whole = Pipeline(begin).then(end)

    async def run(self, client: AsyncClient, raw: Any, headers: dict[str, Any] | None = LEAN) -> Any:
        """The second stage's request; it is answered, with these headers."""
        call = asyncio.create_task(client.call(self.whole, 1))
        request = await taken(raw, self.queue)
        answer(raw, request, headers)
        assert await call == 1
        return request


def is_lean(request: Any) -> bool:
    """Whether it was handed over without a confirm: only then its slip says that it may be."""
    lean = json.loads(request.headers["rpc-slip"]).get("lean", False)
    assert not (lean and ("CC" in request.headers or "rpc-lean" in request.headers))
    return lean is True


async def test_a_pipeline_is_lean_once_its_last_worker_says_that_all_queues_take_everything(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    two = Two(service_name)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url):
        for word, lean in ((None, False), (LEAN, False), (None, True)):
            request = await two.run(client, raw, word)
            assert is_lean(request) is lean
            assert request.headers.get("rpc-lean", False) is not lean
            assert request.type == "end>"
            assert request.message_id
        await asyncio.sleep(TRUST)
        assert not is_lean(await two.run(client, raw))


@pytest.mark.parametrize("options", [{"max_length": 5}, {"queue": "quorum"}])
async def test_a_worker_whose_queue_may_refuse_a_request_lets_no_later_one_say_so(
    client: AsyncClient, url: str, raw: Any, service_name: str, options: dict[str, Any]
) -> None:
    two = Two(service_name, **options)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url):
        request = await two.run(client, raw)
        assert "rpc-lean" not in request.headers


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
async def test_what_may_run_again_or_was_let_go_before_is_confirmed(
    client: AsyncClient, url: str, raw: Any, service_name: str, delivery: str
) -> None:
    two = Two(service_name, delivery)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url):
        for _ in range(2):
            assert not is_lean(await two.run(client, raw))


async def test_a_word_that_is_old_when_its_stage_ends_does_not_count(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    two = Two(service_name)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url):
        await two.run(client, raw)
        two.go.clear()
        two.begun.clear()
        call = asyncio.create_task(client.call(two.whole, 1))
        await asyncio.sleep(TRUST)
        two.go.set()
        request = await taken(raw, two.queue)
        assert not is_lean(request)
        answer(raw, request, None)
        assert await call == 1


async def test_headers_of_the_application_go_along(client: AsyncClient, url: str, raw: Any, service_name: str) -> None:
    two = Two(service_name)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url):
        view = client.options(headers={"trace": "x"})
        assert not is_lean(await two.run(view, raw))
        request = await two.run(view, raw)
        assert is_lean(request)
        assert request.headers["trace"] == "x"
        assert request.app_id == "the-tests"


async def test_a_lean_request_whose_queue_is_gone_is_published_when_that_is_back(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    two = Two(service_name)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url):
        await two.run(client, raw)
        raw.queue_delete(two.queue)
        call = asyncio.create_task(client.call(two.whole, 1))
        await asyncio.sleep(0.2)
        declare_queue(raw, two.queue)
        request = await taken(raw, two.queue)
        assert is_lean(request)
        answer(raw, request, None)
        assert await call == 1


async def test_while_requests_come_back_a_worker_keeps_what_it_hands_over(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    """What waits to be published again is bounded by its prefetch, which counts what it has not let go."""
    two = Two(service_name)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url, concurrency=5) as server:
        await two.run(client, raw)
        raw.queue_delete(two.queue)
        copies = server._posts[0].worker.copies
        calls = [asyncio.create_task(client.options(timeout=20).call(two.whole, 1))]
        await until(lambda: len(copies))
        calls += [asyncio.create_task(client.options(timeout=20).call(two.whole, n)) for n in range(20)]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, len(copies))
            await asyncio.sleep(0.01)
        assert most <= 1 + 5 + 5  # where requests wait, others may come in their stead, once
        for call in calls:
            with pytest.raises(Unavailable, match="NO_ROUTE"):
                await call


async def test_a_worker_that_stops_waits_for_what_may_come_back(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    two = Two(service_name)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url) as server:
        await two.run(client, raw)
        raw.queue_delete(two.queue)
        two.go.clear()
        two.begun.clear()
        call = asyncio.create_task(client.options(timeout=20).call(two.whole, 1))
        await two.begun.wait()
        server.stop()
        await until(lambda: not raw.queue_declare(two.first.name, passive=True).method.consumer_count)
        await asyncio.sleep(0.1)  # what it still asks the broker now would be an answer behind what comes back
        two.go.set()
    with pytest.raises(Unavailable) as raised:
        await call
    assert raised.value.reason == "NO_ROUTE"


async def test_a_lean_request_whose_queue_stays_away_names_its_stage_and_is_not_believed_again(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    two = Two(service_name)
    declare_queue(raw, two.queue)
    async with serving(two.first, url=url):
        await two.run(client, raw)
        raw.queue_delete(two.queue)
        with pytest.raises(Unavailable) as raised:
            await client.options(timeout=5).call(two.whole, 1)
        assert raised.value.reason == "NO_ROUTE"
        assert raised.value.stage == (2, f"{two.queue}.end", Execution.NOT_EXECUTED, False)
        assert raised.value.execution is Execution.EXECUTED
        declare_queue(raw, two.queue)
        for _ in range(2):
            assert not is_lean(await two.run(client, raw))


async def test_a_later_queue_that_refuses_a_request_all_the_same_is_not_believed_again(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    """A policy limits it, of which its worker does not know."""
    two = Two(service_name)
    declare_queue(raw, two.queue, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    async with serving(two.first, url=url):
        await two.run(client, raw)
        await asyncio.sleep(TRUST)
        raw.basic_publish("", two.queue, b"")
        with pytest.raises(CallError) as raised:
            await client.options(timeout=5).call(two.whole, 1)
        assert raised.value.reason == "QUEUE_DOWN"
        raw.basic_get(two.queue, auto_ack=True)
        for _ in range(2):
            assert not is_lean(await two.run(client, raw))


async def test_a_pipeline_that_fails_fast_or_undoes_or_is_cast_is_never_lean(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    two = Two(service_name)

    @two.first.method(delivery="at-least-once")
    async def undo(n: int) -> None: ...

    declare_queue(raw, two.queue)
    undone = Pipeline(two.whole._stages[0].method.function, undo=undo).then(two.whole._stages[1].method.function)
    async with serving(two.first, url=url):
        await two.run(client, raw)
        await client.cast(two.whole, 1)
        assert not is_lean(await taken(raw, two.queue))
        call = asyncio.create_task(client.call(undone, 1))
        request = await taken(raw, two.queue)
        assert not is_lean(request)
        assert request.delivery_mode == 2
        answer(raw, request, None)
        assert await call == 1


async def test_a_lean_word_in_a_foreign_slip_is_taken_by_no_worker_that_has_something_to_undo(
    url: str, raw: Any, service_name: str
) -> None:
    two = Two(service_name)
    declare_queue(raw, two.queue)
    stages = [{"to": f"{two.first.name}.begin", "undo": f"{two.first.name}.undo"}, {"to": f"{two.queue}.end"}]
    headers = {"rpc-v": 1, "rpc-timeout-ms": 30_000, "rpc-slip": json.dumps({"stages": stages, "lean": True})}
    properties = pika.BasicProperties(type="begin>", correlation_id="x", reply_to="nobody", headers=headers)
    properties.content_type = "application/json"
    async with serving(two.first, url=url):
        raw.basic_publish("warren", two.first.name, b"[1]", properties)
        request = await taken(raw, two.queue)
    assert not is_lean(request)
    assert request.delivery_mode == 2
