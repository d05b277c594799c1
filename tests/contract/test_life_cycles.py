"""The life cycles of clients: connect, call, close in any order, dropped, forgotten; each ends, and says why."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.contract.brokers import BrokerUnderTest
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Cancelled, Client, Execution, Service
from warren.connection.channel import Channel

#: Nothing here waits for long; only what hangs takes this many seconds.
PATIENCE = 30.0


def echo_service(name: str) -> Service:
    service = Service(name)

    @service.method
    async def echo(n: int) -> int:
        return n

    return service


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Run something that blocks, within the patience."""
    return await asyncio.wait_for(asyncio.to_thread(function, *args), PATIENCE)


# --- AsyncClient --------------------------------------------------------------------------------------------------


async def test_connecting_that_is_overtaken_by_closing_ends(url: str) -> None:
    client = AsyncClient(url)
    connecting = asyncio.create_task(client.connect())
    closing = asyncio.create_task(client.close())
    await asyncio.wait_for(closing, PATIENCE)
    with pytest.raises(Cancelled, match="the client is closed: make a new one"):
        await asyncio.wait_for(connecting, PATIENCE)


async def test_a_client_that_is_closed_while_it_sets_up_leaves_no_reply_queue(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare, names, closing = Channel.declare_queue, [], []

    async def then_close(channel: Channel, name: str, **options: Any) -> None:
        await declare(channel, name, **options)
        names.append(name)
        closing.append(asyncio.create_task(client.close()))
        await asyncio.sleep(0)

    monkeypatch.setattr(Channel, "declare_queue", then_close)
    client = AsyncClient(url, reply="durable")
    with pytest.raises(Cancelled):
        await asyncio.wait_for(client.connect(), PATIENCE)
    await asyncio.wait_for(closing[0], PATIENCE)
    with pytest.raises(ChannelClosedByBroker, match="no queue"):
        raw.queue_declare(names[0], passive=True)


async def test_a_closed_async_client_says_what_to_do(url: str) -> None:
    client = AsyncClient(url)
    await client.close()
    for use in (client.connect, lambda: client.call("a.b"), client.__aenter__):
        with pytest.raises(Cancelled, match="make a new one") as error:
            await asyncio.wait_for(use(), PATIENCE)
        assert error.value.execution is Execution.NOT_SENT


async def test_closing_goes_on_when_the_task_that_closes_is_cancelled(url: str, broker: BrokerUnderTest) -> None:
    client = AsyncClient(url, name="closed-half-way")
    await client.connect()
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.wait_for(client.close(), PATIENCE)
    await until(lambda: not any("closed-half-way" in name for name in broker.connection_names()))


async def test_closing_twice_at_once_waits_for_the_one_end(url: str) -> None:
    client = AsyncClient(url)
    await client.connect()
    await asyncio.wait_for(asyncio.gather(client.close(), client.close(), client.options().close()), PATIENCE)


async def test_the_block_of_a_view_leaves_the_connection_to_its_client(
    client: AsyncClient, url: str, service_name: str
) -> None:
    service = echo_service(service_name)
    async with serving(service, url=url):
        async with client.options(timeout=5) as view:
            assert await view.call(f"{service_name}.echo", 1) == 1
        assert await client.call(f"{service_name}.echo", 2) == 2


async def test_calls_of_a_loop_whose_tasks_are_all_cancelled_end(url: str, service_name: str) -> None:
    service = Service(service_name)
    began = asyncio.Event()

    @service.method
    async def hold() -> None:
        began.set()
        await asyncio.Event().wait()

    async with serving(service, url=url, drain_timeout=0.1):
        client = AsyncClient(url)
        call = asyncio.create_task(client.call(hold))
        await asyncio.wait_for(began.wait(), PATIENCE)
        activity = client._shared.core()._supervisor._activity
        assert activity is not None
        activity.cancel()  # as `asyncio.run` does with every task at its end
        with pytest.raises(CallError) as error:
            await asyncio.wait_for(call, PATIENCE)
        assert error.value.execution is Execution.UNKNOWN
        with pytest.raises(CallError):
            await asyncio.wait_for(client.connect(), PATIENCE)
        await asyncio.wait_for(client.close(), PATIENCE)


# --- Client -------------------------------------------------------------------------------------------------------


async def test_a_closed_client_says_what_to_do(url: str) -> None:
    client = Client(url)
    client.close()
    for use in (client.connect, lambda: client.call("a.b"), lambda: client.submit("a.b"), client.__enter__):
        with pytest.raises(Cancelled, match="make a new one") as error:
            await in_thread(use)
        assert error.value.execution is Execution.NOT_SENT


async def test_connecting_ends_when_another_thread_closes(url: str) -> None:
    for _ in range(20):
        client = Client(url)
        connecting = asyncio.ensure_future(in_thread(client.connect))
        await in_thread(client.close)
        await asyncio.wait([connecting])
        assert connecting.exception() is None or isinstance(connecting.exception(), Cancelled)


async def test_threads_that_close_at_once_all_return_when_it_is_closed(url: str) -> None:
    client = Client(url)
    await in_thread(client.connect)

    def close_and_look() -> bool:
        client.close()
        return client._shared.io()._thread.is_alive()  # type: ignore[union-attr]

    assert await asyncio.gather(*(in_thread(close_and_look) for _ in range(8))) == [False] * 8


async def test_the_block_of_a_blocking_view_leaves_the_connection_to_its_client(url: str, service_name: str) -> None:
    service = echo_service(service_name)

    def use() -> tuple[int, int]:
        with Client(url) as client:
            with client.options(timeout=5) as view:
                first = view.call(f"{service_name}.echo", 1)
            return first, client.call(f"{service_name}.echo", 2)

    async with serving(service, url=url):
        assert await in_thread(use) == (1, 2)


async def test_calls_made_while_threads_close_all_end(url: str, service_name: str) -> None:
    service = echo_service(service_name)

    def call_until_closed(client: Client) -> CallError:
        while True:
            try:
                client.call(f"{service_name}.echo", 1)
            except CallError as error:
                return error

    async with serving(service, url=url):
        client = Client(url, timeout=10)
        await in_thread(client.connect)
        callers = [asyncio.ensure_future(in_thread(call_until_closed, client)) for _ in range(4)]
        await asyncio.sleep(0)
        await in_thread(client.close)
        assert {error.reason for error in await asyncio.gather(*callers)} == {"CLOSED"}


def test_a_thread_that_cannot_be_started_is_a_typed_error_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    client = Client(url)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for use in (client.connect, lambda: client.call("a.b"), client.__enter__):
            with pytest.raises(CallError, match="cannot be started: can't start new thread") as error:
                use()
            assert (error.value.reason, error.value.execution) == ("IO_THREAD", Execution.NOT_SENT)
    client.connect()  # the limit is gone
    client.close()


def test_a_loop_that_cannot_be_made_is_a_typed_error_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    with pytest.raises(CallError, match="Too many open files") as error:
        Client(url).call("a.b")
    assert (error.value.reason, error.value.execution) == ("IO_THREAD", Execution.NOT_SENT)


async def test_calls_end_at_once_when_the_io_thread_dies(
    url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(service_name)
    began = asyncio.Event()

    @service.method
    async def hold() -> None:
        began.set()
        await asyncio.Event().wait()

    async with serving(service, url=url, drain_timeout=0.1):
        client = Client(url, timeout=1000)
        future = await in_thread(client.submit, hold)
        await asyncio.wait_for(began.wait(), PATIENCE)
        began.clear()
        call = asyncio.ensure_future(in_thread(client.call, hold))
        await asyncio.wait_for(began.wait(), PATIENCE)
        loop = client._shared.io()._calls._loop
        assert loop is not None
        selector = loop._selector  # type: ignore[attr-defined]

        def select(_timeout: object) -> None:
            del selector.select  # once
            raise MemoryError

        selector.select = select
        loop.call_soon_threadsafe(lambda: None)
        with pytest.raises(CallError) as error:
            await call
        assert error.value.execution is Execution.UNKNOWN
        with pytest.raises(CallError) as error:
            future.result(PATIENCE)
        assert error.value.execution is Execution.UNKNOWN
        with pytest.raises(CallError, match="has died: make a new client") as error:
            await in_thread(client.call, "a.b")
        assert error.value.execution is Execution.NOT_SENT
        await in_thread(client.close)
    assert "I/O thread dies" in caplog.text


# --- dropped ------------------------------------------------------------------------------------------------------


def dropped(client: Any) -> list[warnings.WarningMessage]:
    """What is warned of when the last reference to a client goes, which is taken out of its list."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.clear()
        gc.collect()
    return [one for one in caught if "was dropped unclosed" in str(one.message)]


async def test_a_client_that_is_dropped_warns_and_leaves_neither_thread_nor_connection(
    url: str, broker: BrokerUnderTest
) -> None:
    clients = [Client(url, name="dropped-blocking")]
    await in_thread(clients[0].connect)
    [warning] = dropped(clients)
    assert warning.category is ResourceWarning
    assert "call its close()" in str(warning.message)
    await until(lambda: not any("dropped-blocking" in name for name in broker.connection_names()))
    await until(lambda: not any(thread.name == "warren-client" for thread in threading.enumerate()))


async def test_an_async_client_that_is_dropped_warns_and_leaves_no_connection(
    url: str, broker: BrokerUnderTest
) -> None:
    clients = [AsyncClient(url, name="dropped-async")]
    await clients[0].connect()
    [warning] = dropped(clients)
    assert warning.category is ResourceWarning
    await until(lambda: not any("dropped-async" in name for name in broker.connection_names()))


def test_a_client_ends_when_it_is_dropped_also_after_a_failed_call(url: str, service_name: str) -> None:
    def fail(client: Client) -> None:
        with suppress(CallError):  # which keeps nothing of it, as `pytest.raises` does
            client.call(f"{service_name}.nothing")

    clients = [Client(url)]
    fail(clients[0])
    gc.disable()  # no cycle keeps it
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clients.clear()
    finally:
        gc.enable()
    assert [one.category for one in caught] == [ResourceWarning]


async def test_a_client_whose_future_is_under_way_is_not_ended_with_its_last_name(url: str, service_name: str) -> None:
    service = echo_service(service_name)
    async with serving(service, url=url):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            future = await in_thread(lambda: Client(url).submit(f"{service_name}.echo", 7))
            gc.collect()
            assert await in_thread(future.result, PATIENCE) == 7
            del future
            gc.collect()
    await until(lambda: not any(thread.name == "warren-client" for thread in threading.enumerate()))


async def test_clients_that_were_closed_or_never_used_are_dropped_in_silence(url: str) -> None:
    clients: list[Any] = [AsyncClient(url), Client(url)]
    assert dropped(clients) == []
    async with AsyncClient(url) as one:
        await one.connect()
        clients.append(one.options(timeout=1))
    with Client(url) as other:
        await in_thread(other.connect)
        clients.append(other.options(timeout=1))
        await in_thread(other.close)
    del one, other
    assert dropped(clients) == []


# --- what outlives a call -----------------------------------------------------------------------------------------

_of_a_request: ContextVar[object] = ContextVar("of_a_request")


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_a_client_keeps_nothing_of_the_call_in_which_it_was_first_used(
    url: str, service_name: str, kind: type[Client] | type[AsyncClient]
) -> None:
    inner, outer = echo_service(f"{service_name}-inner"), Service(f"{service_name}-outer")
    nested: Any = kind(url)

    @outer.method
    async def first() -> int:
        _of_a_request.set(Big())
        target = f"{service_name}-inner.echo"
        return int(await (nested.call(target, 1) if kind is AsyncClient else asyncio.to_thread(nested.call, target, 1)))

    async with serving(inner, outer, url=url), AsyncClient(url) as client:
        for _ in range(3):
            assert await client.call(first) == 1
        # A thread that was used may not have let go of its last job yet. All timers of a call's are longer than this.
        await until(lambda: not kept(), seconds=LESS_THAN_A_CALL)
        await (nested.close() if kind is AsyncClient else asyncio.to_thread(nested.close))


#: Seconds that are enough for a thread to go on, and less than a call may take if nothing is said.
LESS_THAN_A_CALL = 20.0


class Big:
    """Something that a request brings along."""


def kept() -> list[Big]:
    """All of them that somebody has."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, Big)]
