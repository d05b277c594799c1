"""What a service keeps open: when it is entered and left, and what becomes of a server whose service cannot start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CurrentCall, Execution, LifespanError, Service, current_call
from warren.errors import Origin

PATIENCE = 30.0


@dataclass
class Diary:
    """What happened, in order."""

    lines: list[str] = field(default_factory=list)

    def service(self, name: str, **trouble: Callable[[], Any]) -> Service:
        """A service that notes when its lifespan begins and ends, and gets into trouble as told."""
        service = Service(name)

        @service.lifespan
        async def lifespan() -> AsyncIterator[str]:
            await self._go_through("enter", name, trouble)
            try:
                yield f"state of {name}"
            finally:
                await self._go_through("leave", name, trouble)

        @service.method
        async def state() -> str:
            self.lines.append("call")
            return str(current_call().state)

        return service

    async def _go_through(self, what: str, name: str, trouble: dict[str, Callable[[], Any]]) -> None:
        self.lines.append(f"{what} {name}")
        result = trouble[what]() if what in trouble else None
        if result is not None:
            await result

    @property
    def kinds(self) -> list[str]:
        return [line.split()[0] for line in self.lines]


@pytest.fixture
def diary() -> Diary:
    return Diary()


def fail() -> None:
    raise ConnectionRefusedError("no database")


# --- its course ---------------------------------------------------------------------------------------------------


async def test_it_is_entered_before_the_first_request_is_taken_and_left_after_the_last(
    url: str, client: AsyncClient, service_name: str, diary: Diary
) -> None:
    async with serving(Diary().service(service_name), url=url):
        pass  # its queue is there now
    await client.cast(f"{service_name}.state")
    entering = asyncio.Event()
    server = serving(diary.service(service_name, enter=entering.wait), url=url)
    serve = asyncio.create_task(server.serve())
    await until(lambda: diary.lines)
    entering.set()
    await server.ready()
    await until(lambda: "call" in diary.kinds)
    server.stop()
    await serve
    assert diary.kinds == ["enter", "call", "leave"]


async def test_it_is_left_once_the_running_handlers_are_done(url: str, client: AsyncClient, service_name: str) -> None:
    service, lines, going = Service(service_name), list[str](), asyncio.Event()

    @service.lifespan
    async def lifespan() -> AsyncIterator[None]:
        yield
        lines.append("left")

    @service.method
    async def slow() -> None:
        lines.append("began")
        await going.wait()
        lines.append("ended")

    async with serving(service, url=url) as server:
        call = asyncio.create_task(client.call(slow))
        await until(lambda: lines)
        server.stop()
        asyncio.get_running_loop().call_later(0.1, going.set)
        await call
    assert lines == ["began", "ended", "left"]


async def test_each_serve_enters_it_again(url: str, service_name: str, diary: Diary) -> None:
    server = serving(diary.service(service_name), url=url)
    for _ in range(2):
        async with server:
            pass
    assert diary.kinds == ["enter", "leave", "enter", "leave"]


async def test_services_begin_in_order_and_end_in_reverse(url: str, service_name: str, diary: Diary) -> None:
    names = [f"{service_name}.{n}" for n in range(3)]
    async with serving(*(diary.service(name) for name in names), url=url):
        assert diary.lines == [f"enter {name}" for name in names]
    assert diary.lines[3:] == [f"leave {name}" for name in reversed(names)]


async def test_each_service_has_its_own_state(url: str, client: AsyncClient, service_name: str, diary: Diary) -> None:
    names = [f"{service_name}.{n}" for n in range(2)]
    async with serving(*(diary.service(name) for name in names), url=url):
        assert [await client.call(f"{name}.state") for name in names] == [f"state of {name}" for name in names]


async def test_without_one_the_state_is_none(url: str, client: AsyncClient, service_name: str) -> None:
    service = Service(service_name)

    @service.method
    def state(call: CurrentCall) -> bool:
        return call.state is None

    async with serving(service, url=url):
        assert await client.call(f"{service_name}.state") is True


async def test_it_may_hold_what_belongs_to_one_task(url: str, client: AsyncClient, service_name: str) -> None:
    service = Service(service_name)

    @service.lifespan
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[asyncio.Queue[int]]:
        numbers: asyncio.Queue[int] = asyncio.Queue()
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            background = group.create_task(asyncio.sleep(PATIENCE * 2))
            yield numbers
            background.cancel()

    @service.method
    async def put(n: int, call: CurrentCall[asyncio.Queue[int]]) -> int:
        call.state.put_nowait(n)
        return call.state.qsize()

    async with serving(service, url=url):
        assert [await client.call(f"{service_name}.put", n) for n in range(3)] == [1, 2, 3]


# --- what fails at the start --------------------------------------------------------------------------------------


async def test_one_that_fails_ends_serve_and_ready_with_its_reason(url: str, service_name: str, diary: Diary) -> None:
    server = serving(diary.service(service_name, enter=fail), url=url)
    serve = asyncio.create_task(server.serve())
    with pytest.raises(LifespanError) as ready:
        await asyncio.wait_for(server.ready(), PATIENCE)
    with pytest.raises(LifespanError) as served:
        await asyncio.wait_for(serve, PATIENCE)
    for error in (ready.value, served.value):
        assert (
            error.message
            == f"service {service_name!r} cannot start: ConnectionRefusedError: no database; the log has the traceback"
        )
        assert isinstance(error.__cause__, ConnectionRefusedError)
        assert (error.reason, error.execution, error.origin) == ("LIFESPAN", Execution.NOT_SENT, Origin.SERVER)


def test_run_ends_with_it_too(url: str, service_name: str, diary: Diary) -> None:
    with pytest.raises(LifespanError, match="no database"):
        diary.service(service_name, enter=fail).run(url)


async def test_what_was_entered_before_is_left_again(url: str, service_name: str, diary: Diary) -> None:
    good = [diary.service(f"{service_name}.{n}") for n in range(2)]
    with pytest.raises(LifespanError, match=r"\.bad'"):
        async with serving(*good, diary.service(f"{service_name}.bad", enter=fail), url=url):
            pass
    assert diary.lines == [
        f"enter {service_name}.0",
        f"enter {service_name}.1",
        f"enter {service_name}.bad",
        f"leave {service_name}.1",
        f"leave {service_name}.0",
    ]


async def test_no_request_is_taken_from_a_queue_whose_service_does_not_start(
    url: str, client: AsyncClient, service_name: str, diary: Diary
) -> None:
    async with serving(diary.service(service_name), url=url):
        pass
    await client.cast(f"{service_name}.state")
    for _ in range(2):
        with pytest.raises(LifespanError):
            await serving(diary.service(service_name, enter=fail), url=url).serve()
    assert "call" not in diary.kinds
    async with serving(diary.service(service_name), url=url):
        await until(lambda: "call" in diary.kinds)


class Mute(Exception):
    """One that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


class MuteExit(Mute, SystemExit):
    """Another one."""


ODD = {
    "exit": SystemExit("no settings"),
    "cancelled": asyncio.CancelledError(),
    "mute": Mute(),
    "mute exit": MuteExit(),
}


@pytest.mark.parametrize("error", ODD.values(), ids=ODD)
async def test_whatever_it_raises_is_told(url: str, service_name: str, diary: Diary, error: BaseException) -> None:
    def odd() -> None:
        raise error

    with pytest.raises(LifespanError, match=service_name):
        await serving(diary.service(service_name, enter=odd), url=url).serve()


async def test_one_that_does_not_yield_is_told(url: str, service_name: str) -> None:
    service = Service(service_name)
    service.method(name="echo")(lambda n: n)

    @service.lifespan
    async def lifespan() -> AsyncIterator[None]:
        if service is None:
            yield

    with pytest.raises(LifespanError, match="didn't yield"):
        await serving(service, url=url).serve()


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_server_that_is_stopped_meanwhile_ends_promptly(
    url: str, service_name: str, diary: Diary, how: str
) -> None:
    first = diary.service(f"{service_name}.first")
    server = serving(first, diary.service(service_name, enter=asyncio.Event().wait), url=url, drain_timeout=PATIENCE)
    serve = asyncio.create_task(server.serve())
    await until(lambda: len(diary.lines) == 2)
    if how == "stop":
        server.stop()
    else:
        serve.cancel()
    done, _pending = await asyncio.wait({serve}, timeout=PATIENCE / 2)
    assert done
    assert serve.cancelled() == (how == "cancel")
    assert diary.lines[2:] == [f"leave {service_name}.first"]


# --- what fails later ---------------------------------------------------------------------------------------------


async def test_one_that_fails_as_it_ends_is_logged_and_the_others_end_too(
    url: str, service_name: str, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{service_name}.{n}" for n in range(3)]
    services = [diary.service(name, **({"leave": fail} if name.endswith("1") else {})) for name in names]
    async with serving(*services, url=url):
        pass
    assert diary.lines[3:] == [f"leave {name}" for name in reversed(names)]
    assert f"the lifespan of service '{service_name}.1' raised as it ended" in caplog.text
    assert "no database" in caplog.text


async def test_one_that_does_not_end_is_cancelled_in_time(
    url: str, service_name: str, diary: Diary, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren.server.server.LEAST_TIME", 0.1)
    service = diary.service(service_name, leave=asyncio.Event().wait)
    async with asyncio.timeout(PATIENCE):
        async with serving(service, url=url, drain_timeout=0.0):
            pass
    assert f"the lifespan of service {service_name!r} does not end in time" in caplog.text


async def test_one_that_does_not_end_keeps_no_other_from_ending_well(
    url: str, service_name: str, diary: Diary, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren.server.server.LEAST_TIME", 0.1)
    good = Service(service_name)
    good.method(name="echo")(lambda n: n)

    @good.lifespan
    async def lifespan() -> AsyncIterator[None]:
        yield
        diary.lines.append("ended well")  # not so if it were cancelled

    hanging = diary.service(f"{service_name}.hanging", leave=asyncio.Event().wait)
    async with serving(good, hanging, url=url, drain_timeout=0.0):
        pass
    assert diary.lines[-1] == "ended well"
    assert caplog.text.count("does not end in time") == 1


async def test_one_that_ends_by_itself_ends_the_server(url: str, service_name: str, diary: Diary) -> None:
    service, broken = Service(service_name), asyncio.Event()
    service.method(name="echo")(lambda n: n)

    async def watch() -> None:
        await broken.wait()
        raise ConnectionResetError("the database is gone")

    @service.lifespan
    async def lifespan() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            yield

    server = serving(service, url=url)
    serve = asyncio.create_task(server.serve())
    await server.ready()
    broken.set()
    with pytest.raises(LifespanError, match="cannot be served any longer"):
        await asyncio.wait_for(serve, PATIENCE)


async def test_no_error_is_logged_where_all_goes_well(
    url: str, service_name: str, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(diary.service(service_name), url=url):
        pass
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
