"""What Pika's connection sees of the event loop and of its stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.utils import nbio_interface as nbio


class IOServices(nbio.AbstractIOServices):  # type: ignore[misc]
    """Pika's view of the event loop: timers, as the stream is connected and the loop run by others."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._abandoned = False

    def abandon(self) -> None:
        """Let go of a connection that did not come to be; Pika hears no more of it."""
        self._abandoned = True

    def get_native_ioloop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_callback_threadsafe(self, callback: Callable[..., None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def call_later(self, delay: float, callback: Callable[..., None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, lambda: None if self._abandoned else callback())

    def _others(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise NotImplementedError("done by whoever dials, or by the loop's owner")

    close = run = stop = getaddrinfo = connect_socket = create_streaming_connection = _others


class PikaConnection(AsyncioConnection):  # type: ignore[misc]
    """Pika's connection for a stream that somebody else connects: `warren.connection.stream.Stream` calls it."""

    def __init__(self, parameters: Any, services: IOServices, on_end: Callable[[BaseException | None], None]) -> None:
        """`on_end`: told of the end of the handshake, with what went wrong, if anything."""
        super().__init__(
            parameters,
            on_open_callback=lambda _connection: on_end(None),
            on_open_error_callback=lambda _connection, error: on_end(error),
            custom_ioloop=services,
            internal_connection_workflow=False,
        )

    # What an adapter of Pika's overrides or calls begins with an underscore.
    connection_made = AsyncioConnection._proto_connection_made
    connection_lost = AsyncioConnection._proto_connection_lost
    eof_received = AsyncioConnection._proto_eof_received
    data_received = AsyncioConnection._proto_data_received
