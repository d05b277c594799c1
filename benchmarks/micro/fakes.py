"""A link that reaches nobody: real channels and a real stream, a Pika that agrees to everything, and no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from warren.amqp import frames
from warren.connection.channel import Channel, HotChannel
from warren.connection.link import Link
from warren.connection.stream import Stream

FRAME_MAX = 131_072


class Raw:
    """Pika's side of a channel: every question has been answered."""

    is_open = False
    connection = SimpleNamespace(params=SimpleNamespace(frame_max=FRAME_MAX))

    def __init__(self, number: int, queue: str) -> None:
        self.channel_number = number
        self._answer = SimpleNamespace(method=SimpleNamespace(queue=queue, consumer_tag="ctag1.0"))

    def __getattr__(self, operation: str) -> Callable[..., None]:
        if operation.startswith("add_on_"):
            return lambda _callback: None
        return lambda *_args, callback, **_options: callback(self._answer)


class Nowhere:
    """A transport that forgets what is written, and the connection that Pika makes of it."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_options: None

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


class ModelLink:
    """As much of a link as clients and workers see; its hot channels are numbered from 1."""

    blocked = None
    may_not_declare_control = False
    writable = True

    def __init__(self, reply_queue: str) -> None:
        self.stream = Stream(asyncio.get_running_loop(), FRAME_MAX)
        self.stream.attach(cast(Any, Nowhere()))
        self.stream.connection_made(cast(Any, Nowhere()))
        self._reply_queue = reply_queue
        self._channels = 0

    async def channel(self) -> Channel:
        return Channel(cast(Any, Raw(99, self._reply_queue)), self.stream)

    async def hot_channel(self) -> HotChannel:
        self._channels += 1
        return HotChannel(cast(Any, Raw(self._channels, self._reply_queue)), self.stream)

    def on_writable(self, callback: Callable[[], None]) -> None: ...

    def receive(self, data: bytes) -> None:
        """These bytes come from the broker."""
        self.stream.get_buffer(-1)[: len(data)] = data
        self.stream.buffer_updated(len(data))

    def as_link(self) -> Link:
        return cast(Link, self)


def delivery_frames(channel: int, tag: int, route: bytes, properties: bytes, body: bytes) -> bytes:
    """A message as the broker sends it: Basic.Deliver with a consumer tag, header and body frame."""
    arguments = frames.shortstr(b"ctag1.0") + tag.to_bytes(8, "big") + b"\x00"
    method = (60).to_bytes(2, "big") + (60).to_bytes(2, "big") + arguments + route
    head = bytes((frames.METHOD,)) + channel.to_bytes(2, "big") + len(method).to_bytes(4, "big")
    return head + method + frames.END_BYTE + b"".join(frames.content_frames(channel, properties, body, FRAME_MAX))
