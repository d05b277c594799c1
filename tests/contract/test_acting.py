"""What operators do to running servers: drain and resume them, cancel calls, set how much they do and say."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.waiting import until
from warren import AsyncClient, CallError, Cancelled, Code, Execution, Server, Service, current_call
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.protocol.control import to_service

ACTING = ["drain", "resume", "concurrency", "log-level"]


class Works:
    """A service whose handlers begin, and end when they are let go."""

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, **options)
        self.begun: list[str] = []
        self.go = asyncio.Event()
        self.most = 0
        self.at_a_time = 0
        self.thread_goes = threading.Event()

        @self.service.method
        async def work(who: str) -> str:
            self.begun.append(who)
            self.at_a_time += 1
            self.most = max(self.most, self.at_a_time)
            try:
                await self.go.wait()
            finally:
                self.at_a_time -= 1
            return who

        @self.service.method
        def in_thread(who: str) -> bool:
            self.begun.append(who)
            while not self.thread_goes.is_set() and not current_call().wait_cancelled(0.05):
                pass
            return current_call().cancelled

        self.work, self.in_thread = work, in_thread


@asynccontextmanager
async def works(url: str, name: str, **options: Any) -> AsyncIterator[tuple[Works, AsyncClient, Asking]]:
    made = Works(name, **options)
    server = Server(made.service, url=url, control="full")
    async with server, AsyncClient(url, timeout=60, name="till") as client, Asking(make_settings(url)) as asking:
        yield made, client, asking
        made.go.set()
        made.thread_goes.set()


async def ask(asking: Asking, verb: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    (answer,) = await asking.gather(verb, to_service(name), body, patience=60, first=True)
    assert answer.error is None, answer.error
    return answer.body


async def refused(asking: Asking, verb: str, name: str, body: dict[str, Any] | None = None) -> CallError:
    (answer,) = await asking.gather(verb, to_service(name), body, patience=60, first=True)
    assert answer.error is not None
    return answer.error


async def until_state(asking: Asking, name: str, state: str) -> None:
    while (await ask(asking, "health", name))["state"] != state:
        pass


# --- drain and resume ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["classic", "quorum"])
async def test_a_drained_process_finishes_what_runs_and_takes_nothing_until_it_is_resumed(
    url: str, service_name: str, queue: str
) -> None:
    async with works(url, service_name, concurrency=1, queue=queue) as (made, client, asking):
        first = asyncio.create_task(client.call(made.work, "first"))
        await until(lambda: made.begun == ["first"])
        waiting = asyncio.create_task(client.call(made.work, "waiting"))
        assert (await ask(asking, "drain", service_name))["state"] == "draining"
        assert not (await ask(asking, "health", service_name))["healthy"]
        made.go.set()
        assert await first == "first"
        await until_state(asking, service_name, "drained")
        late = asyncio.create_task(client.call(made.work, "late"))
        health = await ask(asking, "health", service_name)
        assert health == {
            "healthy": False,
            "state": "drained",
            "checks": {"connection": True, "consuming": {service_name: False}},
        }
        assert made.begun == ["first"]
        assert (await ask(asking, "resume", service_name))["state"] == "serving"
        assert [await waiting, await late] == ["waiting", "late"]
        await ask(asking, "stats", service_name)
        assert (await ask(asking, "health", service_name))["healthy"]


async def test_another_worker_gets_what_a_drained_one_has_not_begun(url: str, service_name: str) -> None:
    async with works(url, service_name, concurrency=2) as (made, client, asking):
        running = [asyncio.create_task(client.call(made.work, str(n))) for n in range(4)]
        await until(lambda: len(made.begun) == 2)
        other = Works(service_name)
        other.go.set()
        await ask(asking, "drain", service_name)
        async with Server(other.service, url=url):
            await until(lambda: len(other.begun) == 2)
        made.go.set()
        assert await asyncio.gather(*running) == ["0", "1", "2", "3"]
        assert sorted(made.begun + other.begun) == ["0", "1", "2", "3"]


async def test_whoever_drains_and_resumes_in_one_breath_is_obeyed_in_the_end(url: str, service_name: str) -> None:
    async with works(url, service_name) as (made, client, asking):
        made.go.set()
        for _ in range(5):
            await asyncio.gather(*(ask(asking, verb, service_name) for verb in ("drain", "resume")))
        assert await client.call(made.work, "a") == "a"
        await ask(asking, "drain", service_name)
        await ask(asking, "drain", service_name)
        await until_state(asking, service_name, "drained")


async def test_a_drained_server_stops_as_any_other(url: str, service_name: str) -> None:
    async with works(url, service_name) as (_, _client, asking):
        await ask(asking, "drain", service_name)
    assert await asking_is_over(url, service_name)


async def asking_is_over(url: str, name: str) -> bool:
    async with Asking(make_settings(url)) as asking:
        return await asking.gather("ping", to_service(name)) == []


async def test_a_drained_process_that_has_to_connect_again_stays_drained(
    url: str, service_name: str, broker: Any
) -> None:
    async with works(url, service_name) as (made, client, asking):
        await ask(asking, "drain", service_name)
        await until_state(asking, service_name, "drained")
        await asyncio.to_thread(broker.close_connections)
        made.go.set()
        async with Asking(make_settings(url)) as again:
            while (await again.gather("ping", to_service(service_name), first=True)) == []:
                pass
            assert (await ask(again, "health", service_name))["state"] == "drained"
            await ask(again, "resume", service_name)
            assert await client.call(made.work, "a") == "a"
            assert (await ask(again, "stats", service_name))["process"]["reconnects"] == 1


# --- cancel -------------------------------------------------------------------------------------------------------


async def cancelled_by_operator(task: "asyncio.Task[Any]") -> CallError:
    with pytest.raises(Cancelled, match="an operator has cancelled") as caught:
        await task
    assert caught.value.reason == "OPERATOR"
    return caught.value


async def test_a_call_that_an_operator_cancels_is_stopped_and_its_caller_told(url: str, service_name: str) -> None:
    async with works(url, service_name, concurrency=1) as (made, client, asking):
        running = asyncio.create_task(client.call(made.work, "a"))
        await until(lambda: made.begun == ["a"])
        (call,) = (await ask(asking, "calls", service_name))["calls"]
        assert await ask(asking, "cancel", service_name, {"call_id": "another"}) == {"cancelled": 0}
        assert await ask(asking, "cancel", service_name, {"call_id": call["call_id"]}) == {"cancelled": 1}
        assert (await cancelled_by_operator(running)).execution is Execution.EXECUTED
        made.go.set()
        assert await client.call(made.work, "b") == "b"  # its place is free


async def test_the_caller_of_a_handler_in_a_thread_is_told_at_once_and_the_handler_may_ask(
    url: str, service_name: str
) -> None:
    async with works(url, service_name) as (made, client, asking):
        running = asyncio.create_task(client.call(made.in_thread, "a"))
        await until(lambda: made.begun == ["a"])
        (call,) = (await ask(asking, "calls", service_name))["calls"]
        await ask(asking, "cancel", service_name, {"call_id": call["call_id"]})
        assert (await cancelled_by_operator(running)).execution is Execution.EXECUTED
        while (await ask(asking, "stats", service_name))["services"][service_name]["running"]:
            pass
        failed = (await ask(asking, "stats", service_name))["services"][service_name]["methods"]["in_thread"]["failed"]
        assert failed == {"CANCELLED/OPERATOR": 1}


async def test_a_call_that_waits_for_its_place_is_cancelled_before_its_handler(url: str, service_name: str) -> None:
    service = Service(service_name)
    go, begun = asyncio.Event(), asyncio.Event()

    @service.method(concurrency=1)
    async def one_at_a_time() -> None:
        begun.set()
        await go.wait()

    async with (
        Server(service, url=url, control="full"),
        AsyncClient(url, timeout=60) as client,
        Asking(make_settings(url)) as asking,
    ):
        running = asyncio.create_task(client.call(one_at_a_time))
        await begun.wait()
        waiting = asyncio.create_task(client.call(one_at_a_time))
        while len(calls := (await ask(asking, "calls", service_name))["calls"]) < 2:
            pass
        assert [call["state"] for call in calls] == ["running", "waiting"]
        await ask(asking, "cancel", service_name, {"call_id": calls[1]["call_id"]})
        assert (await cancelled_by_operator(waiting)).execution is Execution.NOT_EXECUTED
        go.set()
        await running


# --- how much, and how loud ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["classic", "quorum"])
async def test_concurrency_changes_while_calls_run(url: str, service_name: str, queue: str) -> None:
    async with works(url, service_name, concurrency=1, queue=queue) as (made, client, asking):
        running = [asyncio.create_task(client.call(made.work, str(n))) for n in range(6)]
        await until(lambda: len(made.begun) == 1)
        body = {"service": service_name, "concurrency": 3}
        assert await ask(asking, "concurrency", service_name, body) == {**body, "was": 1}
        await until(lambda: len(made.begun) == 3)
        assert (await ask(asking, "stats", service_name))["services"][service_name]["concurrency"] == 3
        await ask(asking, "concurrency", service_name, {**body, "concurrency": 1})
        made.go.set()
        await asyncio.gather(*running)
        assert made.most == 3
        made.go.clear()
        again = [asyncio.create_task(client.call(made.work, str(n))) for n in range(6, 9)]
        await until(lambda: len(made.begun) == 7)
        while (await ask(asking, "stats", service_name))["services"][service_name]["running"] != 1:
            pass
        made.go.set()
        await asyncio.gather(*again)
        assert made.at_a_time == 0


async def test_threads_grow_with_concurrency(url: str, service_name: str) -> None:
    async with works(url, service_name, concurrency=1) as (made, client, asking):
        running = [asyncio.create_task(client.call(made.in_thread, str(n))) for n in range(3)]
        await until(lambda: len(made.begun) == 1)
        await ask(asking, "concurrency", service_name, {"service": service_name, "concurrency": 3})
        await until(lambda: len(made.begun) == 3)
        made.thread_goes.set()
        assert await asyncio.gather(*running) == [False] * 3


async def test_a_logger_is_made_louder_and_quieter(url: str, service_name: str) -> None:
    logger = logging.getLogger("warren.server")
    before = logger.level
    try:
        async with works(url, service_name) as (_, _client, asking):
            body = {"level": "DEBUG", "logger": "warren.server"}
            assert (await ask(asking, "log-level", service_name, body))["level"] == "DEBUG"
            assert logger.level == logging.DEBUG
            answer = await ask(asking, "log-level", service_name, {**body, "level": "NOTSET"})
            assert (answer["was"], logger.level) == ("DEBUG", logging.NOTSET)
            error = await refused(asking, "log-level", service_name, {**body, "logger": "nobody's"})
            assert (error.code, "nobody's" in logging.Logger.manager.loggerDict) == (Code.INVALID_ARGUMENT, False)
    finally:
        logger.setLevel(before)


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ACTING)
async def test_a_server_that_only_lets_others_look_says_what_allows_more(
    url: str, service_name: str, verb: str
) -> None:
    async with Server(Works(service_name).service, url=url), Asking(make_settings(url)) as asking:
        error = await refused(asking, verb, service_name)
        assert (error.code, "control='full'" in error.message) == (Code.UNIMPLEMENTED, True)
        assert (await refused(asking, "cancel", service_name, {"call_id": "a"})).code is Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("concurrency", {}),
        ("concurrency", {"service": "another", "concurrency": 2}),
        ("concurrency", {"service": "SERVICE", "concurrency": 0}),
        ("concurrency", {"service": "SERVICE", "concurrency": 10**30}),
        ("concurrency", {"service": "SERVICE", "concurrency": "2"}),
        ("log-level", {"level": "LOUD"}),
        ("log-level", {"level": 10}),
        ("log-level", {}),
        ("cancel", {"call_id": 7}),
        ("cancel", {"call_id": None, "calls": {}}),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    url: str, service_name: str, verb: str, body: dict[str, Any]
) -> None:
    body = {key: service_name if value == "SERVICE" else value for key, value in body.items()}
    async with works(url, service_name, concurrency=5) as (made, client, asking):
        assert (await refused(asking, verb, service_name, body)).code is Code.INVALID_ARGUMENT
        assert (await ask(asking, "stats", service_name))["services"][service_name]["concurrency"] == 5
        made.go.set()
        assert await client.call(made.work, "a") == "a"
