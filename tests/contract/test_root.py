"""One id for all that is done for a call: in nested calls and casts, through both clients, in every line of the log."""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pika
import pytest

from tests.support.raw import raw_channel
from tests.support.serving import serving
from warren import AsyncClient, CallError, Client, ClientCall, Execution, Server, Service, Unavailable, current_call
from warren.middleware import Proceed
from warren.telemetry.logs import CallFields, JSONFormatter


async def again(call: ClientCall, proceed: Proceed) -> Any:
    """Sends each call twice, with a header of its own."""
    call.headers["times"] = 2
    await proceed()
    return await proceed()


@pytest.mark.parametrize("middleware", [[], [again]], ids=["plain", "middleware"])
async def test_nested_calls_and_casts_know_the_outermost_call(
    url: str, service_name: str, middleware: list[Any]
) -> None:
    inner, outer = Service(f"{service_name}-in"), Service(service_name)
    seen: asyncio.Queue[tuple[str, str | None, str | None]] = asyncio.Queue()
    nested = AsyncClient(url, middleware=middleware, headers={"tenant": "acme"})
    blocking = Client(url, middleware=middleware)

    @inner.method
    async def note(how: str) -> None:
        call = current_call()
        seen.put_nowait((how, call.call_id, call.root_id))

    @outer.method
    async def begin() -> str | None:
        await nested.call(note, "call")
        await nested.options(headers={"tenant": None}).call(note, "without headers")
        await nested.cast(note, "cast")
        await asyncio.gather(nested.call(note, "task"))
        return current_call().root_id

    @outer.method
    def begin_in_thread() -> str | None:
        blocking.call(note, "blocking call")
        blocking.submit(note, "submit").result()
        blocking.cast(note, "blocking cast")
        return current_call().root_id

    ids: list[str | None] = []

    async def remember(call: ClientCall, proceed: Proceed) -> Any:
        result = await proceed()
        ids.append(call.call_id)
        return result

    async with serving(inner, outer, url=url), nested, AsyncClient(url, middleware=[remember]) as client:
        for method, expected in (
            (begin, {"call", "without headers", "cast", "task"}),
            (begin_in_thread, {"blocking call", "submit", "blocking cast"}),
        ):
            assert await client.call(method) == ids[-1]
            async with asyncio.timeout(60):
                count = len(expected) * (2 if middleware else 1)
                came = [await seen.get() for _ in range(count)]
            assert {how for how, _own, _root in came} == expected
            assert {root for _how, _own, root in came} == {ids[-1]}
            assert ids[-1] not in {own for _how, own, _root in came}
        await asyncio.to_thread(blocking.close)


@pytest.mark.parametrize("root", ["", "x" * 256, 7, None, ["a"]])
async def test_a_root_that_makes_no_sense_is_none(url: str, service_name: str, root: object) -> None:
    service = Service(service_name)
    seen: asyncio.Queue[str | None] = asyncio.Queue()

    @service.method
    async def note() -> None:
        seen.put_nowait(current_call().root_id)

    async with serving(service, url=url):
        with raw_channel(url) as channel:
            headers = {"rpc-v": 1, "rpc-root": root}
            properties = pika.BasicProperties("application/json", type="note", message_id="own", headers=headers)
            channel.basic_publish("", service_name, b"[]", properties)
        async with asyncio.timeout(60):
            assert await seen.get() == "own"


async def test_grepping_one_id_in_all_logs_shows_the_whole_chain(
    url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    back, front = Service(f"{service_name}-back"), Service(service_name)
    inside = AsyncClient(url)

    @back.method
    async def fail() -> None:
        logging.getLogger("app").warning("about to fail")
        raise ValueError("the handler's own trouble")

    @front.method
    async def relay() -> None:
        await inside.call(fail)

    caplog.handler.addFilter(CallFields())
    async with serving(back, front, url=url), inside, AsyncClient(url) as client:
        with pytest.raises(CallError) as raised:
            await client.call(relay)
    root = raised.value.call_id
    assert root is not None
    of_the_call = [record for record in caplog.records if getattr(record, "root_id", None) == root]
    said: list[dict[str, Any]] = [vars(record) for record in of_the_call]
    assert [(record["name"], record["service"], record["method"]) for record in said] == [
        ("app", back.name, "fail"),
        ("warren.server", back.name, "fail"),
        ("warren.server", front.name, "relay"),
    ]
    assert all(root in record.getMessage() for record in of_the_call if record.name == "warren.server")
    lines = [json.loads(JSONFormatter("worker-1").format(record)) for record in of_the_call]
    assert [line["root_id"] for line in lines] == [root] * 3
    assert [line["call_id"] == root for line in lines] == [False, False, True]
    assert "ValueError: the handler's own trouble" in lines[1]["exception"]


@pytest.fixture
def access() -> Iterator[logging.Logger]:
    log = logging.getLogger("warren.access")
    before = log.level
    log.setLevel(logging.INFO)
    yield log
    log.setLevel(before)


def calc(name: str) -> Service:
    service = Service(name)

    @service.method
    async def add(a: int, b: int) -> int:
        if a < 0:
            raise Unavailable("not now", execution=Execution.NOT_EXECUTED)
        return a + b

    return service


async def ask(client: AsyncClient, method: str, *args: Any) -> None:
    with suppress(CallError):
        await client.call(method, *args)


async def test_the_access_log_has_a_line_for_each_call(
    url: str, service_name: str, caplog: pytest.LogCaptureFixture, access: logging.Logger
) -> None:
    async with serving(calc(service_name), url=url), AsyncClient(url, name="shop") as client:
        await ask(client, f"{service_name}.add", 1, 2)
        await ask(client, f"{service_name}.add", -1, 2)
        await ask(client, f"{service_name}.add", "one", 2)
        await client.cast(f"{service_name}.add", 1, 2)
        async with asyncio.timeout(60):
            while len(records := [r for r in caplog.records if r.name == "warren.access"]) < 4:
                await asyncio.sleep(0.01)
    said: list[dict[str, Any]] = [vars(record) for record in records]
    assert [(r["service"], r["method"], r["caller"]) for r in said] == [(service_name, "add", "shop")] * 4
    assert [r["ending"] for r in said] == ["OK", "UNAVAILABLE/UNAVAILABLE", "INVALID_ARGUMENT/VALIDATION", "OK"]
    assert [r["wait"] is None for r in said] == [False, False, True, True]
    assert [r["work"] is None for r in said] == [False, False, True, False]
    assert records[0].getMessage().startswith(f"{service_name}.add (call {said[0]['call_id']}) from shop: waited ")


async def test_the_access_log_is_off_where_nobody_asks_for_it(
    url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with Server(calc(service_name), url=url), AsyncClient(url) as client:
            await ask(client, f"{service_name}.add", 1, 2)
            await ask(client, f"{service_name}.add", "one", 2)
    assert [record for record in caplog.records if record.name == "warren.access"] == []
