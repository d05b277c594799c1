"""Plain Pika beside Warren: what a test needs to see or do on the wire itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika


@contextmanager
def raw_channel(url: str) -> Iterator[Any]:
    """A blocking channel of a connection of its own."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def take(channel: Any, queue: str) -> tuple[Any, bytes] | None:
    """The next message of a queue, acknowledged: its properties and body."""
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    return None if method is None else (properties, body)


def depth(channel: Any, queue: str) -> int:
    """Messages that are ready in a queue."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)
