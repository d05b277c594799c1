"""Each request is counted once, by what it ended in, and what is refused is told to who wants to know."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import until
from warren import (
    AsyncClient,
    CallError,
    Client,
    InvalidArgument,
    Pipeline,
    RefusedCall,
    Server,
    Service,
    Unavailable,
    current_call,
)


class Counted:
    """A service, what its worker has counted, and what it was told of refusals."""

    def __init__(self, name: str) -> None:
        self.told: list[tuple[RefusedCall, CallError]] = []
        self.service = Service(name, on_refused=self.on_refused, concurrency=5)
        self.server: Server
        self.hanging: list[str] = []

        @self.service.method
        async def ok(n: int = 0) -> int:
            return n

        @self.service.method
        def thread() -> None:
            pass

        @self.service.method(delivery="at-most-once")
        async def once() -> None:
            pass

        @self.service.method
        async def missing() -> None:
            raise Unavailable("no such thing")

        @self.service.method(concurrency=1)
        async def hang(who: str) -> None:
            self.hanging.append(who)
            await asyncio.Event().wait()

        @self.service.method(broadcast=True)
        async def all_(n: int) -> int:
            return n

        @self.service.method
        async def rows(n: int) -> AsyncIterator[int]:
            yield n

        @self.service.method
        async def endless(n: int) -> AsyncIterator[int]:
            while True:
                yield n

        @self.service.method
        async def store(items: AsyncIterator[int], n: int) -> int:
            return n

        @self.service.method
        async def echo(items: AsyncIterator[int], n: int) -> AsyncIterator[int]:
            yield n

        @self.service.method(time_limit=0.05)
        async def slow() -> None:
            await asyncio.Event().wait()

    def on_refused(self, call: RefusedCall, error: CallError) -> None:
        self.told.append((call, error))
        raise ValueError("this changes nothing")

    @property
    def counts(self) -> dict[str, Any]:
        """By method: how many ended, in which errors, and which were refused."""
        (post,) = self.server._posts
        all_ = post.worker.statistics.as_object()
        found = {name: (of["ended"], of["failed"]) for name, of in all_["methods"].items()}
        for of in all_["methods"].values():
            assert sum(of["work"]["buckets"].values()) == of["ended"] == sum(c["count"] for c in of["callers"].values())
            assert sum(of["failed"].values()) == sum(c["failed"] for c in of["callers"].values())
        return found | {f"refused {name}": reasons for name, reasons in all_["refused"].items()}


@asynccontextmanager
async def counted(url: str, name: str) -> AsyncIterator[tuple[Counted, AsyncClient]]:
    made = Counted(name)
    made.server = serving(made.service, url=url)
    async with made.server, AsyncClient(url, timeout=60, name="till") as client:
        yield made, client


async def failing(call: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("method", ["ok", "thread", "once"])
async def test_a_result_is_counted_once(url: str, service_name: str, method: str) -> None:
    async with counted(url, service_name) as (made, client):
        await client.call(f"{service_name}.{method}")
        await client.cast(f"{service_name}.{method}")
        await until(lambda: made.counts == {method: (2, {})})
        assert made.told == []


@pytest.mark.parametrize(
    ("method", "error"), [("missing", "UNAVAILABLE/UNAVAILABLE"), ("slow", "DEADLINE_EXCEEDED/TIME_LIMIT")]
)
async def test_an_error_is_counted_once_by_its_code_a_cast_that_is_set_aside_too(
    url: str, service_name: str, method: str, error: str
) -> None:
    async with counted(url, service_name) as (made, client):
        await failing(client.call(f"{service_name}.{method}"))
        await client.cast(f"{service_name}.{method}")
        await until(lambda: made.counts == {method: (2, {error: 2})})
        assert made.told == []


async def test_a_stream_that_its_caller_leaves_has_not_failed(url: str, service_name: str) -> None:
    async with counted(url, service_name) as (made, client):
        async with client.stream(f"{service_name}.endless", 1) as stream:
            assert await anext(stream) == 1
        await until(lambda: made.counts == {"endless": (1, {})})
        stream = client.options(timeout=0.5).stream(f"{service_name}.endless", 1)
        await anext(stream)
        await until(lambda: made.counts == {"endless": (2, {"DEADLINE_EXCEEDED/HANDLER": 1})})


@pytest.mark.parametrize(
    ("method", "arguments", "reason", "counted_as"),
    [("nothing", (), "METHOD", ""), ("ok", ("text",), "VALIDATION", "ok")],
)
async def test_a_request_that_is_refused_is_counted_once_and_told(
    url: str, service_name: str, method: str, arguments: tuple[Any, ...], reason: str, counted_as: str
) -> None:
    async with counted(url, service_name) as (made, client):
        before = time.time()
        error = await failing(client.options(headers={"tenant": "a"}).call(f"{service_name}.{method}", *arguments))
        assert made.counts == {f"refused {counted_as}": {reason: 1}}
        ((call, told),) = made.told
        assert (told.code, told.reason, told.execution) == (error.code, error.reason, error.execution)
        assert (call.service, call.method, call.call_id) == (service_name, method, error.call_id)
        assert (call.caller, call.user, call.kind, call.attempt) == ("till", None, "call", 1)
        assert call.headers == {"tenant": "a"}
        assert call.sent_at is not None
        assert before - 1 <= call.sent_at <= time.time() + 1


async def test_a_refusal_is_counted_for_its_method_however_that_was_called(url: str, service_name: str) -> None:
    async with counted(url, service_name) as (made, client):
        wrong = "text"
        asked = [answer.error async for answer in client.gather(f"{service_name}.all_", wrong)]
        assert [type(error) for error in asked] == [InvalidArgument]
        pipeline: Any = Pipeline(made.service.methods["ok"].function).then(made.service.methods["all_"].function)
        for call in (
            client.call(pipeline, wrong),
            anext(client.stream(f"{service_name}.rows", wrong)),
            client.upload(f"{service_name}.store", [1], wrong),
            anext(client.converse(f"{service_name}.echo", [1], wrong)),
        ):
            assert (await failing(call)).reason == "VALIDATION"
        names = ["all_", "ok", "rows", "store", "echo"]
        assert made.counts == {f"refused {name}": {"VALIDATION": 1} for name in names}
        assert [call.method for call, _ in made.told] == names


async def test_without_a_thread_for_it_a_call_is_refused_and_nothing_else_suffers(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def none(thread: threading.Thread) -> None:
        if thread.name.startswith(f"warren-{service_name}"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async with counted(url, service_name) as (made, client):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none)
            error = await failing(client.call(f"{service_name}.thread"))
        assert (error.reason, error.execution.name) == ("SERVER", "NOT_EXECUTED")
        assert made.counts == {"refused thread": {"SERVER": 1}}
        await client.call(f"{service_name}.thread")
        assert made.server.statistics()["process"]["reconnects"] == 0


async def test_a_call_that_is_given_up_is_counted_where_it_was(url: str, service_name: str) -> None:
    async with counted(url, service_name) as (made, client):
        running = asyncio.create_task(client.call(f"{service_name}.hang", "a"))
        await until(lambda: made.hanging == ["a"])
        waiting = asyncio.create_task(client.call(f"{service_name}.hang", "b"))
        (post,) = made.server._posts
        await until(lambda: post.worker.holding.waiting == 1)
        waiting.cancel()
        await until(lambda: made.counts == {"refused hang": {"CALLER": 1}})
        running.cancel()
        await until(lambda: made.counts == {"hang": (1, {"CANCELLED/CALLER": 1}), "refused hang": {"CALLER": 1}})
        assert [error.reason for _, error in made.told] == ["CALLER"]


async def test_handlers_know_what_was_asked_when_and_how_long_it_waited(url: str, service_name: str) -> None:
    service = Service(service_name)
    seen: list[dict[str, Any]] = []

    @service.method(default=True, time_limit=30)
    async def look(text: str, *, times: int = 1) -> None:
        call = current_call()
        seen.append({name: getattr(call, name) for name in ("args", "kwargs", "kind", "sent_at", "wait")})

    async with serving(service, url=url), AsyncClient(url) as client:
        before = time.time()
        await client.call(look, "a", times=2)
        await client.cast(look, "b")
        await client.call_bare(service_name, b"c")
        await until(lambda: len(seen) == 3)
    call, cast, bare = seen
    assert (call.pop("args"), call.pop("kwargs"), call.pop("kind")) == (("a",), {"times": 2}, "call")
    assert before - 0.1 <= call["sent_at"] <= time.time()
    assert 0 <= call["wait"] <= time.time() - before
    assert cast == {"args": ("b",), "kwargs": {}, "kind": "cast", "sent_at": None, "wait": None}
    assert bare == {"args": ("c",), "kwargs": {}, "kind": "bare", "sent_at": None, "wait": None}


@pytest.mark.parametrize("method", ["a_nested", "in_thread"])
async def test_a_client_without_a_name_is_called_as_the_service_whose_handler_calls(
    url: str, service_name: str, method: str
) -> None:
    outer, inner = Service(f"{service_name}.outer"), Service(f"{service_name}.inner")
    nameless, named = AsyncClient(url), AsyncClient(url, name="own")
    blocking = Client(url)

    @inner.method
    async def who() -> str | None:
        return current_call().caller

    @outer.method
    async def a_nested() -> list[str | None]:
        tagged = nameless.options(headers={"a": "b"})
        return [await nameless.call(who), await tagged.call(who), await named.call(f"{inner.name}.who")]

    @outer.method
    def in_thread() -> list[str | None]:
        return [blocking.call(who), blocking.submit(who).result(), "own"]

    async with serving(outer, inner, url=url), nameless, named:
        assert await nameless.call(who) is None
        assert await nameless.call(f"{outer.name}.{method}") == [outer.name, outer.name, "own"]
        assert await nameless.call(who) is None
        await asyncio.to_thread(blocking.close)


@pytest.mark.parametrize("hook", ["a name", 3])
def test_a_hook_that_is_no_function_is_refused(hook: Any) -> None:
    with pytest.raises(TypeError, match="on_refused"):
        Service("any", on_refused=hook)


def test_a_hook_that_is_async_is_refused() -> None:
    async def hook(_call: RefusedCall, _error: CallError) -> None: ...

    wrong: Callable[..., Any] = hook
    with pytest.raises(TypeError, match="plain function"):
        Service("any", on_refused=wrong)
