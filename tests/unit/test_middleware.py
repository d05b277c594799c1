"""Code around calls."""

from __future__ import annotations

from typing import Any

import pytest

from warren.middleware import Proceed, chain


async def handler() -> Any:
    return "result"


def tracing(name: str, trace: list[str]) -> Any:
    """A middleware that writes down when it is entered and left."""

    async def layer(call: list[str], proceed: Proceed) -> Any:
        trace.append(f"{name} in {call[0]}")
        result = await proceed()
        trace.append(f"{name} out")
        return result

    return layer


def test_without_middleware_there_is_no_chain() -> None:
    assert chain((), None, handler) is handler


async def test_the_first_middleware_is_the_outermost() -> None:
    trace: list[str] = []
    await chain([tracing("a", trace), tracing("b", trace)], ["call"], handler)()
    assert trace == ["a in call", "b in call", "b out", "a out"]


async def test_the_handlers_result_comes_out() -> None:
    assert await chain([tracing("a", [])], ["call"], handler)() == "result"


async def test_a_middleware_may_change_the_result() -> None:
    async def shout(_call: None, proceed: Proceed) -> str:
        return str(await proceed()).upper()

    assert await chain([shout], None, handler)() == "RESULT"


async def test_a_middleware_may_answer_without_the_handler() -> None:
    async def refuse(_call: None, _proceed: Proceed) -> str:
        return "cached"

    async def unwanted() -> Any:
        raise AssertionError("the handler ran")

    assert await chain([refuse], None, unwanted)() == "cached"


async def test_an_error_of_the_handler_passes_through_every_middleware() -> None:
    seen: list[str] = []

    async def watch(_call: None, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except ValueError as error:
            seen.append(str(error))
            raise

    async def failing() -> Any:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await chain([watch, watch], None, failing)()
    assert seen == ["boom", "boom"]


async def test_a_middleware_may_run_the_handler_again() -> None:
    runs: list[int] = []

    async def counted() -> Any:
        runs.append(1)

    async def twice(_call: None, proceed: Proceed) -> Any:
        await proceed()
        return await proceed()

    await chain([twice], None, counted)()
    assert len(runs) == 2
