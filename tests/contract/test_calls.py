"""What a call does when all goes well."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from tests.support.serving import serving
from warren import AsyncClient, CallError, Client, Execution, MethodNotFound, Service, current_call


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Api:
    """A service with one method of each kind, and its functions."""

    def __init__(self, name: str) -> None:
        self.service = Service(name)
        self.cast_seen = asyncio.Event()

        @self.service.method
        def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
            a, b = 0, 1
            for _ in range(n):
                a, b = b, a + b
            return a

        @self.service.method
        async def echo(text: str) -> str:
            await asyncio.sleep(0)
            return text

        @self.service.method
        def move(point: Point, *, by: int = 1) -> Point:
            return Point(point.x + by, point.y + by)

        @self.service.method
        async def noted(text: str) -> None:
            self.cast_seen.set()

        @self.service.method
        async def who() -> dict[str, object]:
            call = current_call()
            return {
                "method": call.method,
                "caller": call.caller,
                "attempt": call.attempt,
                "headers": dict(call.headers),
                "has_id": bool(call.call_id),
                "has_deadline": call.deadline is not None,
            }

        @self.service.method
        def thread_name() -> str:
            assert current_call().method.endswith("thread_name")
            return threading.current_thread().name

        self.fib, self.echo, self.move, self.noted, self.who = fib, echo, move, noted, who


@pytest.fixture
async def api(url: str, service_name: str) -> AsyncIterator[Api]:
    api = Api(service_name)
    async with serving(api.service, url=url):
        yield api


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, name="the-tests") as client:
        yield client


async def test_a_function_is_called_remotely_and_stays_a_function(api: Api, client: AsyncClient) -> None:
    assert api.fib(30) == 832040
    assert await client.call(api.fib, 30) == 832040


async def test_a_method_that_is_declared_when_the_worker_serves_already_is_told_to_be_too_late(
    api: Api, client: AsyncClient
) -> None:
    api.service.method(name="late")(lambda: 1)
    with pytest.raises(MethodNotFound, match=rf"'{api.service.name}' got 'late' too late: .* serve it again") as caught:
        await client.call(f"{api.service.name}.late")
    assert (caught.value.reason, caught.value.execution) == ("METHOD", Execution.NOT_EXECUTED)


async def test_an_async_handler_answers(api: Api, client: AsyncClient) -> None:
    assert await client.call(api.echo, "höher") == "höher"


async def test_a_method_is_called_by_name_without_its_code(api: Api, client: AsyncClient) -> None:
    assert await client.call(f"{api.service.name}.fib", 30) == 832040
    assert await client.call(f"{api.service.name}.fib", n=10) == 55


async def test_structs_travel_as_arguments_and_result(api: Api, client: AsyncClient) -> None:
    assert await client.call(api.move, Point(1, 2)) == Point(2, 3)
    assert await client.call(api.move, Point(1, 2), by=5) == Point(6, 7)
    assert await client.call(f"{api.service.name}.move", {"x": 1}) == {"x": 2, "y": 1}


async def test_msgpack_carries_the_same_calls(api: Api, client: AsyncClient) -> None:
    packed = client.options(encoding="msgpack")
    assert await packed.call(api.fib, 30) == 832040
    assert await packed.call(api.move, Point(1), by=2) == Point(3, 2)


async def test_a_cast_returns_once_confirmed_and_is_handled(api: Api, client: AsyncClient) -> None:
    await client.cast(api.noted, "x")
    await asyncio.wait_for(api.cast_seen.wait(), 10)


async def test_the_handler_sees_who_calls_and_with_what(api: Api, client: AsyncClient) -> None:
    seen = await client.options(headers={"tenant": "acme", "n": 3}).call(api.who)
    assert seen == {
        "method": f"{api.service.name}.who",
        "caller": "the-tests",
        "attempt": 1,
        "headers": {"tenant": "acme", "n": 3},
        "has_id": True,
        "has_deadline": True,
    }


async def test_a_def_handler_runs_in_a_worker_thread(api: Api, client: AsyncClient) -> None:
    assert (await client.call(f"{api.service.name}.thread_name")).startswith("warren-")


async def test_the_default_method_answers_a_bare_request(url: str, service_name: str, client: AsyncClient) -> None:
    service = Service(service_name)

    @service.method(default=True)
    async def twice(n: int) -> int:
        return 2 * n

    async with serving(service, url=url):
        assert await client.call_bare(service_name, "21") == b"42"
        assert await client.call_bare(service_name, b"4") == b"8"


async def test_thousands_of_calls_are_in_flight_on_one_connection(url: str, service_name: str) -> None:
    service = Service(service_name, concurrency=3000)
    gate, started = asyncio.Event(), 0

    @service.method
    async def pass_gate(n: int) -> int:
        nonlocal started
        started += 1
        if started == 2000:
            gate.set()
        await gate.wait()
        return n

    async with serving(service, url=url), AsyncClient(url) as client:
        results = await asyncio.gather(*(client.call(pass_gate, n) for n in range(2000)))
    assert results == list(range(2000))


async def test_a_megabyte_travels_both_ways(api: Api, client: AsyncClient) -> None:
    text = "0123456789abcdef" * 65536
    assert await client.call(api.echo, text) == text


async def test_several_services_share_one_server(url: str, service_name: str, client: AsyncClient) -> None:
    first, second = Service(f"{service_name}-a"), Service(f"{service_name}-b")

    @first.method
    async def name_a() -> str:
        return "a"

    @second.method
    def name_b() -> str:
        return "b"

    async with serving(first, second, url=url):
        assert [await client.call(name_a), await client.call(name_b)] == ["a", "b"]


async def test_concurrency_one_serves_one_call_at_a_time(url: str, service_name: str, client: AsyncClient) -> None:
    service = Service(service_name, concurrency=1)
    running, most = 0, 0

    @service.method
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with serving(service, url=url):
        await asyncio.gather(*(client.call(work) for _ in range(50)))
    assert most == 1


@pytest.mark.parametrize("delivery", ["report", "at-most-once"])
async def test_concurrency_limits_the_handlers_that_run(
    url: str, service_name: str, client: AsyncClient, delivery: str
) -> None:
    service = Service(service_name, concurrency=3)
    running, most = 0, 0

    @service.method(delivery="at-most-once" if delivery == "at-most-once" else "report")
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    async with serving(service, url=url):
        await asyncio.gather(*(client.call(work) for _ in range(60)))
    assert most == 3


async def test_server_middleware_surrounds_both_kinds_of_handlers(
    url: str, service_name: str, client: AsyncClient
) -> None:
    seen: list[str] = []
    setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting")

    async def outer(call: object, proceed: object) -> object:
        seen.append("before")
        setting.set("from middleware")
        result = await proceed()  # type: ignore[operator]
        seen.append("after")
        return result

    service = Service(service_name, middleware=[outer])

    @service.method
    def in_thread() -> str:
        return setting.get()

    @service.method
    async def on_loop() -> str:
        return setting.get()

    async with serving(service, url=url):
        assert await client.call(in_thread) == "from middleware"
        assert await client.call(on_loop) == "from middleware"
    assert seen == ["before", "after"] * 2


async def test_a_def_handler_behind_middleware_has_as_many_threads_as_any(
    url: str, service_name: str, client: AsyncClient
) -> None:
    async def pass_on(_call: object, proceed: Callable[[], Awaitable[object]]) -> object:
        return await proceed()

    service = Service(service_name, middleware=[pass_on], concurrency=20)
    all_here = threading.Barrier(20)

    @service.method
    def meet() -> int:
        return all_here.wait(20)

    async with serving(service, url=url):
        assert sorted(await asyncio.gather(*(client.call(meet) for _ in range(20)))) == list(range(20))


async def test_the_handler_sees_the_callers_verified_user_when_it_is_sent(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    async def user() -> str | None:
        return current_call().user

    async with serving(service, url=url), AsyncClient(url) as silent, AsyncClient(url, send_user=True) as open_:
        assert await silent.call(user) is None
        assert await open_.call(user) == "guest"


def test_a_blocking_client_serves_many_threads(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    async def double(n: int) -> int:
        return 2 * n

    with _threaded(service, url), Client(url) as client:
        results: dict[int, int] = {}

        def call_some(start: int) -> None:
            for n in range(start, start + 25):
                results[n] = client.call(double, n)

        threads = [threading.Thread(target=call_some, args=(25 * i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {n: 2 * n for n in range(400)}
        assert [f.result(10) for f in [client.submit(double, n) for n in range(100)]] == [2 * n for n in range(100)]
        client.cast(double, 1)
        assert client.call(f"{service_name}.double", n=4) == 8


class _threaded:
    """Serve in a thread, for tests of the blocking client."""

    def __init__(self, service: Service, url: str) -> None:
        self._service, self._url = service, url
        self._ready = threading.Event()
        self._stop: asyncio.Event

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(30)

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self._service, url=self._url):
            self._ready.set()
            await self._stop.wait()


# --- calls by name that say what is returned --------------------------------------------------------------------------


@dataclass
class Price:
    amount: int


@pytest.fixture
def prices(service_name: str) -> Service:
    service = Service(service_name)

    @service.method
    def price(item: str, returns: int = 3) -> Price:
        return Price(returns)

    @service.method
    def text() -> str:
        return "tea"

    return service


async def test_a_call_by_name_gets_the_type_that_it_says(url: str, client: AsyncClient, prices: Service) -> None:
    name = f"{prices.name}.price"
    async with serving(prices, url=url):
        assert await client.call(name, "tea") == {"amount": 3}
        assert await client.call(name, "tea", returns=Price) == Price(3)
        assert await client.call(name, item="tea", returns=dict[str, int]) == {"amount": 3}
        assert await client.call(name, "tea", 4, returns=Price | None) == Price(4)
        assert await client.call(name, "tea") == {"amount": 3}
        assert await client.options(encoding="msgpack", headers={"x": 1}).call(name, "tea", returns=Price) == Price(3)
        assert await client.call(prices.methods["price"].declared, "tea", returns=5) == Price(5)


async def test_a_result_of_another_type_is_told_when_the_handler_has_run(
    url: str, client: AsyncClient, prices: Service
) -> None:
    async with serving(prices, url=url):
        for returns in (int, list[str], Price):
            with pytest.raises(CallError) as caught:
                await client.call(f"{prices.name}.text", returns=returns)
            assert (caught.value.reason, caught.value.execution) == ("DECODE_REPLY", Execution.EXECUTED)


@pytest.mark.parametrize("returns", [3, object(), "Price", Service])
async def test_what_is_no_type_of_results_is_refused_before_anything_is_sent(client: AsyncClient, returns: Any) -> None:
    with pytest.raises(TypeError, match=r"returns=.*; give a type of what is returned, such as list\[int\]$"):
        await client.call("calc.fib", 3, returns=returns)


async def test_the_blocking_client_does_it_too(url: str, prices: Service) -> None:
    def calls() -> None:
        with Client(url) as client:
            assert client.call(f"{prices.name}.price", "tea", returns=Price) == Price(3)
            assert client.submit(f"{prices.name}.price", "tea", returns=Price).result() == Price(3)

    async with serving(prices, url=url):
        await asyncio.to_thread(calls)
