"""Each ending of docs/wire.md's table that involves no reconnect, with its code, reason and evidence."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from msgspec import Meta

from tests.support.raw import depth, take
from tests.support.serving import serving
from tests.support.waiting import until
from warren import (
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    DeadlineExceeded,
    Execution,
    InvalidArgument,
    MethodNotFound,
    Origin,
    Overloaded,
    PermissionDenied,
    RemoteError,
    Service,
    Unavailable,
)
from warren.protocol import topology


class InsufficientFunds(Exception):
    """An error of the service's own, with data."""

    def __init__(self, missing: int, currency: str) -> None:
        super().__init__(missing, currency)
        self.missing = missing
        self.currency = currency


def ending(error: CallError) -> tuple[str, str, str, str]:
    return error.code.value, error.reason, error.execution.value, error.origin.value


async def error_of(call: Awaitable[Any]) -> CallError:
    """The `CallError` that a call ends in, within ten seconds."""
    with pytest.raises(CallError) as caught:
        await asyncio.wait_for(call, 10)
    return caught.value


def declare_queue(raw: Any, name: str, **arguments: Any) -> None:
    """A queue as a Warren service declares it, but with nobody to serve it."""
    raw.exchange_declare("warren", "direct", durable=True)
    raw.exchange_declare("warren.bounce", "direct", durable=True)
    raw.queue_declare(name, durable=True, arguments={"x-dead-letter-exchange": "warren.bounce", **arguments})
    raw.queue_bind(name, "warren", name)


# --- the broker's word --------------------------------------------------------------------------------------------


async def test_no_queue_is_no_route_at_once(client: AsyncClient, service_name: str) -> None:
    error = await error_of(client.call(f"{service_name}.x"))
    assert isinstance(error, Unavailable)
    assert ending(error) == ("UNAVAILABLE", "NO_ROUTE", "NOT_EXECUTED", "broker")
    assert error.safe_to_retry
    assert error.method == f"{service_name}.x"
    assert error.queue == service_name


async def test_a_cast_without_a_queue_is_no_route(client: AsyncClient, service_name: str) -> None:
    assert ending(await error_of(client.cast(f"{service_name}.x")))[1] == "NO_ROUTE"


async def test_a_bare_call_without_a_queue_is_no_route(client: AsyncClient, service_name: str) -> None:
    assert ending(await error_of(client.call_bare(service_name, "1")))[1] == "NO_ROUTE"


@pytest.mark.usefixtures("unhurried")
async def test_fail_fast_without_a_worker_says_how_the_queue_stands(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name)
    error = await error_of(client.options(fail_fast=True).call(f"{service_name}.x"))
    assert ending(error) == ("UNAVAILABLE", "NO_FREE_WORKER", "UNKNOWN", "broker")
    assert "has no messages waiting and no consumers: is a worker running?" in str(error)


async def test_fail_fast_while_the_only_worker_is_busy(client: AsyncClient, url: str, service_name: str) -> None:
    service = Service(service_name, concurrency=1)
    started, release = asyncio.Event(), asyncio.Event()

    @service.method(delivery="at-most-once")
    async def quick() -> str:
        return "done"

    @service.method
    async def slow() -> str:
        started.set()
        await release.wait()
        return "done"

    async with serving(service, url=url):
        busy = asyncio.create_task(client.call(slow))
        await started.wait()
        error = await error_of(client.options(fail_fast=True).call(quick))
        # Unknown also of an at-most-once method: the ack that precedes its handler may have been lost with the worker.
        assert ending(error) == ("UNAVAILABLE", "NO_FREE_WORKER", "UNKNOWN", "broker")
        release.set()
        assert await busy == "done"
        assert await client.options(fail_fast=True).call(quick) == "done"


@pytest.mark.usefixtures("unhurried")
async def test_a_request_that_expires_in_the_queue_ends_at_its_time(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name)
    error = await error_of(client.options(timeout=0.2).call(f"{service_name}.x"))
    assert isinstance(error, DeadlineExceeded)
    assert error.reason in ("CLIENT_TIMER", "QUEUE_TTL")  # they race for the same moment
    assert error.execution is Execution.UNKNOWN
    assert "and no consumers: is a worker running?" in str(error)


async def test_the_bounce_of_an_expired_request_ends_the_call(client: AsyncClient, raw: Any, service_name: str) -> None:
    # The queue's own TTL is shorter than the call's: the client's timer cannot be what ends it.
    declare_queue(raw, service_name, **{"x-message-ttl": 50})
    error = await error_of(client.options(timeout=60).call(f"{service_name}.x"))
    assert ending(error) == ("DEADLINE_EXCEEDED", "QUEUE_TTL", "UNKNOWN", "broker")


async def test_a_full_queue_gives_the_oldest_request_back(client: AsyncClient, raw: Any, service_name: str) -> None:
    declare_queue(raw, service_name, **{"x-max-length": 1})
    first = asyncio.create_task(error_of(client.call(f"{service_name}.x", 1)))
    await until(lambda: depth(raw, service_name) == 1)
    await client.cast(f"{service_name}.x", 2)
    error = await first
    assert isinstance(error, Overloaded)
    # A worker that died may have held it before: the oldest is what comes back to a queue, too.
    assert ending(error) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", "UNKNOWN", "broker")


@pytest.mark.usefixtures("unhurried")
async def test_a_full_queue_that_refuses_publishes_ends_the_call_by_nack(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    await client.cast(f"{service_name}.x", 1)
    error = await error_of(client.call(f"{service_name}.x", 2))
    assert ending(error) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", "NOT_EXECUTED", "broker")
    assert f"queue {service_name!r} has 1 message waiting and no consumers" in str(error)
    assert ending(await error_of(client.cast(f"{service_name}.x", 3)))[1] == "QUEUE_FULL"


async def test_a_request_refused_by_a_foreign_consumer_comes_back(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name)
    call = asyncio.create_task(error_of(client.call(f"{service_name}.x")))
    await until(lambda: depth(raw, service_name) == 1)
    method, _properties, _body = raw.basic_get(service_name)
    raw.basic_reject(method.delivery_tag, requeue=False)
    assert ending(await call) == ("ABORTED", "REJECTED", "UNKNOWN", "broker")


async def test_a_quorum_queues_delivery_limit_is_poison(client: AsyncClient, raw: Any, service_name: str) -> None:
    declare_queue(raw, service_name, **{"x-queue-type": "quorum", "x-delivery-limit": 1})
    call = asyncio.create_task(error_of(client.call(f"{service_name}.x")))
    for _ in range(2):
        await until(lambda: depth(raw, service_name) == 1)
        method, _properties, _body = raw.basic_get(service_name)
        raw.basic_reject(method.delivery_tag, requeue=True)
    assert ending(await call) == ("INTERNAL", "POISON", "UNKNOWN", "broker")


# --- the client's own limits --------------------------------------------------------------------------------------


async def test_the_own_timer_runs_from_the_moment_of_the_call(client: AsyncClient, url: str, service_name: str) -> None:
    service = Service(service_name)
    cut_off = asyncio.Event()

    @service.method
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cut_off.set()

    async with serving(service, url=url):
        error = await error_of(client.options(timeout=1.0).call(hang))
        assert isinstance(error, TimeoutError)
        assert ending(error) in (
            ("DEADLINE_EXCEEDED", "CLIENT_TIMER", "UNKNOWN", "client"),
            ("DEADLINE_EXCEEDED", "HANDLER", "EXECUTED", "server"),  # the server's timer may be the first
        )
        await asyncio.wait_for(cut_off.wait(), 10)  # the handler was cancelled at its deadline


@pytest.mark.usefixtures("unhurried")
async def test_the_timer_of_a_call_to_a_running_worker_names_queue_and_consumers(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    declare_queue(raw, service_name)
    raw.basic_consume(service_name, lambda *_args: None)  # a worker that takes requests and never answers
    error = await error_of(client.options(timeout=0.3).call(f"{service_name}.x"))
    assert ending(error) == ("DEADLINE_EXCEEDED", "CLIENT_TIMER", "UNKNOWN", "client")
    assert f"queue {service_name!r} has no messages waiting and 1 consumer" in str(error)


async def test_more_calls_than_the_clients_limit_are_refused(url: str, raw: Any, service_name: str) -> None:
    declare_queue(raw, service_name)
    async with AsyncClient(url, max_in_flight=2) as client:
        waiting = [asyncio.create_task(error_of(client.call(f"{service_name}.x"))) for _ in range(2)]
        await asyncio.sleep(0)
        error = await error_of(client.call(f"{service_name}.x"))
        assert ending(error) == ("RESOURCE_EXHAUSTED", "CLIENT_LIMIT", "NOT_SENT", "client")
        await client.close()
        assert {(await task).reason for task in waiting} == {"CLOSED"}


async def test_a_request_that_is_too_large_is_not_sent(url: str, service_name: str) -> None:
    async with AsyncClient(url, max_message_size=1000) as client:
        error = await error_of(client.call(f"{service_name}.x", "y" * 1000))
    assert isinstance(error, Overloaded)
    assert ending(error) == ("RESOURCE_EXHAUSTED", "TOO_LARGE", "NOT_SENT", "client")


async def test_a_reply_that_is_too_large_ends_only_its_call(url: str, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    async def text(size: int) -> str:
        return "x" * size

    async with serving(service, url=url), AsyncClient(url, max_message_size=1000) as client:
        large, small = await asyncio.gather(error_of(client.call(text, 200_000)), client.call(text, 5))
        assert ending(large) == ("RESOURCE_EXHAUSTED", "TOO_LARGE", "EXECUTED", "client")
        assert small == "xxxxx"


async def test_arguments_that_cannot_be_encoded_are_not_sent(client: AsyncClient, service_name: str) -> None:
    error = await error_of(client.call(f"{service_name}.x", object()))
    assert isinstance(error, InvalidArgument)
    assert ending(error) == ("INVALID_ARGUMENT", "ENCODE", "NOT_SENT", "client")


async def test_cancelling_gives_the_call_up_and_ignores_its_reply(
    client: AsyncClient, url: str, service_name: str
) -> None:
    service = Service(service_name)
    started, release = asyncio.Event(), asyncio.Event()

    @service.method
    async def slow() -> str:
        started.set()
        await release.wait()
        return "late"

    async with serving(service, url=url, control=None):  # else the worker may hear that it was given up, and not reply
        call = asyncio.create_task(client.call(slow))
        await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        await until(lambda: client.ignored_replies == 1)
        assert await client.call(slow) == "late"


async def test_closing_ends_the_calls_under_way(url: str, raw: Any, service_name: str) -> None:
    declare_queue(raw, service_name)
    client = AsyncClient(url)
    await client.connect()
    call = asyncio.create_task(error_of(client.call(f"{service_name}.x")))
    await until(lambda: depth(raw, service_name) == 1)
    await client.close()
    error = await call
    assert isinstance(error, Cancelled)
    assert ending(error) == ("CANCELLED", "CLOSED", "UNKNOWN", "client")
    assert ending(await error_of(client.call(f"{service_name}.x"))) == ("CANCELLED", "CLOSED", "NOT_SENT", "client")


# --- the server's word --------------------------------------------------------------------------------------------


class Bank:
    """A service whose methods end in every way a server can end a call."""

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, errors=[InsufficientFunds], **options)
        self.ran = 0

        @self.service.method
        async def pay(amount: Annotated[int, Meta(gt=0)], currency: str = "EUR") -> int:
            self.ran += 1
            raise InsufficientFunds(amount, currency)

        @self.service.method
        def crash() -> None:
            raise KeyError("no such account", 7)

        @self.service.method
        async def refuse() -> None:
            raise PermissionDenied("ask your bank")

        @self.service.method
        async def leave() -> None:
            raise SystemExit(3)

        @self.service.method
        async def wrong() -> int:
            return "not a number"  # type: ignore[return-value]

        @self.service.method
        async def unencodable() -> Any:
            return object()

        @self.service.method
        async def immeasurable() -> list[float | None]:
            return [None, math.nan]

        self.pay, self.crash, self.refuse, self.leave = pay, crash, refuse, leave
        self.wrong, self.unencodable, self.immeasurable = wrong, unencodable, immeasurable


@pytest.fixture
def bank(service_name: str) -> Bank:
    return Bank(service_name)


Ask = Callable[[AsyncClient, Bank], Awaitable[Any]]


@pytest.mark.parametrize(
    ("ask", "kind", "expected", "text"),
    [
        pytest.param(
            lambda c, b: c.call(f"{b.service.name}.nope"),
            MethodNotFound,
            ("UNIMPLEMENTED", "METHOD", "NOT_EXECUTED", "server"),
            "has no method 'nope': known are crash, immeasurable, leave, pay",
            id="unknown method",
        ),
        pytest.param(
            lambda c, b: c.call(b.pay, -1),
            InvalidArgument,
            ("INVALID_ARGUMENT", "VALIDATION", "NOT_EXECUTED", "server"),
            "amount must be at least 1; the signature is pay(amount: int",
            id="argument out of bounds",
        ),
        pytest.param(
            lambda c, b: c.call(f"{b.service.name}.pay", "ten"),
            InvalidArgument,
            ("INVALID_ARGUMENT", "VALIDATION", "NOT_EXECUTED", "server"),
            "amount must be an int, not a str; the signature is pay(amount: int",
            id="argument of the wrong type",
        ),
        pytest.param(
            lambda c, b: c.call(f"{b.service.name}.pay", amount=1, colour="red"),
            InvalidArgument,
            ("INVALID_ARGUMENT", "VALIDATION", "NOT_EXECUTED", "server"),
            "there is no argument 'colour'; the signature is pay(amount: int, currency: str = 'EUR')",
            id="unknown argument",
        ),
        pytest.param(
            lambda c, b: c.call(f"{b.service.name}.pay"),
            InvalidArgument,
            ("INVALID_ARGUMENT", "VALIDATION", "NOT_EXECUTED", "server"),
            "argument 'amount' is missing; the signature is pay(amount: int, currency: str = 'EUR')",
            id="missing argument",
        ),
        pytest.param(
            lambda c, b: c.call(b.crash),
            RemoteError,
            ("UNKNOWN", "HANDLER_EXCEPTION", "EXECUTED", "handler"),
            "KeyError: ('no such account', 7)",
            id="handler raises",
        ),
        pytest.param(
            lambda c, b: c.call(b.refuse),
            PermissionDenied,
            ("PERMISSION_DENIED", "PERMISSION_DENIED", "EXECUTED", "handler"),
            "ask your bank",
            id="handler raises a CallError",
        ),
        pytest.param(
            lambda c, b: c.call(b.leave),
            RemoteError,
            ("UNKNOWN", "HANDLER_EXCEPTION", "EXECUTED", "handler"),
            "SystemExit: 3",
            id="handler calls sys.exit",
        ),
        pytest.param(
            lambda c, b: c.call(b.wrong),
            CallError,
            ("INTERNAL", "ENCODE_REPLY", "EXECUTED", "server"),
            "result must be an int, not a str",
            id="result of the wrong type",
        ),
        pytest.param(
            lambda c, b: c.call(b.unencodable),
            CallError,
            ("INTERNAL", "ENCODE_REPLY", "EXECUTED", "server"),
            "objects of type object cannot be encoded",
            id="result that cannot be encoded",
        ),
        pytest.param(
            lambda c, b: c.call(b.immeasurable),
            CallError,
            ("INTERNAL", "ENCODE_REPLY", "EXECUTED", "server"),
            "JSON has no nan",
            id="result that JSON does not have",
        ),
        pytest.param(
            lambda c, b: c.call_bare(b.service.name, "1"),
            MethodNotFound,
            ("UNIMPLEMENTED", "METHOD", "NOT_EXECUTED", "server"),
            "no default method for bare requests",
            id="bare request without a default method",
        ),
    ],
)
async def test_the_server_answers_with(
    client: AsyncClient,
    url: str,
    bank: Bank,
    ask: Ask,
    kind: type[CallError],
    expected: tuple[str, ...],
    text: str,
) -> None:
    async with serving(bank.service, url=url):
        error = await error_of(ask(client, bank))
        assert type(error) is kind
        assert ending(error) == expected
        assert text in str(error)
        assert error.call_id
        assert bank.ran == 0


async def test_an_exception_that_cannot_even_say_its_text_is_an_error_like_others(
    client: AsyncClient, url: str, service_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    caplog.set_level("CRITICAL", "warren.server")
    service = Service(service_name, concurrency=1)

    @service.method
    def thread() -> None:
        raise Mute

    @service.method
    async def loop() -> None:
        raise Mute

    async with serving(service, url=url):
        for method in (thread, loop, thread):
            error = await error_of(client.call(method))
            assert isinstance(error, RemoteError)
            assert "Mute: (its text is not available" in str(error)


async def test_a_registered_exception_is_raised_as_itself(client: AsyncClient, url: str, bank: Bank) -> None:
    async with serving(bank.service, url=url):
        with pytest.raises(InsufficientFunds) as caught:
            await client.call(bank.pay, 5, currency="CHF")
    assert (caught.value.missing, caught.value.currency) == (5, "CHF")


async def test_a_registered_exception_needs_no_shared_code(url: str, bank: Bank) -> None:
    async with serving(bank.service, url=url), AsyncClient(url, errors=[InsufficientFunds]) as client:
        with pytest.raises(InsufficientFunds):
            await client.call(f"{bank.service.name}.pay", 5)
    async with serving(bank.service, url=url), AsyncClient(url) as client:
        error = await error_of(client.call(f"{bank.service.name}.pay", 5))
    assert isinstance(error, RemoteError)
    assert (error.type, error.details) == ("InsufficientFunds", [5, "EUR"])


async def test_tracebacks_stay_at_home_unless_the_service_opts_in(
    client: AsyncClient, url: str, service_name: str
) -> None:
    for tracebacks in (False, True):
        bank = Bank(f"{service_name}-{tracebacks}", tracebacks=tracebacks)
        async with serving(bank.service, url=url):
            error = await error_of(client.call(bank.crash))
        assert isinstance(error, RemoteError)
        assert (error.traceback is not None) is tracebacks
        assert not tracebacks or "test_endings.py" in str(error.traceback)


async def test_middleware_can_refuse_before_the_handler_runs(client: AsyncClient, url: str, service_name: str) -> None:
    async def refuse(_call: Any, _proceed: Any) -> Any:
        raise PermissionDenied("members only")

    bank = Bank(service_name, middleware=[refuse])
    async with serving(bank.service, url=url):
        error = await error_of(client.call(bank.pay, 1))
    assert ending(error) == ("PERMISSION_DENIED", "PERMISSION_DENIED", "NOT_EXECUTED", "handler")
    assert bank.ran == 0


async def test_a_request_larger_than_the_services_limit_is_refused(
    client: AsyncClient, url: str, service_name: str
) -> None:
    service = Service(service_name, max_message_size=1000)

    @service.method
    async def size(text: str) -> int:
        return len(text)

    @service.method
    async def text(size: int) -> str:
        return "x" * size

    async with serving(service, url=url):
        error = await error_of(client.call(size, "y" * 2000))
        assert ending(error) == ("RESOURCE_EXHAUSTED", "TOO_LARGE", "NOT_EXECUTED", "server")
        error = await error_of(client.call(text, 2000))
        assert ending(error) == ("RESOURCE_EXHAUSTED", "TOO_LARGE", "EXECUTED", "server")
        assert await client.call(size, "ok") == 2


@pytest.mark.parametrize(
    ("headers", "properties", "body", "status", "reason"),
    [
        ({"rpc-v": 9}, {"type": "pay"}, b"[1]", "UNIMPLEMENTED", "VERSION"),
        ({"rpc-v": 1}, {"type": "pay", "content_type": "application/xml"}, b"<a/>", "UNIMPLEMENTED", "ENCODING"),
        ({"rpc-v": 1}, {"type": "pay", "content_type": "application/json"}, b"[1", "INVALID_ARGUMENT", "DECODE"),
        ({"rpc-v": 1}, {"type": "pay", "content_type": "application/json"}, b"", "INVALID_ARGUMENT", "DECODE"),
        (
            {"rpc-v": 1},
            {"type": "pay", "content_type": "application/json"},
            b"[" * 100_000,
            "INVALID_ARGUMENT",
            "VALIDATION",
        ),
        (
            {"rpc-v": 1, "rpc-timeout-ms": 1000, "rpc-deadline": 1},
            {"type": "pay", "content_type": "application/json"},
            b"[0]",
            "INVALID_ARGUMENT",  # a clock that is wrong by decades is not believed
            "VALIDATION",
        ),
        (
            {"rpc-v": 1, "rpc-timeout-ms": 0},
            {"type": "pay", "content_type": "application/json"},
            b"[1]",
            "DEADLINE_EXCEEDED",
            "ON_ARRIVAL",
        ),
        ({}, {"type": "pay"}, b"abc", "INVALID_ARGUMENT", "VALIDATION"),
    ],
)
async def test_a_hand_made_request_is_answered(
    url: str,
    raw: Any,
    bank: Bank,
    headers: dict[str, Any],
    properties: dict[str, Any],
    body: bytes,
    status: str,
    reason: str,
) -> None:
    import pika

    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(bank.service, url=url):
        raw.basic_publish(
            "",
            bank.service.name,
            body,
            pika.BasicProperties(headers=headers, reply_to=replies, correlation_id="1", **properties),
        )
        await until(lambda: depth(raw, replies) == 1)
    answer = take(raw, replies)
    assert answer is not None
    assert (answer[0].headers["rpc-status"], answer[0].headers["rpc-reason"]) == (status, reason)
    assert answer[0].headers["rpc-executed"] == "NOT_EXECUTED"
    assert answer[0].correlation_id == "1"
    assert bank.ran == 0


async def test_a_cast_that_fails_is_set_aside_with_its_reason(
    client: AsyncClient, url: str, raw: Any, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "warren.server")
    async with serving(bank.service, url=url):
        await client.cast(bank.crash)
        await client.cast(f"{bank.service.name}.pay", "ten")
        dead = topology.dead_queue(bank.service.name)
        await until(lambda: depth(raw, dead) == 2)
    reasons = set()
    while (message := take(raw, dead)) is not None:
        reasons.add(message[0].headers["rpc-dead-reason"])
    assert reasons == {"HANDLER_EXCEPTION", "VALIDATION"}


async def test_a_cast_that_is_too_large_for_the_service_is_kept_whole(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    service = Service(service_name, max_message_size=1000)

    @service.method
    async def size(text: str) -> int:
        return len(text)

    async with serving(service, url=url):
        await client.cast(size, "y" * 2000)
        dead = await until(lambda: take(raw, topology.dead_queue(service_name)))
    assert len(dead[1]) == 2004
    assert dead[0].headers["x-first-death-reason"] == "rejected"


async def test_a_large_fail_fast_call_comes_back_at_once(client: AsyncClient, raw: Any, service_name: str) -> None:
    declare_queue(raw, service_name)
    error = await error_of(client.options(fail_fast=True).call(f"{service_name}.x", "y" * 200_000))
    assert error.reason == "NO_FREE_WORKER"


async def test_a_handler_that_outlives_the_drain_is_answered(client: AsyncClient, url: str, service_name: str) -> None:
    service = Service(service_name)
    began = asyncio.Event()

    @service.method
    async def hang() -> None:
        began.set()
        await asyncio.Event().wait()

    async with serving(service, url=url, drain_timeout=0.1) as server:
        call = asyncio.create_task(error_of(client.call(hang)))
        await began.wait()
    assert ending(await call) == ("CANCELLED", "DRAIN", "EXECUTED", "server")
    assert len(server.abandoned) == 1


async def test_a_request_whose_time_ran_out_in_the_worker_is_not_begun(
    client: AsyncClient, url: str, service_name: str
) -> None:
    service = Service(service_name, concurrency=1)
    began, release, ran = asyncio.Event(), asyncio.Event(), []

    @service.method(delivery="at-most-once")
    async def work(n: int) -> None:
        ran.append(n)
        began.set()
        await release.wait()

    async with serving(service, url=url):
        first = asyncio.create_task(client.call(work, 1))
        await began.wait()
        # It is taken from the queue, as the first is acknowledged, and waits in the worker past its time.
        await error_of(client.options(timeout=0.2).call(work, 2))
        release.set()
        await first
        await client.call(work, 3)
    assert ran == [1, 3]


# --- replies that nobody waits for --------------------------------------------------------------------------------


async def test_duplicate_unknown_and_foreign_replies_are_ignored_and_counted(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    import pika

    declare_queue(raw, service_name)
    call = asyncio.create_task(client.call(f"{service_name}.x"))
    await until(lambda: depth(raw, service_name) == 1)
    request = take(raw, service_name)
    assert request is not None
    properties = request[0]
    for correlation_id in ("nobody.1", None, properties.correlation_id, properties.correlation_id):
        reply = pika.BasicProperties(correlation_id=correlation_id, content_type="application/json")
        raw.basic_publish("", properties.reply_to, b'"first"', reply)
    hostile = pika.BasicProperties(headers={"x-first-death-reason": "expired", "when": 2**40}, correlation_id="\x00")
    raw.basic_publish("", properties.reply_to, b"", hostile)
    assert await asyncio.wait_for(call, 10) == "first"
    await until(lambda: client.ignored_replies == 4)


async def test_a_reply_that_cannot_be_read_ends_only_its_call(client: AsyncClient, raw: Any, service_name: str) -> None:
    import pika

    declare_queue(raw, service_name)
    for content_type, body in (("application/json", b"{"), ("application/x-unknown", b"1")):
        call = asyncio.create_task(error_of(client.call(f"{service_name}.x")))
        await until(lambda: depth(raw, service_name) == 1)
        request = take(raw, service_name)
        assert request is not None
        reply = pika.BasicProperties(correlation_id=request[0].correlation_id, content_type=content_type)
        raw.basic_publish("", request[0].reply_to, body, reply)
        assert ending(await call) == ("INTERNAL", "DECODE_REPLY", "EXECUTED", "client")


def test_the_blocking_client_raises_the_same_errors(url: str, service_name: str) -> None:
    with Client(url) as client:
        with pytest.raises(Unavailable) as caught:
            client.call(f"{service_name}.x")
        assert ending(caught.value) == ("UNAVAILABLE", "NO_ROUTE", "NOT_EXECUTED", "broker")
        with pytest.raises(Unavailable):
            client.submit(f"{service_name}.x").result(10)
        with pytest.raises(Unavailable):
            client.cast(f"{service_name}.x")
        with pytest.raises(Unavailable):
            client.call_bare(service_name, "1")
    with pytest.raises(Cancelled):
        client.call(f"{service_name}.x")


def test_the_origin_names_are_the_wires() -> None:
    assert [origin.value for origin in Origin] == ["client", "broker", "server", "handler"]
