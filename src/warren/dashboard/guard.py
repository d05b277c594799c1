"""Who may ask what: an ASGI application around the pages.

* On loopback, only a browser that asks for a name of this machine is answered: another name that leads here is an
  attempt of its owner's page to read ours (DNS rebinding).
* With a token, only who has it is answered: once in the address, then in a cookie that scripts do not see.
* What acts comes from our own page: with its origin, a header that forms cannot send, and JSON.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Sent with every answer: the page loads what is ours, runs no script in it, and is shown in no other page.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: What only a script of the same origin can send without asking first.
OWN_HEADER = "x-warren-dashboard"
#: Names of this machine, to itself.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Access:
    """Who is let in.

    Attributes:
        hosts: the names by which this machine is to be asked; any where it is None.
        token: what has to be known; nothing where it is None.
    """

    hosts: frozenset[str] | None = LOOPBACK
    token: str | None = None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def refusal(self, request: Request) -> Response | None:
        """What somebody is told who is not let in, or is to come again with a cookie; None lets him in."""
        if self.hosts is not None and _host(request.headers) not in self.hosts:
            return _refuse(403, "this is not the name of this machine: use the address that warren dashboard printed")
        if self.token is not None and not self._is_known(request):
            given = request.query_params.get("token")
            if given is not None and request.method == "GET" and _same(given, self.token):
                return self._welcome(request)
            return _refuse(401, "a token is needed: open the address that warren dashboard printed")
        if request.method not in ("GET", "HEAD") and not _is_own(request):
            return _refuse(403, "only the dashboard's own page may do this: open it and try there")
        return None

    def _is_known(self, request: Request) -> bool:
        assert self.token is not None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given, self.token):
            return True
        return _same(request.cookies.get(_cookie_name(request), ""), self.session)

    def _welcome(self, request: Request) -> Response:
        """The same address without the token, which stays in no history."""
        response = RedirectResponse("/", status_code=303)
        secure = request.url.scheme == "https"
        response.set_cookie(_cookie_name(request), self.session, httponly=True, samesite="lax", secure=secure)
        return response


class Guard:
    """Lets in whom `access` lets in, and sends `HEADERS` with every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._access.refusal(Request(scope))
        await (self._app if refusal is None else refusal)(scope, receive, send_guarded)


def _refuse(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


def _host(headers: Headers) -> str | None:
    """The name by which we are asked; any port, as that of a tunnel is another one."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


def _is_own(request: Request) -> bool:
    headers = request.headers
    origin = headers.get("origin", "")
    return (
        headers.get(OWN_HEADER) == "1"
        and headers.get("content-type") == "application/json"
        and origin.partition("://")[2] == headers.get("host")
    )


def _cookie_name(request: Request) -> str:
    """Cookies do not tell ports apart, and there may be several dashboards on one machine."""
    server: Any = request.scope.get("server") or ("", 0)
    return f"warren-dashboard-{server[1]}"
