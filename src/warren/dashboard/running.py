"""The dashboard as a program: a web server that ends when it is told to, whoever still looks on."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable

import uvicorn

from warren.connection.settings import Settings, make_settings
from warren.dashboard.acting import Acting
from warren.dashboard.app import make_app
from warren.dashboard.guard import LOOPBACK, Access
from warren.dashboard.poller import Poller

#: Characters that a token has at least: nobody guesses so many.
SHORTEST_TOKEN = 16


class _Server(uvicorn.Server):
    """Lets browsers go before it waits for them."""

    def __init__(self, config: uvicorn.Config, poller: Poller) -> None:
        super().__init__(config)
        self._poller = poller

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._poller.end()
        await super().shutdown(sockets)


def make_access(host: str, token: str | None, *, acting: bool) -> Access:
    """Who is let in by a dashboard that listens on `host`: with a token beyond this machine, or where it may act.

    Others who work on this machine reach its loopback, too; they may look, but not act in our name.

    Raises:
        ValueError: the token can be guessed.
    """
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ValueError(f"the token has fewer than {SHORTEST_TOKEN} characters: take a longer one, or leave it out")
    loopback = host in LOOPBACK
    if token is None and (acting or not loopback):
        token = secrets.token_urlsafe(24)
    return Access(LOOPBACK if loopback else None, token)


def run(
    url: str,
    host: str,
    port: int,
    token: str | None,
    *,
    acting: bool,
    every: float,
    say: Callable[[str], None],
) -> None:
    """Show what runs at the broker of `url`, until told to end; `say` gets the address, once it is open.

    Raises:
        ValueError: the URL or the token is wrong.
        OSError: it cannot listen there.
    """
    settings = make_settings(url, name="warren dashboard")
    access = make_access(host, token, acting=acting)
    with _listening(host, port) as sock:
        say(_address(host, sock.getsockname()[1], access.token))
        asyncio.run(_serve(url, settings, access, sock, acting=acting, every=every))


async def _serve(
    url: str, settings: Settings, access: Access, sock: socket.socket, *, acting: bool, every: float
) -> None:
    poller = Poller(settings, acting=acting, every=every)
    app = make_app(poller, access, Acting(url, settings) if acting else None)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=200,
        timeout_graceful_shutdown=5,
    )
    await _Server(config, poller).serve([sock])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=64)


def _address(host: str, port: int, token: str | None) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104 - compared only
    where = f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
    return where if token is None else f"{where}?token={token}"
