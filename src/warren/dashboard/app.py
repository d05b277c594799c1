"""The pages and what they ask: a Starlette application. Nothing in it comes from another place than this package."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from warren.dashboard.acting import Acting, Busy, CallWish, DeadWish
from warren.dashboard.guard import Access, Guard
from warren.dashboard.poller import Poller
from warren.dead.queue import DeadQueueError
from warren.errors import CallError

T = TypeVar("T", bound=msgspec.Struct)
Deed = Callable[[Any], Awaitable[dict[str, Any]]]

#: Browsers that look on at a time.
MOST_BROWSERS = 50
#: Bytes of what a page may ask for.
MOST_ASKED = 1024 * 1024

_PAGES = {
    "/": ("index.html", "text/html"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
    "/dashboard.css": ("dashboard.css", "text/css"),
}


def make_app(poller: Poller, access: Access, acting: Acting | None, most_browsers: int = MOST_BROWSERS) -> ASGIApp:
    """The application, guarded; without `acting` it only shows. It asks while it runs (ASGI's lifespan)."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(poller.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if acting is not None:
                await acting.close()

    routes = [Route(path, _page(*page)) for path, page in _PAGES.items()]
    routes += [
        Route("/favicon.ico", _nothing),
        Route("/events", _Events(poller, most_browsers).show),
        Route("/api/service", _service(poller)),
        *_deeds(acting),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), access)


def _page(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    body = (resources.files("warren.dashboard") / "pages" / name).read_bytes()

    async def page(_request: Request) -> Response:
        return Response(body, media_type=kind)

    return page


async def _nothing(_request: Request) -> Response:
    return Response(status_code=204)


class _Events:
    """What browsers are sent, for as long as they look."""

    def __init__(self, poller: Poller, most: int) -> None:
        self._poller = poller
        self._most = most
        self._now = 0

    async def show(self, _request: Request) -> Response:
        if self._now >= self._most:
            return PlainTextResponse(f"{self._most} browsers look on already: close one\n", 503)
        return StreamingResponse(self._send(), media_type="text/event-stream")

    async def _send(self) -> AsyncIterator[bytes]:
        self._now += 1
        try:
            async with contextlib.aclosing(self._poller.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._now -= 1


def _service(poller: Poller) -> Callable[[Request], Awaitable[Response]]:
    async def service(request: Request) -> Response:
        """A service as it is declared, schemas included."""
        declared = poller.picture.declared(request.query_params.get("name", ""))
        return _json(msgspec.to_builtins(declared), 404 if declared is None else 200)

    return service


def _deeds(acting: Acting | None) -> list[Route]:
    if acting is None:
        return [Route("/api/{deed:path}", _off, methods=["POST"])]
    return [
        _deed("/api/call", CallWish, acting.call),
        _deed("/api/dead", DeadWish, acting.dead),
        _deed("/api/dead/retry", DeadWish, acting.retry),
        _deed("/api/dead/drop", DeadWish, acting.drop),
    ]


async def _off(_request: Request) -> Response:
    return _json({"trouble": "this dashboard only shows: start it with --allow-acting"}, 403)


def _deed(path: str, kind: type[T], do: Deed) -> Route:
    async def deed(request: Request) -> Response:
        try:
            return _json(await do(msgspec.json.decode(await _body(request), type=kind)))
        except Busy as error:
            return _json({"trouble": str(error)}, 503)
        except (DeadQueueError, CallError) as error:
            return _json({"trouble": str(error)}, 409)
        except (ValueError, TypeError, RecursionError) as error:  # as for a method that is asked without a name
            return _json({"trouble": f"this makes no sense: {error}"}, 400)

    return Route(path, deed, methods=["POST"])


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_ASKED:
            raise ValueError(f"it has more than {MOST_ASKED} bytes")
    return bytes(body)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
