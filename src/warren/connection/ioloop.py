"""Pika's view of the event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from pika.adapters.utils import nbio_interface as nbio

from warren.connection.stream import Stream


class IOServices(nbio.AbstractIOServices):  # type: ignore[misc]
    """Pika's view of the event loop, with `Stream` as the transport."""

    def __init__(self, loop: asyncio.AbstractEventLoop, frame_max: int) -> None:
        self._loop = loop
        self._frame_max = frame_max
        self._operations: set[asyncio.Task[Any]] = set()
        self._abandoned = False
        self.stream: Stream | None = None

    def get_native_ioloop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def close(self) -> None:
        raise NotImplementedError("the loop is its owner's to close")

    def run(self) -> None:
        raise NotImplementedError("the loop is its owner's to run")

    def stop(self) -> None:
        raise NotImplementedError("the loop is its owner's to stop")

    def add_callback_threadsafe(self, callback: Callable[..., None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def call_later(self, delay: float, callback: Callable[..., None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, lambda: None if self._abandoned else callback())

    def getaddrinfo(
        self,
        host: str,
        port: int,
        on_done: Callable[..., None],
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> _Reference:
        lookup = self._loop.getaddrinfo(host, port, family=family, type=socktype, proto=proto, flags=flags)
        return self._begin(lookup, on_done)

    def connect_socket(
        self, sock: socket.socket, resolved_addr: tuple[str, int], on_done: Callable[..., None]
    ) -> _Reference:
        return self._begin(self._loop.sock_connect(sock, resolved_addr), on_done, undo=sock.close)

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], nbio.AbstractStreamProtocol],
        sock: socket.socket,
        on_done: Callable[..., None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> _Reference:
        stream = self.stream = Stream(self._loop, self._frame_max)
        protocol = protocol_factory()
        stream.attach(protocol, lambda: on_done((stream, protocol)))

        hostname = server_hostname if ssl_context is not None else None
        connecting = self._loop.create_connection(lambda: stream, sock=sock, ssl=ssl_context, server_hostname=hostname)
        # Success is told by the stream itself; a failure leaves us with a socket that Pika has handed over.
        return self._begin(connecting, lambda result: on_done(result) if _failed(result) else None, undo=sock.close)

    async def abandon(self) -> None:
        """Let go of the attempt, whatever it is at, and return when its socket is closed; Pika hears no more of it.

        Pika's own way, closing the connection, fails in some of its states, and has no word for when it is done.
        """
        self._abandoned = True
        for operation in self._operations:
            operation.cancel()
        if self.stream is not None:
            self.stream.detach()
        while self._operations:
            await asyncio.wait(set(self._operations))
        for _ in range(3):  # an asyncio transport is made and closed in callbacks of the turns that follow
            await asyncio.sleep(0)

    def _begin(
        self,
        operation: Coroutine[Any, Any, Any],
        on_done: Callable[[Any], None],
        undo: Callable[[], None] | None = None,
    ) -> _Reference:
        """Run an operation: its result or exception goes to `on_done`, unless it is cancelled."""

        def finish(task: asyncio.Task[Any]) -> None:
            self._operations.discard(task)
            if undo is not None and (self._abandoned or task.cancelled() or task.exception() is not None):
                undo()
            if not task.cancelled() and not self._abandoned:
                on_done(task.exception() or task.result())

        task = self._loop.create_task(operation)
        self._operations.add(task)
        task.add_done_callback(finish)
        return _Reference(task)


class _Reference(nbio.AbstractIOReference):  # type: ignore[misc]
    """A running operation, for Pika to cancel."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def cancel(self) -> bool:
        return self._task.cancel()


def _failed(result: object) -> bool:
    return isinstance(result, BaseException)
