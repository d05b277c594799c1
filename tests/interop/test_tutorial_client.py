"""RabbitMQ's tutorial six client, in two languages, calls a Warren service."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from msgspec import Meta

from tests.interop.peers import CLIENTS, Command, ask
from tests.support.serving import serving
from warren import AsyncClient, Service


@pytest.fixture(params=CLIENTS)
def tutorial_client(request: pytest.FixtureRequest) -> Command:
    return CLIENTS[request.param]


@pytest.fixture
async def calc(url: str, service_name: str) -> AsyncIterator[str]:
    """The name of a running Warren service whose default method is ``fib``."""
    service = Service(service_name)

    @service.method(default=True)
    def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
        a, b = 0, 1
        for _ in range(n):
            a, b = b, a + b
        return a

    async with serving(service, url=url):
        yield service_name


async def test_a_tutorial_client_gets_the_result_of_the_default_method(
    tutorial_client: Command, url: str, calc: str
) -> None:
    assert await ask(tutorial_client, url, calc, "30") == ["832040"]


async def test_a_tutorial_client_gets_the_right_answer_to_each_of_its_requests(
    tutorial_client: Command, url: str, calc: str
) -> None:
    assert await ask(tutorial_client, url, calc, "0", "1", "10", "90") == ["0", "1", "55", "2880067194370816120"]


async def test_a_tutorial_client_that_sends_nonsense_gets_readable_text_and_then_goes_on(
    tutorial_client: Command, url: str, calc: str
) -> None:
    word, too_large, empty, right = await ask(tutorial_client, url, calc, "abc", "91", "", "10")

    assert word == "INVALID_ARGUMENT: n must be an int, not a str; the signature is fib(n: int)"
    assert too_large == "INVALID_ARGUMENT: n must be at most 90; the signature is fib(n: int)"
    assert empty.startswith("INVALID_ARGUMENT: ")
    assert right == "55"


async def test_a_tutorial_client_is_told_that_the_service_has_no_default_method(
    tutorial_client: Command, url: str, service_name: str
) -> None:
    service = Service(service_name)

    @service.method
    def double(n: int) -> int:
        return 2 * n

    async with serving(service, url=url):
        [answer] = await ask(tutorial_client, url, service_name, "30")

    assert answer == (
        f"UNIMPLEMENTED: service {service_name!r} has no default method for bare requests: known are double"
    )


async def test_a_tutorial_client_is_told_what_the_handler_raised(
    tutorial_client: Command, url: str, service_name: str
) -> None:
    service = Service(service_name)

    @service.method(default=True)
    async def fib(n: int) -> int:
        raise ArithmeticError(f"{n} is beyond me")

    async with serving(service, url=url):
        assert await ask(tutorial_client, url, service_name, "30") == ["UNKNOWN: ArithmeticError: 30 is beyond me"]


async def test_tutorial_clients_and_warren_clients_are_served_side_by_side(url: str, calc: str) -> None:
    async with AsyncClient(url) as client:
        *answers, result = await asyncio.gather(
            *(ask(command, url, calc, "30", "abc", "20") for command in CLIENTS.values()),
            client.call(f"{calc}.fib", 30),
        )

    assert result == 832040
    for first, second, third in answers:
        assert first == "832040"
        assert second.startswith("INVALID_ARGUMENT")
        assert third == "6765"
