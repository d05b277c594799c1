"""Pages over HTTP: bounded in bytes, seconds and connections, whoever asks."""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from warren.processes import http
from warren.processes.http import Answer, CannotListen, Pages


async def _echo(accept: str) -> Answer:
    return Answer(HTTPStatus.OK, "application/json", json.dumps(accept))


async def _fail(_accept: str) -> Answer:
    raise ValueError("the page's own trouble")


async def _hang(_accept: str) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
async def port() -> AsyncIterator[int]:
    pages = Pages({"/echo": _echo, "/fail": _fail, "/hang": _hang})
    url = await pages.start("127.0.0.1", 0)
    yield int(url.rpartition(":")[2])
    await pages.close()


async def ask(port: int, request: bytes) -> bytes:
    """All that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_page_is_told_what_is_accepted(port: int) -> None:
    head, _, body = (await ask(port, b"GET /echo?x=1 HTTP/1.1\r\nHost: x\r\nACCEPT: text/a\r\n\r\n")).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n")
    assert body == b'"text/a"'


async def test_head_has_no_body(port: int) -> None:
    got = await ask(port, b"HEAD /echo HTTP/1.0\r\n\r\n")
    assert b"Content-Length: 2\r\n" in got
    assert got.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /none HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405 Method Not Allowed"),
        (b"\x16\x03\x01\x02 hello\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"GET /echo\r\n\r\n", b"400 Bad Request"),
        (b"GET /echo HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"431 Request Header Fields Too Large"),
    ],
)
async def test_what_is_wrong_is_refused(port: int, request_: bytes, status: bytes) -> None:
    assert (await ask(port, request_)).startswith(b"HTTP/1.1 " + status)


async def test_who_asks_for_a_page_that_is_not_there_is_told_which_are(port: int) -> None:
    assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).endswith(
        b"\r\n\r\n404 Not Found: there are /echo, /fail, /hang\n"
    )


async def test_a_page_that_fails_ends_its_connection_and_no_other(port: int, caplog: pytest.LogCaptureFixture) -> None:
    assert await ask(port, b"GET /fail HTTP/1.1\r\n\r\n") == b""
    assert "a page could not be served" in caplog.text
    assert b"200 OK" in await ask(port, b"GET /echo HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("request_", [b"", b"GET /ec", b"GET /hang HTTP/1.1\r\n\r\n"])
async def test_who_takes_too_long_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch, request_: bytes) -> None:
    monkeypatch.setattr(http, "TIME", 0.2)
    assert await ask(port, request_) == b""


async def test_so_many_connections_at_a_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST", 2)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    assert await ask(port, b"GET /echo HTTP/1.1\r\n\r\n") == b""
    for _reader, writer in held:
        writer.close()
    async with asyncio.timeout(60):
        while b"200 OK" not in await ask(port, b"GET /echo HTTP/1.1\r\n\r\n"):
            await asyncio.sleep(0.01)


async def test_an_address_that_is_taken_is_told(port: int) -> None:
    with pytest.raises(CannotListen, match=rf"127\.0\.0\.1, port {port}: .*; take another address"):
        await Pages({}).start("127.0.0.1", port)


async def test_closing_cuts_off_what_is_under_way() -> None:
    asked = asyncio.Event()

    async def hang(accept: str) -> Answer:
        asked.set()
        return await _hang(accept)

    pages = Pages({"/hang": hang})
    url = await pages.start("127.0.0.1", 0)
    asking = asyncio.create_task(ask(int(url.rpartition(":")[2]), b"GET /hang HTTP/1.1\r\n\r\n"))
    await asked.wait()
    await pages.close()
    async with asyncio.timeout(60):
        assert await asking == b""
