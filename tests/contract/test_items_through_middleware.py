"""Streams, uploads and what all instances are asked, through a client's middleware: items pass it by, ends do not."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import until, within
from warren import (
    AsyncClient,
    CallError,
    Cancelled,
    Client,
    ClientCall,
    DeadlineExceeded,
    Execution,
    InvalidArgument,
    PermissionDenied,
    Service,
    Unavailable,
    current_call,
)
from warren.middleware import Proceed

Layer = Callable[[ClientCall, Proceed], Any]
who: ContextVar[str] = ContextVar("who", default="nobody")


class SoldOut(Exception):
    """Raised after some items."""


class Done(StopAsyncIteration):
    """What ends a loop, as an error."""


class Mute(StopAsyncIteration):
    """One that cannot say what it is."""

    def __repr__(self) -> str:
        raise StopAsyncIteration


class MuteExit(SystemExit):
    """Another one."""

    def __repr__(self) -> str:
        raise ValueError


class Nothing(Exception):
    """An error that is false, as one that counts what it has may be."""

    def __bool__(self) -> bool:
        return False


class Rows:
    """A service of each kind; it keeps the tenants that its callers have said."""

    def __init__(self, name: str) -> None:
        self.tenants: list[Any] = []
        self.closed = 0
        self.service = service = Service(name, errors=[SoldOut, Done])

        @service.method
        async def rows(number: int, then: str = "") -> AsyncIterator[int]:
            self.note()
            try:
                for row in range(number):
                    yield row
                if then == "hang":
                    await asyncio.Event().wait()
                if then == "fail":
                    raise SoldOut("no more")
            finally:
                self.closed += 1

        @service.method
        def odd(number: int) -> Iterator[int]:
            yield from range(number)
            raise Done("odd")

        @service.method
        async def total(items: AsyncIterator[int], factor: int = 1) -> int:
            self.note()
            return factor * sum([item async for item in items])

        @service.method
        async def double(items: AsyncIterator[int]) -> AsyncIterator[int]:
            self.note()
            async for item in items:
                yield 2 * item

        @service.method(broadcast=True)
        async def stock(item: str) -> int:
            self.note()
            return len(item)

        self.rows, self.odd, self.total, self.double, self.stock = rows, odd, total, double, stock

    def note(self) -> None:
        self.tenants.append(current_call().headers.get("tenant"))


class Calls:
    """Either client, with the same words."""

    def __init__(self, client: AsyncClient | Client) -> None:
        self.client = client

    async def stream(self, method: Any, *args: Any, got: list[Any] | None = None, **options: Any) -> list[Any]:
        """All items, also in `got` as they come."""
        items: list[Any] = [] if got is None else got
        made = self.client.options(**options).stream(method, *args)
        await self._take(made, items)
        return items

    async def converse(self, method: Any, sent: Iterable[Any]) -> list[Any]:
        items: list[Any] = []
        await self._take(self.client.converse(method, sent), items)
        return items

    async def upload(self, method: Any, sent: Iterable[Any], *args: Any) -> Any:
        if isinstance(self.client, AsyncClient):
            return await self.client.upload(method, sent, *args)
        return await asyncio.to_thread(self.client.upload, method, sent, *args)

    async def gather(self, method: Any, *args: Any) -> list[Any]:
        if isinstance(self.client, AsyncClient):
            return [answer async for answer in self.client.gather(method, *args)]
        return await asyncio.to_thread(lambda client: list(client.gather(method, *args)), self.client)

    async def _take(self, stream: Any, items: list[Any]) -> None:
        if isinstance(self.client, AsyncClient):
            async for item in stream:
                items.append(item)  # noqa: PERF401 - what has come counts, too, where it ends in an error
        else:
            await asyncio.to_thread(items.extend, stream)


@pytest.fixture(params=[AsyncClient, Client])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def calling(kind: Any, url: str, name: str, *layers: Layer) -> AsyncIterator[tuple[Rows, Calls]]:
    rows, client = Rows(name), kind(url, middleware=layers, timeout=60)
    async with serving(rows.service, url=url):
        try:
            yield rows, Calls(client)
        finally:
            await client.close() if kind is AsyncClient else await asyncio.to_thread(client.close)


class Watch:
    """Middleware that keeps what it saw, and names a tenant."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ends: list[Any] = []
        self.certain: list[Execution | None] = []  # as it was said then
        self.who: list[str] = []

    async def __call__(self, call: ClientCall, proceed: Proceed) -> Any:
        self.seen.append((call.kind, call.name, call.args, call.kwargs))
        self.who.append(who.get())
        call.headers["tenant"] = "acme"
        try:
            result = await proceed()
        except BaseException as error:
            self.ends.append(error)
            self.certain.append(getattr(error, "execution", None))
            raise
        assert call.call_id is not None
        self.ends.append(result)
        return result


async def test_it_sees_each_kind_and_its_end_and_the_handler_its_headers(
    kind: Any, url: str, service_name: str
) -> None:
    watch = Watch()
    async with calling(kind, url, service_name, watch) as (rows, calls):
        token = who.set("ann")
        assert await calls.stream(rows.rows, 3) == [0, 1, 2]
        assert await calls.upload(rows.total, [1, 2, 3], 2) == 12
        assert await calls.converse(rows.double, [1, 2, 3]) == [2, 4, 6]
        assert [answer.result() for answer in await calls.gather(rows.stock, "tea")] == [3]
        who.reset(token)
        name = service_name
        assert watch.seen == [
            ("stream", f"{name}.rows", (3,), {}),
            ("upload", f"{name}.total", (2,), {}),
            ("conversation", f"{name}.double", (), {}),
            ("call", f"{name}.stock", ("tea",), {}),
        ]
        assert watch.ends == [3, 12, 3, 3]
        assert watch.who == ["ann"] * 4
        assert rows.tenants == ["acme"] * 4


async def test_it_may_change_arguments_and_the_result_of_an_upload(kind: Any, url: str, service_name: str) -> None:
    async def more(call: ClientCall, proceed: Proceed) -> Any:
        call.args = (10,)
        result = await proceed()
        return -result if call.kind == "upload" else result

    async with calling(kind, url, service_name, more) as (rows, calls):
        assert len(await calls.stream(rows.rows, 3)) == 10
        assert await calls.upload(rows.total, [1, 2, 3], 2) == -60


async def test_errors_pass_through_it_behind_the_items(kind: Any, url: str, service_name: str) -> None:
    watch = Watch()
    got: list[int] = []
    async with calling(kind, url, service_name, watch) as (rows, calls):
        with pytest.raises(SoldOut, match="no more") as caught:
            await calls.stream(rows.rows, 3, "fail", got=got)
        assert "3 items of the stream had come" in caught.value.__notes__
    assert got == [0, 1, 2]
    assert [type(end) for end in watch.ends] == [SoldOut]


@pytest.mark.parametrize("where", ["middleware", "mute middleware", "handler"])
async def test_what_would_end_a_loop_is_never_taken_for_the_end(
    kind: Any, url: str, service_name: str, where: str
) -> None:
    async def layer(call: ClientCall, proceed: Proceed) -> Any:
        result = await proceed()
        if call.method == "rows":
            raise (
                Mute if where == "mute middleware" else StopAsyncIteration
            )  # as an `anext` does that nobody has thought of
        return result

    async with calling(kind, url, service_name, layer) as (rows, calls):
        with pytest.raises(RuntimeError, match="has ended in"):
            await calls.stream(rows.odd if where == "handler" else rows.rows, 3)


async def test_what_it_raises_says_what_is_certain_of_the_call(kind: Any, url: str, service_name: str) -> None:
    async def deny(call: ClientCall, proceed: Proceed) -> Any:
        if call.args == (3,):
            await proceed()
        raise PermissionDenied("not today", execution=Execution.NOT_EXECUTED)

    async with calling(kind, url, service_name, deny) as (rows, calls):
        for number, certain in ((3, Execution.EXECUTED), (2, Execution.NOT_EXECUTED)):
            with pytest.raises(PermissionDenied, match="not today") as caught:
                await calls.stream(rows.rows, number)
            assert caught.value.execution is certain
        with pytest.raises(PermissionDenied) as caught:
            await calls.upload(rows.total, [1])
        assert caught.value.execution is Execution.NOT_EXECUTED
        (answer,) = await calls.gather(rows.stock, "tea")
        assert isinstance(answer.error, PermissionDenied)
        assert rows.tenants == [None]


async def test_without_proceeding_a_stream_is_empty_and_an_upload_has_its_result(
    kind: Any, url: str, service_name: str
) -> None:
    async def answer(call: ClientCall, _proceed: Proceed) -> Any:
        return "mine"

    taken = []

    def items() -> Any:
        taken.append(1)
        yield 1

    async with calling(kind, url, service_name, answer) as (rows, calls):
        assert await calls.stream(rows.rows, 3) == []
        assert await calls.upload(rows.total, items()) == "mine"
        assert rows.tenants == taken == []


async def test_an_error_that_is_false_ends_them_too(kind: Any, url: str, service_name: str) -> None:
    async def fail(_call: ClientCall, _proceed: Proceed) -> Any:
        raise Nothing

    async with calling(kind, url, service_name, fail) as (rows, calls):
        for asked in (calls.stream(rows.rows, 3), calls.upload(rows.total, [1]), calls.converse(rows.double, [1])):
            with pytest.raises(Nothing):
                await within(asked, "the end of a call whose middleware raises")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, MuteExit])
async def test_what_would_end_the_loop_ends_one_instances_call(url: str, service_name: str, error: Any) -> None:
    async def fail(_call: ClientCall, proceed: Proceed) -> Any:
        await proceed()
        raise error

    async with calling(Client, url, service_name, fail) as (rows, calls):  # an `AsyncClient`'s would end the user's
        (answer,) = await within(calls.gather(rows.stock, "tea"), "what has become of the one that is there")
        assert isinstance(answer.error, RuntimeError)
        assert error.__name__ in str(answer.error)


async def test_an_instance_whose_call_was_cancelled_before_it_began_is_not_waited_for(
    url: str, service_name: str
) -> None:
    async def cancel_the_first() -> None:
        while not (found := [task for task in asyncio.all_tasks() if "Chained.run_alone" in repr(task.get_coro())]):
            await asyncio.sleep(0)
        found[0].cancel()

    async with calling(AsyncClient, url, service_name, Watch()) as (rows, calls):
        cancelling = asyncio.create_task(cancel_the_first())
        (answer,) = await within(calls.gather(rows.stock, "tea"), "the answer of the one whose call is cancelled")
        await cancelling
        assert isinstance(answer.error, Cancelled)
        assert rows.tenants == []


async def test_it_proceeds_with_nothing_that_nobody_waits_for(kind: Any, url: str, service_name: str) -> None:
    refused: list[CallError] = []

    async def stubborn(call: ClientCall, proceed: Proceed) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(Cancelled, match="nobody waits") as caught:
                await proceed()
            refused.append(caught.value)

    async with calling(kind, url, service_name, stubborn) as (rows, calls):
        with pytest.raises(DeadlineExceeded, match="idle_timeout"):
            await calls.stream(rows.rows, 3, idle_timeout=0.2)
        await until(lambda: len(refused) == 1)
        assert refused[0].execution is Execution.NOT_SENT
        assert rows.tenants == []


async def test_it_proceeds_once(kind: Any, url: str, service_name: str) -> None:
    async def again(call: ClientCall, proceed: Proceed) -> Any:
        await proceed()
        return await proceed()

    async with calling(kind, url, service_name, again) as (rows, calls):
        with pytest.raises(RuntimeError, match="cannot proceed with a stream again"):
            await calls.stream(rows.rows, 3)
        assert rows.tenants == [None]


async def test_who_proceeds_again_after_an_error_tells_the_caller_of_that_error(
    kind: Any, url: str, service_name: str
) -> None:
    async def once_more(call: ClientCall, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except CallError:
            return await proceed()

    async with calling(kind, url, service_name, once_more) as (rows, calls):
        for wrong, noun in (calls.stream(rows.rows, "x"), "stream"), (calls.upload(rows.total, [1], "x"), "upload"):
            with pytest.raises(InvalidArgument) as caught:
                await wrong
            assert any(f"cannot proceed with a {noun} again" in note for note in caught.value.__notes__)
        assert await calls.stream(rows.rows, 3) == [0, 1, 2]


async def test_what_could_not_begin_may_be_tried_again(kind: Any, url: str, service_name: str) -> None:
    refused = []

    async def again(call: ClientCall, proceed: Proceed) -> Any:
        call.headers["tenant"] = object()
        with pytest.raises((TypeError, ValueError)) as caught:
            await proceed()
        refused.append(caught.value)
        call.headers["tenant"] = "acme"
        return await proceed()

    async with calling(kind, url, service_name, again) as (rows, calls):
        assert await calls.stream(rows.rows, 3) == [0, 1, 2]
        assert await calls.upload(rows.total, [1, 2]) == 3
        assert rows.tenants == ["acme"] * 2
        assert len(refused) == 2


async def test_its_own_limit_gives_the_call_up(kind: Any, url: str, service_name: str) -> None:
    async def impatient(call: ClientCall, proceed: Proceed) -> Any:
        task = asyncio.ensure_future(proceed())
        await until(lambda: rows.tenants)
        task.cancel()
        await until(lambda: rows.closed == 1)  # at once, and not when the middleware has ended
        raise Unavailable("it took too long", execution=Execution.UNKNOWN)

    async with calling(kind, url, service_name, impatient) as (rows, calls):
        with pytest.raises(Unavailable, match="it took too long"):
            await calls.stream(rows.rows, 2, "hang")


async def test_a_call_that_its_middleware_leaves_behind_is_given_up(kind: Any, url: str, service_name: str) -> None:
    left: list[Any] = []

    async def leave(call: ClientCall, proceed: Proceed) -> Any:
        left.append(asyncio.ensure_future(proceed()))
        await until(lambda: rows.tenants)

    async with calling(kind, url, service_name, leave) as (rows, calls):
        assert await calls.stream(rows.rows, 0, "hang") == []
        await until(lambda: rows.closed == 1)
        await until(lambda: left[0].cancelled())  # else it would wait for ever


async def test_what_it_passes_over_makes_no_stream_short(kind: Any, url: str, service_name: str) -> None:
    async def pass_over(call: ClientCall, proceed: Proceed) -> Any:
        if call.args[1] == "hang":  # and leave it behind, when an item has come
            left.append(asyncio.ensure_future(proceed()))
            await until(lambda: came)
        else:
            with suppress(SoldOut):
                await proceed()

    left: list[Any] = []
    came: list[Any] = []
    async with calling(kind, url, service_name, pass_over) as (rows, calls):
        assert await calls.stream(rows.rows, 0, "fail") == []
        got: list[int] = []
        with pytest.raises(SoldOut):
            await calls.stream(rows.rows, 3, "fail", got=got)
        assert got == [0, 1, 2]
        stream: Any = calls.client.stream(rows.rows, 2, "hang")
        came.append(await (anext(stream) if kind is AsyncClient else asyncio.to_thread(next, stream)))
        with pytest.raises(Cancelled, match="middleware has ended before the stream") as caught:
            await calls._take(stream, came)
        assert caught.value.execution is Execution.EXECUTED


async def test_it_is_told_that_the_handler_runs_whose_items_have_come(kind: Any, url: str, service_name: str) -> None:
    watch = Watch()
    async with calling(kind, url, service_name, watch) as (rows, calls):
        with pytest.raises(DeadlineExceeded) as caught:
            await calls.stream(rows.rows, 2, "hang", timeout=2.0)
        assert [caught.value.execution, *watch.certain] == [Execution.EXECUTED] * 2


async def test_leaving_a_stream_cancels_it(kind: Any, url: str, service_name: str) -> None:
    watch = Watch()
    async with calling(kind, url, service_name, watch) as (rows, calls):
        stream: Any = calls.client.stream(rows.rows, 1, "hang")
        if isinstance(calls.client, AsyncClient):
            assert await anext(stream) == 0
            await stream.aclose()
        else:
            assert await asyncio.to_thread(next, stream) == 0
            await asyncio.to_thread(stream.close)
        await until(lambda: len(watch.ends) == 1 and rows.closed == 1)
        assert isinstance(watch.ends[0], asyncio.CancelledError)


async def test_a_stream_ends_though_its_middleware_does_not(kind: Any, url: str, service_name: str) -> None:
    async def stuck(call: ClientCall, proceed: Proceed) -> Any:
        if call.args == (3,):
            await proceed()
        await asyncio.Event().wait()

    async with calling(kind, url, service_name, stuck) as (rows, calls):
        for number, certain in ((3, Execution.EXECUTED), (2, Execution.NOT_SENT)):
            with pytest.raises(DeadlineExceeded, match="middleware") as caught:
                await calls.stream(rows.rows, number, timeout=2.0)
            assert caught.value.execution is certain


async def test_idle_timeout_counts_before_it_proceeds_too(kind: Any, url: str, service_name: str) -> None:
    async def stuck(call: ClientCall, proceed: Proceed) -> Any:
        await asyncio.Event().wait()

    async with calling(kind, url, service_name, stuck) as (rows, calls):
        with pytest.raises(CallError, match="idle_timeout") as caught:
            await calls.stream(rows.rows, 3, idle_timeout=0.2)
        assert caught.value.execution is Execution.NOT_SENT
        assert rows.tenants == []


async def test_idle_timeout_counts_behind_the_last_item_too(kind: Any, url: str, service_name: str) -> None:
    async def goes_on(call: ClientCall, proceed: Proceed) -> Any:
        await proceed()
        await asyncio.Event().wait()

    async with calling(kind, url, service_name, goes_on) as (rows, calls):
        got: list[Any] = []
        with pytest.raises(DeadlineExceeded, match="idle_timeout") as caught:
            await calls.stream(rows.rows, 3, got=got, timeout=10, idle_timeout=0.5)
        assert got == [0, 1, 2]
        assert caught.value.execution is Execution.EXECUTED


async def test_closing_the_client_ends_them(kind: Any, url: str, service_name: str) -> None:
    watch = Watch()
    async with calling(kind, url, service_name, watch) as (rows, calls):
        taking = asyncio.create_task(calls.stream(rows.rows, 1, "hang"))
        await until(lambda: rows.tenants)
        client: Any = calls.client
        await (client.close() if kind is AsyncClient else asyncio.to_thread(client.close))
        with pytest.raises(Cancelled):
            await taking
    assert isinstance(watch.ends[0], Cancelled | asyncio.CancelledError)
