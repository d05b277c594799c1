"""Progress: a caller that asks hears how far its call has come; nobody else does, and no call ends otherwise for it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import within
from warren import AsyncClient, Client, ClientCall, Progress, Service, current_call
from warren.client.endings import Endings
from warren.middleware import Proceed
from warren.protocol.progress import progress_message

KINDS = ("on_loop", "in_thread")


class Working:
    """A service that tells how far it is, and when it may go on."""

    def __init__(self, name: str) -> None:
        self.service = Service(name)
        self.go = threading.Event()

        @self.service.method
        async def on_loop(total: int) -> int:
            for done in range(total):
                current_call().progress(done + 1, total, f"step {done + 1}")
            return total

        @self.service.method
        def in_thread(total: int) -> int:
            for done in range(total):
                current_call().progress(done + 1, total, f"step {done + 1}")
            return total

        @self.service.method
        async def steps(count: int) -> int:
            for done in range(count):
                current_call().progress(done)
                await asyncio.sleep(0.15)
            return count

        @self.service.method
        def hold() -> str:
            current_call().progress(1, 3, "begun")
            assert self.go.wait(60)
            return "done"

        @self.service.method
        async def rows(count: int) -> AsyncIterator[int]:
            for number in range(count):
                current_call().progress(number + 1, count)
                yield number

        self.on_loop, self.in_thread, self.steps, self.hold, self.rows = on_loop, in_thread, steps, hold, rows


@asynccontextmanager
async def working_and_client(url: str, name: str, **options: Any) -> AsyncIterator[tuple[Working, AsyncClient]]:
    working = Working(name)
    async with serving(working.service, url=url), AsyncClient(url, timeout=60, **options) as client:
        yield working, client


@pytest.mark.parametrize("kind", KINDS)
async def test_all_that_is_done_is_told_before_the_result(url: str, service_name: str, kind: str) -> None:
    async with working_and_client(url, service_name) as (working, client):
        heard: list[Progress] = []
        assert await client.options(on_progress=heard.append).call(getattr(working, kind), 3) == 3
        assert heard[-1] == Progress(3, 3, "step 3")
        assert client.ignored_replies == 0


async def test_progress_comes_while_the_call_runs(url: str, service_name: str) -> None:
    async with working_and_client(url, service_name) as (working, client):
        heard: asyncio.Queue[Progress] = asyncio.Queue()
        call = asyncio.create_task(client.options(on_progress=heard.put_nowait).call(working.hold))
        assert await within(heard.get(), "progress") == Progress(1, 3, "begun")
        assert not call.done()
        working.go.set()
        assert await call == "done"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tight_loop_floods_nobody(url: str, service_name: str, kind: str) -> None:
    async with working_and_client(url, service_name) as (working, client):
        heard: list[Progress] = []
        began = time.monotonic()
        await client.options(on_progress=heard.append).call(getattr(working, kind), 50_000)
        assert len(heard) <= 10 * (time.monotonic() - began) + 2
        assert heard[-1].done == 50_000
        assert heard == sorted(heard)


async def test_what_is_said_at_intervals_comes_in_turn(url: str, service_name: str) -> None:
    async with working_and_client(url, service_name) as (working, client):
        heard: list[Progress] = []
        await client.options(on_progress=heard.append).call(working.steps, 4)
        assert heard == [Progress(0), Progress(1), Progress(2), Progress(3)]


async def test_nobody_hears_who_has_not_asked(url: str, service_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Progress] = []

    def spy(id: bytes, said: Progress) -> tuple[bytes, bytes]:
        sent.append(said)
        return progress_message(id, said)

    monkeypatch.setattr("warren.server.progress.progress_message", spy)
    async with working_and_client(url, service_name) as (working, client):
        headers = {"theirs": "rpc-progress"}
        assert await client.options(headers=headers).call(working.on_loop, 3) == 3
        assert [row async for row in client.stream(working.rows, 3)] == [0, 1, 2]
        await client.options(on_progress=print).cast(working.on_loop, 3)
        assert await client.call(working.in_thread, 3) == 3
        assert sent == []


async def test_an_exception_of_whoever_hears_it_does_not_harm_the_call(
    url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_said: Progress) -> None:
        raise RuntimeError("no bar today")

    async with working_and_client(url, service_name) as (working, client):
        assert await client.options(on_progress=fail).call(working.on_loop, 3) == 3
        assert "on_progress has raised; the call goes on" in caplog.text
        assert "no bar today" in caplog.text


async def test_headers_nested_views_and_middleware_keep_it(url: str, service_name: str) -> None:
    async def add(call: ClientCall, proceed: Proceed) -> Any:
        call.headers["more"] = "1"
        return await proceed()

    async with working_and_client(url, service_name, headers={"a": "1"}, middleware=[add]) as (working, client):
        heard: list[Progress] = []
        view = client.options(headers={"b": "2"}, on_progress=heard.append).options(headers={"c": "3"}, timeout=59)
        assert await view.call(working.on_loop, 3) == 3
        assert heard


async def test_a_stream_has_progress_too(url: str, service_name: str) -> None:
    async with working_and_client(url, service_name) as (working, client):
        heard: list[Progress] = []
        stream = client.options(on_progress=heard.append).stream(working.rows, 5)
        assert [row async for row in stream] == [0, 1, 2, 3, 4]
        assert heard[-1] == Progress(5, 5)


async def test_each_call_of_a_batch_tells_of_its_own(url: str, service_name: str) -> None:
    async with working_and_client(url, service_name) as (working, client):
        heard: list[Progress] = []
        view = client.options(on_progress=heard.append)
        assert [n async for n in view.map(working.on_loop, [1, 2, 3])] == [1, 2, 3]
        assert {said.total for said in heard if said.is_complete} == {1, 2, 3}


async def test_threads_hear_it_in_the_thread_that_does_the_io(url: str, service_name: str) -> None:
    async with working_and_client(url, service_name) as (working, _):
        heard: list[tuple[Progress, str]] = []

        def call() -> tuple[int, int]:
            with Client(url, timeout=60) as client:
                how = client.options(on_progress=lambda said: heard.append((said, threading.current_thread().name)))
                return how.call(working.in_thread, 3), how.submit(working.on_loop, 4).result()

        assert await asyncio.to_thread(call) == (3, 4)
        assert [said.total for said, _ in heard if said.is_complete] == [3, 4]
        assert {thread for _, thread in heard} == {"warren-client"}


async def test_a_durable_reply_queue_brings_it_too(url: str, service_name: str) -> None:
    async with working_and_client(url, service_name, reply="durable") as (working, client):
        heard: list[Progress] = []
        assert await client.options(on_progress=heard.append).call(working.in_thread, 3) == 3
        assert heard[-1].done == 3


async def test_progress_that_is_too_large_or_damaged_ends_nothing(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested, long = b'{"done": 1, "x": ' + b"[" * 9000, b'{"done": 1' + b"0" * 400 + b"}"
    bodies = iter([b"\xff", b"[]", b"x" * 200_000, b'{"done": 1e999}', nested, long])
    monkeypatch.setattr(
        "warren.server.progress.progress_message",
        lambda id, said: (progress_message(id, said)[0], next(bodies)),
    )
    special: list[Any] = []
    on_special = Endings.on_special

    def spy(*args: Any) -> None:
        special.append(args)
        on_special(*args)

    monkeypatch.setattr(Endings, "on_special", spy)
    async with working_and_client(url, service_name, max_message_size=100_000) as (working, client):
        heard: list[Progress] = []
        call = asyncio.create_task(client.options(on_progress=heard.append).call(working.steps, 6))
        assert await call == 6
        assert len(special) >= 6
        assert heard == []


def test_what_cannot_be_called_is_refused() -> None:
    async def coroutine(_said: Progress) -> None:
        """It would never run."""

    async def generator(_said: Progress) -> AsyncIterator[None]:
        yield

    class Coroutine:
        async def __call__(self, _said: Progress) -> None: ...

    client = Client("amqp://127.0.0.1:1")
    for wrong in (coroutine, generator, Coroutine(), 3):
        with pytest.raises(TypeError, match="on_progress=print"):
            client.options(on_progress=wrong)  # type: ignore[arg-type]
