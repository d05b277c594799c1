"""From a connected socket to an open AMQP connection: TLS, login, vhost."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from warren.connection.futures import resolve
from warren.connection.ioloop import IOServices, PikaConnection
from warren.connection.stream import Stream


async def shake_hands(
    sock: socket.socket, parameters: Any, context: ssl.SSLContext | None
) -> tuple[PikaConnection, Stream]:
    """Open Pika's connection on this socket, whose owner it becomes; when this fails or is cancelled it is closed.

    Raises:
        Exception: what TLS or Pika say; see `warren.connection.diagnosis`.
    """
    loop = asyncio.get_running_loop()
    end: asyncio.Future[BaseException | None] = loop.create_future()
    services = IOServices(loop)
    connection = PikaConnection(parameters, services, lambda error: resolve(end, error))
    stream = Stream(loop, parameters.frame_max)
    stream.attach(connection)
    hostname = parameters.host if context is not None else None
    try:
        await loop.create_connection(lambda: stream, sock=sock, ssl=context, server_hostname=hostname)
        if (error := await end) is not None:
            raise error from stream.reason  # Pika's guess, and what is known
    except BaseException:
        services.abandon()
        stream.detach()
        sock.close()
        for _ in range(3):  # an asyncio transport is made and closed in callbacks of the turns that follow
            await asyncio.sleep(0)
        raise
    return connection, stream
