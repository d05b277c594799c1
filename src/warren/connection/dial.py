"""Opening a link: Pika's parameters, the handshake, and its limit."""

from __future__ import annotations

import asyncio
import logging

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from warren.connection.diagnosis import diagnose, no_connection
from warren.connection.futures import resolve
from warren.connection.ioloop import IOServices
from warren.connection.link import Link
from warren.connection.settings import Settings

# Pika reports each step of a failed connection at ERROR. We raise one clear error instead, so without a logging
# configuration (Python then prints warnings to stderr) its lines are kept quiet; configured logging still has them.
logging.getLogger("pika").addHandler(logging.NullHandler())

FRAME_MAX = 131_072  # RabbitMQ's own default, and the most that it offers


async def open_link(settings: Settings, host: str, port: int) -> Link:
    """Connect to one host; DNS, TCP, TLS and the AMQP handshake share ``settings.connect_timeout``.

    Raises:
        ConnectFailed: why not.
    """
    peer = f"{host}:{port}"
    services = IOServices(asyncio.get_running_loop(), FRAME_MAX)
    attempt: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    connection = AsyncioConnection(
        _parameters(settings, host, port, _password(settings, peer)),
        on_open_callback=lambda _conn: resolve(attempt, None),
        on_open_error_callback=lambda _conn, error: resolve(attempt, error),
        custom_ioloop=services,
    )
    try:
        async with asyncio.timeout(settings.connect_timeout):
            error = await asyncio.shield(attempt)
    except TimeoutError:
        await services.abandon()
        raise no_connection(peer, f"no answer within {settings.connect_timeout:g} s") from None
    except asyncio.CancelledError:
        await services.abandon()
        raise
    if error is not None:
        raise diagnose(settings, peer, error) from error
    assert services.stream is not None
    return Link(connection, services.stream, settings, peer)


def _parameters(settings: Settings, host: str, port: int, password: str) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=settings.vhost,
        credentials=pika.PlainCredentials(settings.username, password),
        ssl_options=pika.SSLOptions(settings.ssl, host) if settings.ssl else None,
        heartbeat=settings.heartbeat,
        frame_max=FRAME_MAX,
        socket_timeout=settings.connect_timeout,
        stack_timeout=settings.connect_timeout,
        client_properties={"connection_name": settings.name, "product": "Warren"} if settings.name else None,
    )


def _password(settings: Settings, peer: str) -> str:
    if isinstance(settings.password, str):
        return settings.password
    try:
        return settings.password()
    except Exception as error:  # the user's function: whatever it raises, it may work the next time
        raise no_connection(peer, f"the password cannot be had: {error!r}") from error
