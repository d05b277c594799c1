"""Warren, with its defaults: everything safe is on, and nothing is tuned.

Modes of the server: ``async`` and ``def`` handlers, ``text`` and ``bytes`` for large arguments. Modes of the client:
``async`` (`AsyncClient`), ``threads`` and ``submit`` (`Client`), ``text`` and ``bytes``. ``uvloop``, of both, is
``async`` on that event loop. ``items`` and ``octets`` of both are streams, of small numbers and of large bytes.
``stages`` serves three services; ``pipeline`` calls them as one, and ``three`` one after the other.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from benchmarks.load import (
    Job,
    expect,
    measure,
    measure_futures,
    measure_items,
    measure_threads,
    read_job,
    serve_forever,
)
from warren import AsyncClient, Client, Server, Service


def make_service(name: str, mode: str) -> tuple[Service, Callable[..., Any]]:
    """The service, and the method that is called."""
    service = Service(name)
    if mode in ("async", "uvloop"):

        @service.method(name="echo")
        async def echo(n: int) -> int:
            return n

        return service, echo
    if mode == "def":

        @service.method(name="echo")
        def echo_in_thread(n: int) -> int:
            return n

        return service, echo_in_thread
    if mode in _STREAMS:
        return service, _make_stream(service, mode)
    if mode == "text":

        @service.method(name="text")
        async def text(data: str) -> str:
            return data

        return service, text

    @service.method(name="bytes")
    async def octets(data: bytes) -> bytes:
        return data

    return service, octets


_STREAMS = ("items", "octets")


def _make_stream(service: Service, mode: str) -> Callable[..., Any]:
    """A method that yields without end."""
    if mode == "items":

        @service.method(name="items")
        async def numbers() -> AsyncIterator[int]:
            for number in itertools.count():
                yield number

        return numbers

    @service.method(name="octets")
    async def octets(size: int) -> AsyncIterator[bytes]:
        data = b"x" * size
        while True:
            yield data

    return octets


async def serve(job: Job) -> None:
    names = [f"{job.address}-{number}" for number in range(3)] if job.mode == "stages" else [job.address]
    services = [make_service(name, "async" if job.mode == "stages" else job.mode)[0] for name in names]
    async with Server(*services, url=job.url, drain_timeout=0.5):
        await serve_forever(job.address)


async def call(job: Job) -> None:
    _service, echo = make_service(job.address, "async")
    async with AsyncClient(job.url) as client:
        call = client.call

        async def one(number: int) -> None:
            expect(await call(echo, number), number)

        await measure(job, one)


async def call_large(job: Job) -> None:
    """Text travels as JSON, Warren's default; bytes as msgpack, which carries them as they are."""
    _service, echo = make_service(job.address, job.mode)
    data: Any = "x" * job.size if job.mode == "text" else b"x" * job.size
    async with AsyncClient(job.url, encoding="json" if job.mode == "text" else "msgpack") as client:

        async def one(_number: int) -> None:
            expect(len(await client.call(echo, data)), job.size)

        await measure(job, one)


async def take(job: Job) -> None:
    """Small items travel as JSON, Warren's default; bytes as msgpack."""
    _service, method = make_service(job.address, job.mode)
    small = job.mode == "items"
    async with AsyncClient(job.url, encoding="json" if small else "msgpack") as client:

        async def items() -> AsyncIterator[Any]:
            async with client.options(timeout=600).stream(method, *(() if small else (job.size,))) as stream:
                async for item in stream:
                    yield item

        def check(number: int, item: Any) -> None:
            expect(item if small else len(item), number if small else job.size)

        await measure_items(job, items, check)


async def call_stages(job: Job) -> None:
    """Three stages in three services, by one call or by three."""
    from warren import Pipeline  # which the older build that is a subject does not have

    first, second, third = (make_service(f"{job.address}-{number}", "async")[1] for number in range(3))
    stages = Pipeline(first).then(second).then(third)
    async with AsyncClient(job.url) as client:
        call = client.call

        async def one(number: int) -> None:
            expect(await call(stages, number), number)

        async def three(number: int) -> None:
            expect(await call(third, await call(second, await call(first, number))), number)

        await measure(job, one if job.mode == "pipeline" else three)


def call_from_threads(job: Job) -> None:
    _service, echo = make_service(job.address, "async")
    with Client(job.url) as client:
        call = client.call

        def one(number: int) -> None:
            expect(call(echo, number), number)

        measure_threads(job, one, job.window)


def submit(job: Job) -> None:
    _service, echo = make_service(job.address, "async")
    with Client(job.url) as client:
        measure_futures(job, lambda number: client.submit(echo, number))


def run(mode: str, work: Coroutine[Any, Any, None]) -> None:
    """Run on asyncio's own event loop, unless the mode names another."""
    if mode == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    else:
        asyncio.run(work)


def main() -> None:
    job = read_job()
    if job.verb == "serve":
        run(job.mode, serve(job))
    elif job.mode == "threads":
        call_from_threads(job)
    elif job.mode == "submit":
        submit(job)
    elif job.mode in ("pipeline", "three"):
        run(job.mode, call_stages(job))
    elif job.mode in _STREAMS:
        run(job.mode, take(job))
    elif job.mode in ("text", "bytes"):
        run(job.mode, call_large(job))
    else:
        run(job.mode, call(job))


if __name__ == "__main__":
    main()
