"""Middleware of clients: what it sees, what it may change, and what is said of calls that it sends more than once."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.support.serving import serving
from warren import (
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    ClientCall,
    DeadlineExceeded,
    Execution,
    InvalidArgument,
    Overloaded,
    Service,
    Unavailable,
    current_call,
)
from warren.middleware import Proceed

Layer = Callable[[ClientCall, Proceed], Awaitable[Any]]
TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Sold(Exception):
    pass


class Shop:
    """A service that writes down what came."""

    def __init__(self, name: str) -> None:
        self.service = Service(name, errors=[Sold])
        self.name = name
        self.came: list[tuple[str | None, dict[str, Any]]] = []
        self.noted = asyncio.Event()

        @self.service.method
        async def add(a: int, b: int = 0) -> int:
            self._note()
            return a + b

        @self.service.method
        async def fail(times: int) -> int:
            self._note()
            if len(self.came) <= times:
                raise ValueError("not yet")
            return len(self.came)

        @self.service.method
        async def sell() -> None:
            self._note()
            raise Sold("out")

        @self.service.method
        async def hang() -> None:
            self._note()
            await asyncio.Event().wait()

        @self.service.method
        async def note(what: str) -> None:
            self._note()

        self.add, self.fail, self.sell, self.hang, self.note = add, fail, sell, hang, note

        @self.service.method(default=True)
        async def bare(body: bytes) -> bytes:
            self._note()
            return body + b"!"

    def _note(self) -> None:
        call = current_call()
        self.came.append((call.call_id, dict(call.headers)))
        self.noted.set()


@asynccontextmanager
async def shop_and_client(
    url: str, name: str, *layers: Layer, **options: Any
) -> AsyncIterator[tuple[Shop, AsyncClient]]:
    shop = Shop(name)
    async with serving(shop.service, url=url), AsyncClient(url, middleware=layers, timeout=20, **options) as client:
        yield shop, client


async def in_thread(url: str, layers: Sequence[Layer], work: Callable[[Client], Any], **options: Any) -> Any:
    """What `work` makes of a blocking client, in a thread."""

    def run() -> Any:
        with Client(url, middleware=layers, **{"timeout": 20, **options}) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_it_sees_what_is_called_and_what_came_of_it(url: str, service_name: str) -> None:
    seen: list[Any] = []

    async def look(call: ClientCall, proceed: Proceed) -> Any:
        seen.append((call.kind, call.service, call.method, call.function, call.args, call.kwargs, call.call_id))
        assert 0 < call.remaining <= 20
        result = await proceed()
        seen.append((result, call.call_id))
        return result

    async with shop_and_client(url, service_name, look) as (shop, client):
        assert await client.call(shop.add, 1, b=2) == 3
        assert seen == [("call", service_name, "add", shop.add, (1,), {"b": 2}, None), (3, shop.came[0][0])]
        seen.clear()
        assert await client.call(f"{service_name}.add", 4) == 4
        assert seen[0] == ("call", service_name, "add", None, (4,), {}, None)
        seen.clear()
        await client.cast(shop.note, "tea")
        assert seen[0][:3] == ("cast", service_name, "note")
        assert seen[1][0] is None
        seen.clear()
        assert await client.call_bare(service_name, b"30") == b"30!"
        assert seen[0] == ("bare", service_name, "", None, (b"30",), {}, None)
        assert seen[1][0] == b"30!"


async def test_the_first_one_is_the_outermost(url: str, service_name: str) -> None:
    order: list[str] = []

    def named(name: str) -> Layer:
        async def layer(_call: ClientCall, proceed: Proceed) -> Any:
            order.append(f"{name} in")
            try:
                return await proceed()
            finally:
                order.append(f"{name} out")

        return layer

    async with shop_and_client(url, service_name, named("a"), named("b")) as (shop, client):
        await client.options(timeout=19).call(shop.add, 1)  # views have it, too
    assert order == ["a in", "b in", "b out", "a out"]


async def test_it_may_change_arguments_headers_and_result(url: str, service_name: str) -> None:
    async def change(call: ClientCall, proceed: Proceed) -> Any:
        call.args = (call.args[0] + 10,)
        call.headers["tenant"] = "acme"
        call.headers.pop("drop", None)
        return -(await proceed())

    async with shop_and_client(url, service_name, change, headers={"version": 7, "drop": "me"}) as (shop, client):
        assert await client.call(shop.add, 1) == -11
        assert await client.options(headers={"tenant": "other", "drop": None}).call(shop.add, 2) == -12
    assert [headers for _, headers in shop.came] == [{"version": 7, "tenant": "acme"}] * 2


async def test_headers_of_one_call_are_not_those_of_the_next(url: str, service_name: str) -> None:
    numbers = iter(range(100))

    async def number(call: ClientCall, proceed: Proceed) -> Any:
        call.headers["number"] = next(numbers)
        return await proceed()

    async with shop_and_client(url, service_name, number, headers={"fix": True}) as (shop, client):
        await asyncio.gather(*(client.call(shop.add, n) for n in range(20)))
        await client.cast(shop.note, "tea")
        while len(shop.came) < 21:
            shop.noted.clear()
            await shop.noted.wait()
    assert sorted(headers["number"] for _, headers in shop.came) == list(range(21))
    assert all(headers["fix"] is True for _, headers in shop.came)


@pytest.mark.parametrize(
    ("name", "value", "error"), [("rpc-v", 1, ValueError), ("big", "x" * 4000, ValueError), (5, 1, TypeError)]
)
async def test_headers_that_cannot_be_sent_are_refused_and_nothing_is_sent(
    url: str, service_name: str, name: Any, value: Any, error: type[Exception]
) -> None:
    async def add(call: ClientCall, proceed: Proceed) -> Any:
        call.headers[name] = value
        return await proceed()

    async with shop_and_client(url, service_name, add) as (shop, client):
        with pytest.raises(error):
            await client.call(shop.add, 1)
        assert shop.came == []


async def test_it_may_answer_without_a_request_and_refuse(url: str, service_name: str) -> None:
    async def guard(call: ClientCall, proceed: Proceed) -> Any:
        if call.args == (1,):
            return "from the cache"
        raise Overloaded("the circuit is open", execution=Execution.NOT_SENT)

    async with shop_and_client(url, service_name, guard) as (shop, client):
        assert await client.call(f"{service_name}.add", 1) == "from the cache"
        with pytest.raises(Overloaded) as refused:
            await client.call(shop.add, 2)
        assert refused.value.execution is Execution.NOT_SENT
        assert shop.came == []


async def test_a_call_that_is_sent_again_has_the_same_id_and_its_own_result(url: str, service_name: str) -> None:
    async def again(call: ClientCall, proceed: Proceed) -> Any:
        while True:
            try:
                return await proceed()
            except CallError:
                call.headers["again"] = call.headers.get("again", 0) + 1

    async with shop_and_client(url, service_name, again) as (shop, client):
        assert await client.call(shop.fail, 2) == 3
    ids, headers = zip(*shop.came, strict=True)
    assert len(set(ids)) == 1
    assert headers == ({}, {"again": 1}, {"again": 2})


async def test_no_error_says_not_executed_when_an_earlier_attempt_was(url: str, service_name: str) -> None:
    seen: list[Execution] = []

    async def elsewhere(call: ClientCall, proceed: Proceed) -> Any:
        with suppress(CallError, Sold):
            await proceed()
        call.args = ("no number",)
        call.kwargs = {}
        try:
            return await proceed()
        except CallError as error:
            seen.append(error.execution)
            raise Unavailable("given up", execution=Execution.NOT_SENT) from error

    async with shop_and_client(url, service_name, elsewhere) as (_, client):
        for name in ("sell", "fail"):
            with pytest.raises(Unavailable) as failed:
                await client.call(f"{service_name}.{name}")
            assert failed.value.execution is (Execution.EXECUTED if name == "sell" else Execution.NOT_EXECUTED)
    assert seen == [Execution.EXECUTED, Execution.NOT_EXECUTED]


async def test_every_error_of_a_call_that_was_sent_has_its_id(url: str, service_name: str) -> None:
    """Whoever makes it: a second attempt that cannot be written, or middleware that gives up."""
    sent: list[str | None] = []

    async def too_late(call: ClientCall, proceed: Proceed) -> Any:
        with suppress(CallError):
            await proceed()
        sent.append(call.call_id)
        if call.method == "fail":
            raise Unavailable("given up: ask the shop")
        call.args = (object(),)
        return await proceed()

    async with shop_and_client(url, service_name, too_late) as (_, client):
        errors = [await raised(client.call(f"{service_name}.{name}", 9)) for name in ("add", "fail")]
    assert [type(error) for error in errors] == [InvalidArgument, Unavailable]
    assert [error.call_id for error in errors] == sent
    assert None not in sent
    assert {error.method for error in errors} == {f"{service_name}.add", f"{service_name}.fail"}


async def raised(call: Awaitable[Any]) -> CallError:
    with pytest.raises(CallError) as caught:
        await call
    return caught.value


async def test_of_attempts_at_the_same_time_the_most_is_certain(url: str, service_name: str) -> None:
    """One is refused while another is under way: a handler may run."""

    async def both(call: ClientCall, proceed: Proceed) -> Any:
        first = asyncio.ensure_future(proceed())
        await shop.noted.wait()
        call.args = (1, 2, 3)
        try:
            return await proceed()
        finally:
            first.cancel()

    async with shop_and_client(url, service_name, both) as (shop, client):
        with pytest.raises(InvalidArgument) as refused:
            await client.call(f"{service_name}.hang")
        assert refused.value.execution is Execution.UNKNOWN


@pytest.mark.parametrize("sent", [False, True])
async def test_middleware_that_does_not_end_ends_with_the_calls_time(url: str, service_name: str, sent: bool) -> None:
    async def hang(call: ClientCall, proceed: Proceed) -> Any:
        if sent:
            await proceed()
        await asyncio.Event().wait()

    async with shop_and_client(url, service_name, hang) as (shop, client):
        with pytest.raises(DeadlineExceeded, match="middleware") as late:
            await client.options(timeout=0.2).call(shop.add, 1)
        assert late.value.execution is (Execution.EXECUTED if sent else Execution.NOT_SENT)
        assert late.value.method == f"{service_name}.add"
        with pytest.raises(DeadlineExceeded, match="middleware"):
            await in_thread(url, [hang], lambda c: c.call(shop.add, 1), timeout=0.2)


async def test_an_own_timeout_error_of_middleware_stays_its_own(url: str, service_name: str) -> None:
    async def fail(call: ClientCall, proceed: Proceed) -> Any:
        raise TimeoutError("of the token server")

    async with shop_and_client(url, service_name, fail) as (shop, client):
        with pytest.raises(TimeoutError, match="of the token server") as failed:
            await client.call(shop.add, 1)
        assert not isinstance(failed.value, CallError)


async def test_a_caller_that_is_cancelled_gives_its_call_up(url: str, service_name: str) -> None:
    left: list[str] = []

    async def look(call: ClientCall, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except asyncio.CancelledError:
            left.append(call.name)
            raise

    async with shop_and_client(url, service_name, look, max_in_flight=1) as (shop, client):
        calling = asyncio.create_task(client.call(shop.hang))
        await shop.noted.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert left == [f"{service_name}.hang"]
        assert await client.call(shop.add, 1) == 1  # its place is free


async def test_the_blocking_client_runs_it_with_the_context_of_the_caller(url: str, service_name: str) -> None:
    threads: set[str] = set()

    async def tenant(call: ClientCall, proceed: Proceed) -> Any:
        call.headers["tenant"] = TENANT.get()
        threads.add(threading.current_thread().name)
        return await proceed()

    def work(client: Client) -> list[Any]:
        TENANT.set("acme")
        client.cast(shop.note, "tea")
        results: list[Any] = [client.call(shop.add, 1), client.submit(shop.add, 2).result(20)]
        results.append(client.call_bare(service_name, "x"))
        with pytest.raises(Sold):
            client.call(shop.sell)
        with pytest.raises(Sold):
            client.submit(shop.sell).result(20)
        return results

    async with shop_and_client(url, service_name) as (shop, _):
        assert await in_thread(url, [tenant], work) == [1, 2, b"x!"]
    assert {headers.get("tenant") for _, headers in shop.came} == {"acme", None}  # None: the bare one has none
    assert threads == {"warren-client"}


async def test_a_cancelled_future_cancels_its_middleware_and_gives_the_call_up(url: str, service_name: str) -> None:
    left = threading.Event()

    async def look(call: ClientCall, proceed: Proceed) -> Any:
        try:
            return await proceed()
        finally:
            left.set()

    def work(client: Client) -> int:
        future: Future[Any] = client.submit(shop.hang)
        loop.call_soon_threadsafe(began.set)
        assert noted.wait(20)
        assert future.cancel()
        assert left.wait(20)
        return client.call(shop.add, 1)

    loop, began, noted = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    async with shop_and_client(url, service_name) as (shop, _):
        working = asyncio.create_task(in_thread(url, [look], work, max_in_flight=1))
        await shop.noted.wait()
        noted.set()
        assert await working == 1


@pytest.mark.parametrize("sent", [False, True])
async def test_closing_a_blocking_client_ends_what_its_middleware_waits_for(
    url: str, service_name: str, sent: bool
) -> None:
    began = threading.Event()

    async def hang(call: ClientCall, proceed: Proceed) -> Any:
        if sent:
            await proceed()
        began.set()
        await asyncio.Event().wait()

    def work(client: Client) -> None:
        future = client.submit(shop.add, 1)
        assert began.wait(20)
        client.close()
        with pytest.raises(Cancelled) as closed:
            future.result(20)
        assert closed.value.execution is (Execution.EXECUTED if sent else Execution.NOT_SENT)

    async with shop_and_client(url, service_name) as (shop, _):
        await in_thread(url, [hang], work)


async def test_closing_a_client_ends_calls_under_way_through_middleware(url: str, service_name: str) -> None:
    async def look(call: ClientCall, proceed: Proceed) -> Any:
        return await proceed()

    async with shop_and_client(url, service_name, look) as (shop, client):
        calling = asyncio.create_task(client.call(shop.hang))
        await shop.noted.wait()
        await client.close()
        with pytest.raises(Cancelled) as closed:
            await calling
        assert closed.value.execution is Execution.UNKNOWN
        with pytest.raises(Cancelled) as closed:
            await client.call(shop.add, 1)
        assert closed.value.execution is Execution.NOT_SENT


async def test_odd_ends_of_middleware_end_the_call_of_a_blocking_client(url: str, service_name: str) -> None:
    for odd in (SystemExit("out"), asyncio.CancelledError(), GeneratorExit(), StopIteration()):

        async def fail(call: ClientCall, proceed: Proceed, odd: BaseException = odd) -> Any:
            raise odd

        def work(client: Client) -> None:
            with pytest.raises(BaseException):  # noqa: B017  # each in its own way; none hangs
                client.submit(shop.add, 1).result(20)
            with pytest.raises(BaseException):  # noqa: B017
                client.call(shop.add, 1)

        async with shop_and_client(url, service_name) as (shop, _):
            await in_thread(url, [fail], work)


async def test_middleware_must_not_wait_for_the_blocking_client_that_runs_it(url: str, service_name: str) -> None:
    async def nested(call: ClientCall, proceed: Proceed) -> Any:
        clients[0].call(shop.add, 1)

    clients: list[Client] = []

    def work(client: Client) -> None:
        clients.append(client)
        with pytest.raises(RuntimeError, match="middleware"):
            client.call(shop.add, 1)

    async with shop_and_client(url, service_name) as (shop, _):
        await in_thread(url, [nested], work)


def test_what_is_no_middleware_is_refused() -> None:
    with pytest.raises(TypeError, match="is not a list of async functions"):
        AsyncClient(middleware=[3])  # type: ignore[list-item]


class Stubborn:
    """Middleware that lets nothing end it, until it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.enough = False

    async def __call__(self, call: ClientCall, proceed: Proceed) -> Any:
        self.begun.set()
        while not self.enough:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)


async def test_a_clients_call_ends_though_its_middleware_does_not(url: str, service_name: str) -> None:
    layer, shop = Stubborn(), Shop(service_name)

    def call() -> list[BaseException | None]:
        with Client(url, middleware=[layer], timeout=0.1) as client:
            future = client.submit(shop.add, 1)
            with pytest.raises(DeadlineExceeded) as caught:
                client.call(shop.add, 1)
            layer.enough = True
            return [caught.value, future.exception(30)]

    for error in await asyncio.to_thread(call):
        assert isinstance(error, DeadlineExceeded)
        assert (error.execution, error.reason) == (Execution.NOT_SENT, "CLIENT_TIMER")


async def test_a_client_is_closed_though_middleware_does_not_end(url: str, service_name: str) -> None:
    layer, shop = Stubborn(), Shop(service_name)

    def close() -> BaseException | None:
        client = Client(url, middleware=[layer], timeout=600)
        future = client.submit(shop.add, 1)
        layer.begun.wait(30)
        client.close()
        assert future.done()
        return future.exception(0)

    error = await asyncio.to_thread(close)
    assert isinstance(error, Cancelled)
    assert error.reason == "CLOSED"


async def test_middleware_that_cancels_a_call_is_not_told_to_be_a_closed_client(url: str, service_name: str) -> None:
    async def cancel(_call: ClientCall, _proceed: Proceed) -> None:
        raise asyncio.CancelledError

    def call() -> CallError:
        with Client(url, middleware=[cancel]) as client, pytest.raises(Cancelled) as caught:
            client.call(Shop(service_name).add, 1)
        return caught.value

    error = await asyncio.to_thread(call)
    assert (error.reason, error.execution) == ("CALLER", Execution.NOT_SENT)
