"""A few pages over HTTP, for probes and scrapers: requests are small, quick and few, and their connections end.

It reads the first line and the headers, and nothing else. What does not keep to the limits is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

from warren.connection.tasks import Tasks
from warren.logs import get_logger

log = get_logger("warren.processes")

#: Bytes of the longest request, seconds for one with its answer, and connections at a time.
MAX_REQUEST = 8 * 1024
TIME = 5.0
MOST = 32


class CannotListen(Exception):
    """The address cannot be had; the text says why."""


class Answer(NamedTuple):
    """What is sent."""

    status: HTTPStatus
    content_type: str
    body: str


#: Makes an answer, from the types that are accepted.
Page = Callable[[str], Awaitable[Answer]]


class Pages:
    """Serves pages by path."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._tasks = Tasks()
        self._open = 0

    async def start(self, host: str, port: int) -> str:
        """Begin to listen; returns the URL.

        Raises:
            CannotListen: the address cannot be had.
        """
        try:
            self._server = await asyncio.start_server(self._came, host, port, limit=MAX_REQUEST)
        except OSError as error:
            raise CannotListen(f"{host}, port {port}: {error.strerror or error}; take another address") from error
        address = self._server.sockets[0].getsockname()
        where = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"http://{where}:{address[1]}"

    async def close(self) -> None:
        """Stop to listen, and cut off what is under way."""
        if self._server is not None:
            self._server.close()
        self._tasks.cancel()
        await self._tasks.ended()

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MOST:
            writer.transport.abort()
            return
        self._open += 1
        self._tasks.spawn(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TIME):
                    await self._answer(reader, writer)
        except Exception:
            log.exception("a page could not be served")
        finally:
            self._open -= 1
            writer.transport.abort()  # all is sent by now, or shall not be

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            is_head, answer = await self._page(head.decode("latin-1").split("\r\n"))
        except asyncio.LimitOverrunError:
            is_head, answer = False, _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        writer.write(_encoded(answer, body=not is_head))
        writer.write_eof()
        await writer.drain()
        while await reader.read(MAX_REQUEST):  # until the other side has it all and hangs up: an abort would cut it off
            pass

    async def _page(self, lines: list[str]) -> tuple[bool, Answer]:
        method, _, rest = lines[0].partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return False, _plain(HTTPStatus.BAD_REQUEST)
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return method == "HEAD", _plain(HTTPStatus.NOT_FOUND, f": there are {', '.join(self._pages)}")
        if method not in ("GET", "HEAD"):
            return False, _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        return method == "HEAD", await page(_accepted(lines[1:]))


def _accepted(headers: list[str]) -> str:
    pairs = (line.partition(":") for line in headers)
    return ",".join(value.strip() for name, _, value in pairs if name.lower() == "accept")


def _plain(status: HTTPStatus, more: str = "") -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}{more}\n")


def _encoded(answer: Answer, body: bool) -> bytes:
    content = answer.body.encode()
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"{'Allow: GET, HEAD' + chr(13) + chr(10) if answer.status is HTTPStatus.METHOD_NOT_ALLOWED else ''}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (content if body else b"")
