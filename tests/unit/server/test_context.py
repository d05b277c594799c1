"""What a handler can learn about its call."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from pika import spec
from tests.support import pika_frames

from warren import Pipeline, Service
from warren.amqp.frames import Delivery
from warren.protocol.request import Request
from warren.protocol.running import get_running, reset_running, set_running
from warren.server.context import CurrentCall, Scope, current_call


def call_with(deadline: float | None = None, **properties: Any) -> CurrentCall:
    delivery = Delivery(1, False, b"\x06warren\x04calc")
    delivery.properties = pika_frames.properties(spec.BasicProperties(**properties))
    return CurrentCall("calc.fib", deadline, Request(delivery), Scope("server"))


def test_a_call_shows_what_its_request_says() -> None:
    call = call_with(7.5, message_id="1", app_id="web", user_id="bob", headers={"rpc-v": 1, "rpc-attempt": 2, "t": "x"})
    assert (call.method, call.deadline, call.attempt) == ("calc.fib", 7.5, 2)
    assert (call.call_id, call.caller, call.user, call.headers) == ("1", "web", "bob", {"t": "x"})


def test_a_bare_peers_call_shows_nothing_but_the_method() -> None:
    call = call_with()
    assert (call.deadline, call.attempt) == (None, 1)
    assert (call.call_id, call.caller, call.user, call.headers) == (None, None, None, {})


def test_a_call_without_a_deadline_has_no_remaining_time() -> None:
    assert call_with().remaining is None


def test_a_call_past_its_deadline_has_no_time_left() -> None:
    assert call_with(time.monotonic() - 1).remaining == 0.0


def test_a_call_before_its_deadline_has_the_time_until_then() -> None:
    remaining = call_with(time.monotonic() + 1000).remaining
    assert remaining is not None
    assert 900 < remaining <= 1000


def test_outside_a_handler_there_is_no_current_call() -> None:
    assert get_running() is None
    with pytest.raises(LookupError, match="inside a handler"):
        current_call()


async def test_in_a_pipeline_that_is_run_here_it_is_that_of_any_function() -> None:
    service = Service("calc")

    @service.method
    async def first() -> int:
        return 1

    @service.method
    def second(n: int) -> tuple[int, str | None]:
        return n, current_call().call_id

    pipeline = Pipeline(first).then(second)
    with pytest.raises(LookupError, match="alone or in a pipeline, has none either: serve it") as alone:
        second(1)
    with pytest.raises(LookupError) as together:
        await pipeline()
    assert str(together.value) == str(alone.value)
    token = set_running(call_with(message_id="of the handler around it"))
    try:
        assert await pipeline() == second(1) == (1, "of the handler around it")
    finally:
        reset_running(token)


def test_inside_a_handler_the_current_call_is_its_own() -> None:
    call = call_with()
    token = set_running(call)
    try:
        assert current_call() is call
    finally:
        reset_running(token)


async def test_the_current_call_follows_into_tasks() -> None:
    call = call_with()
    token = set_running(call)
    try:
        task = asyncio.create_task(_look())
    finally:
        reset_running(token)
    assert await task is call


async def test_the_current_call_follows_into_asyncios_threads() -> None:
    call = call_with()
    token = set_running(call)
    try:
        assert await asyncio.to_thread(current_call) is call
    finally:
        reset_running(token)


def test_a_function_that_is_carried_along_runs_in_its_call_several_times_at_once() -> None:
    call = call_with()
    carried = call.carry(lambda: (current_call(), threading.get_ident()))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _n: carried(), range(8)))
    assert {one for one, _thread in found} == {call}
    assert threading.get_ident() not in {thread for _one, thread in found}
    assert get_running() is None


def test_what_one_carried_run_sets_the_next_does_not_see() -> None:
    seen = ContextVar("seen", default=0)

    def count() -> int:
        seen.set(seen.get() + 1)
        return seen.get()

    carried = call_with().carry(count)
    assert [carried(), carried()] == [1, 1]


async def test_the_current_call_is_nobody_elses() -> None:
    reset_running(set_running(call_with()))
    assert get_running() is None


async def _look() -> CurrentCall:
    return current_call()
