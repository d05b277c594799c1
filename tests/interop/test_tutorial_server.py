"""Warren's clients call RabbitMQ's tutorial six server, in two languages; Warren's service meets its queue."""

import asyncio

import pytest

from tests.interop.peers import CLIENTS, ROGUE, SERVERS, Command, ask, running
from tests.support.serving import serving
from warren import AsyncClient, CallError, Client, Code, Execution, Origin, Server, Service


@pytest.fixture(params=SERVERS)
def tutorial_server(request: pytest.FixtureRequest) -> Command:
    return SERVERS[request.param]


def make_service(name: str, *, declare: bool = True) -> Service:
    service = Service(name, declare=declare)

    @service.method(default=True)
    def answer(n: int) -> str:
        return f"Warren says {n}"

    return service


async def test_an_async_client_calls_a_tutorial_server(tutorial_server: Command, url: str, service_name: str) -> None:
    async with running(tutorial_server, url, service_name), AsyncClient(url) as client:
        assert await client.call_bare(service_name, b"25") == b"75025"
        assert await client.call_bare(service_name, "10") == b"55"


async def test_a_blocking_client_calls_a_tutorial_server(tutorial_server: Command, url: str, service_name: str) -> None:
    def calls() -> list[bytes]:
        with Client(url) as client:
            return [client.call_bare(service_name, b"25"), client.call_bare(service_name, "10")]

    async with running(tutorial_server, url, service_name):
        assert await asyncio.to_thread(calls) == [b"75025", b"55"]


async def test_many_bare_calls_in_flight_get_each_its_own_answer_from_two_servers(url: str, service_name: str) -> None:
    async with (
        running(SERVERS["python"], url, service_name) as python,
        running(SERVERS["javascript"], url, service_name) as javascript,
        AsyncClient(url) as client,
    ):
        answers = await asyncio.gather(*(client.call_bare(service_name, str(n % 20)) for n in range(200)))
        both = await asyncio.wait_for(asyncio.gather(python.readline(), javascript.readline()), 10)

    fibonacci = [0, 1]
    while len(fibonacci) < 20:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert answers == [b"%d" % fibonacci[n % 20] for n in range(200)]
    assert all(line.startswith(b" [.] fib(") for line in both)


async def test_a_service_does_not_start_on_a_queue_that_a_tutorial_server_has_declared(
    tutorial_server: Command, url: str, service_name: str
) -> None:
    async with running(tutorial_server, url, service_name):
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(Server(make_service(service_name), url=url).serve(), 10)

    error = caught.value
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "QUEUE_ARGUMENTS")
    assert (error.execution, error.origin) == (Execution.NOT_SENT, Origin.BROKER)
    assert f"queue {service_name!r} exists with other arguments" in error.message
    assert "'durable'" in error.message  # which argument differs
    assert f"Service({service_name!r}, declare=False)" in error.message  # what to do


async def test_a_service_that_does_not_declare_takes_over_the_queue_that_a_tutorial_server_left(
    tutorial_server: Command, url: str, service_name: str
) -> None:
    async with running(tutorial_server, url, service_name):
        pass  # it has declared its queue, and is gone
    service = make_service(service_name, declare=False)
    async with serving(service, url=url), AsyncClient(url) as client:
        assert await ask(CLIENTS["python"], url, service_name, "30") == ["Warren says 30"]
        assert await client.call(f"{service_name}.answer", 30) == "Warren says 30"


async def test_a_service_and_a_tutorial_server_share_one_queue(
    tutorial_server: Command, url: str, service_name: str
) -> None:
    service = make_service(service_name, declare=False)
    async with (
        running(tutorial_server, url, service_name),
        serving(service, url=url, concurrency=1),
        AsyncClient(url) as client,
    ):
        answers = await asyncio.gather(*(client.call_bare(service_name, b"20") for _ in range(50)))

    assert set(answers) == {b"6765", b"Warren says 20"}


async def test_answers_that_nobody_waits_for_are_ignored_and_counted(url: str, service_name: str) -> None:
    async with running(ROGUE, url, service_name), AsyncClient(url) as client:
        assert await client.call_bare(service_name, b"first") == b"first"
        await _counted(client, 3)
        assert await client.call_bare(service_name, b"second") == b"second"
        await _counted(client, 6)


async def test_a_blocking_client_counts_the_answers_that_nobody_waits_for(url: str, service_name: str) -> None:
    with Client(url) as client:
        async with running(ROGUE, url, service_name):
            assert await asyncio.to_thread(client.call_bare, service_name, b"first") == b"first"
            await _counted(client, 3)


async def _counted(client: AsyncClient | Client, count: int) -> None:
    """The duplicate comes after the answer, so the count may lag behind it."""
    for _ in range(1000):
        if client.ignored_replies >= count:
            break
        await asyncio.sleep(0.01)
    assert client.ignored_replies == count
