"""The blocking client's own edges: threads, futures, its I/O thread."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import LATE
from warren import AsyncClient, CallError, Cancelled, Client, ClientCall, Execution, Service
from warren.client import io_thread
from warren.middleware import Proceed


class Background:
    """A service in an event loop of another thread."""

    def __init__(self, url: str, name: str) -> None:
        self.service = Service(name)
        self.began, self.release = threading.Semaphore(0), threading.Event()

        @self.service.method
        async def double(n: int) -> int:
            return 2 * n

        @self.service.method
        def slow() -> str:
            self.began.release()
            self.release.wait(30)
            return "done"

        self.double, self.slow = double, slow
        self._url = url
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self.release.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # Its handlers end as they do: what comes for a call that was given up comes late, and for certain.
        async with serving(self.service, url=self._url, control=None):
            self._ready.set()
            await self._stop.wait()


@pytest.fixture
def background(url: str, service_name: str) -> Iterator[Background]:
    background = Background(url, service_name)
    background.start()
    yield background
    background.stop()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_it_needs_no_with_statement(background: Background, url: str) -> None:
    client = Client(url)
    assert client.call(background.double, 4) == 8
    client.close()
    client.close()


def test_a_closed_client_refuses_calls(background: Background, url: str) -> None:
    client = Client(url)
    client.close()
    with pytest.raises(Cancelled, match="closed"):
        client.call(background.double, 4)


def test_closing_ends_the_calls_of_other_threads(background: Background, url: str) -> None:
    client = Client(url)
    future = client.submit(background.slow)
    assert background.began.acquire(timeout=10)
    client.close()
    with pytest.raises(Cancelled):
        future.result(10)


def test_cancelling_a_future_gives_the_call_up(background: Background, client: Client) -> None:
    future = client.submit(background.slow)
    assert background.began.acquire(timeout=10)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(1)
    background.release.set()
    ignored = threading.Event()
    while client.ignored_replies == 0 and not ignored.wait(0.01):
        pass
    assert client.call(background.double, 1) == 2


def test_waiting_in_a_futures_callback_is_an_error_and_not_a_deadlock(background: Background, client: Client) -> None:
    outcome: Future[BaseException] = Future()

    def callback(_done: object) -> None:
        try:
            client.call(background.double, 1)
        except BaseException as error:
            outcome.set_result(error)

    client.submit(background.double, 1).add_done_callback(callback)
    error = outcome.result(10)
    assert isinstance(error, RuntimeError)
    assert "I/O thread" in str(error)
    assert client.call(background.double, 3) == 6


@pytest.mark.parametrize("chained", [False, True])
def test_a_call_that_was_sent_when_the_io_thread_was_blocked_is_named(
    background: Background, url: str, chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pass_on(_call: ClientCall, proceed: Proceed) -> Any:
        return await proceed()

    monkeypatch.setattr(io_thread, "_GRACE", 0.0)
    goes_on = threading.Event()
    with Client(url, middleware=[pass_on] if chained else []) as client:
        client.connect()

        def block() -> None:
            assert background.began.acquire(timeout=LATE)
            client.submit(background.double, 1).add_done_callback(lambda _: goes_on.wait(LATE))

        blocks = threading.Thread(target=block)
        blocks.start()
        try:
            with pytest.raises(CallError) as caught:
                client.options(timeout=3).call(background.slow)
        finally:
            goes_on.set()
            blocks.join()
    assert (caught.value.reason, caught.value.execution) == ("IO_THREAD", Execution.UNKNOWN)
    assert caught.value.call_id


def test_it_works_inside_a_running_event_loop(background: Background, client: Client) -> None:
    async def main() -> int:
        return await asyncio.to_thread(client.call, background.double, 5)

    assert asyncio.run(main()) == 10


def test_both_clients_live_in_one_process(background: Background, client: Client, url: str) -> None:
    async def main() -> int:
        async with AsyncClient(url) as other:
            return await other.call(background.double, 6)

    assert asyncio.run(main()) + client.call(background.double, 7) == 26


def test_a_view_with_options_shares_the_connection(background: Background, client: Client) -> None:
    view = client.options(timeout=5, encoding="msgpack")
    assert view.call(background.double, 2) == 4
    client.close()
    with pytest.raises(Cancelled):
        view.call(background.double, 2)


def test_no_thread_is_left_after_close(background: Background, url: str) -> None:
    with Client(url, name="leaves-nothing") as client:
        client.call(background.double, 1)
        assert any(thread.name == "warren-client" for thread in threading.enumerate())
    assert not any(thread.name == "warren-client" for thread in threading.enumerate())


def test_bad_options_are_refused_with_what_would_be_right(client: Client) -> None:
    with pytest.raises(ValueError, match="must be more than 0"):
        client.options(timeout=0)
    with pytest.raises(ValueError, match=r"say 'service\.method'"):
        client.call("calc", 1)
    with pytest.raises(ValueError, match="names that start with rpc-"):
        client.options(headers={"rpc-v": 2}).call("calc.fib", 1)
    with pytest.raises(TypeError, match=r"decorate it with @service\.method"):
        client.call(len, [])
