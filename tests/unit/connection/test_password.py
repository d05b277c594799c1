"""A password function, plain or async: what it gives is a str, or one clear error."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from warren.connection import password
from warren.connection.errors import ConnectFailed
from warren.connection.settings import Secret
from warren.errors import Code, Execution


class Token:
    """A callable object."""

    async def __call__(self) -> str:
        return "secret"


async def get(token: str = "secret") -> str:
    await asyncio.sleep(0)
    return token


def raise_(error: BaseException) -> Any:
    raise error


async def raise_later(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    "given",
    ["secret", lambda: "secret", get, functools.partial(get, "secret"), lambda: get("secret"), Token()],
    ids=["str", "function", "async function", "partial", "function of a coroutine", "object"],
)
async def test_all_kinds_of_functions_are_asked(given: Any) -> None:
    assert await password.ask(given) == Secret("secret")


async def give_none() -> None: ...


@pytest.mark.parametrize("given", [lambda: None, lambda: b"secret", lambda: 7, give_none, lambda: give_none()])
async def test_what_is_no_text_is_refused_for_good_and_not_shown(given: Any) -> None:
    with pytest.raises(ConnectFailed, match="must return a str or a Secret") as caught:
        await password.ask(given)
    assert caught.value.permanent
    assert "secret" not in str(caught.value)
    error = caught.value.error
    assert (error.code, error.reason, error.execution) == (Code.INVALID_ARGUMENT, "PASSWORD", Execution.NOT_SENT)


ERRORS = [
    ValueError("no vault"),
    StopIteration("no vault"),
    TimeoutError("no vault"),
    asyncio.CancelledError("no vault"),
]


class Mute(Exception):
    """One that cannot say what it is."""

    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("error", [*ERRORS, SystemExit(), Mute()], ids=lambda error: type(error).__name__)
async def test_a_function_that_raises_may_do_better_next_time(error: BaseException) -> None:
    await fails(lambda: raise_(error))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_an_async_function_that_raises_may_do_better_next_time(error: BaseException) -> None:
    await fails(functools.partial(raise_later, error))


async def fails(function: Callable[[], Awaitable[str]]) -> None:
    with pytest.raises(ConnectFailed, match="the password function failed") as caught:
        await password.ask(function)
    assert not caught.value.permanent
    assert (caught.value.error.reason, caught.value.error.execution) == ("NOT_CONNECTED", Execution.NOT_SENT)


async def test_the_loop_goes_on_while_a_function_takes_its_time() -> None:
    done = threading.Event()

    def slow() -> str:
        assert done.wait(20)
        return "secret"

    asking = asyncio.create_task(password.ask(slow))
    await asyncio.sleep(0.05)
    done.set()  # only a loop that turns gets here
    assert await asking == Secret("secret")


async def test_functions_that_never_return_take_a_bounded_number_of_threads() -> None:
    never = threading.Event()

    def hang() -> str:
        never.wait()
        return ""

    asking = [asyncio.create_task(password.ask(hang)) for _ in range(100)]
    try:
        while sum(one.done() for one in asking) < 68:
            await asyncio.sleep(0.01)
        assert all("have not returned yet" in str(one.exception()) for one in asking if one.done())
    finally:
        never.set()
    await asyncio.wait(asking)
    while "warren-password-calls" in {thread.name for thread in threading.enumerate()}:
        await asyncio.sleep(0.01)
    assert await password.ask(lambda: "secret") == Secret("secret")


async def test_who_stops_waiting_is_cancelled() -> None:
    asking = asyncio.create_task(password.ask(functools.partial(asyncio.sleep, 60)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
