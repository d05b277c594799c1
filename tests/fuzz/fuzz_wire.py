"""Fuzz the whole request path of a server, and the reading of replies: ``python -m tests.fuzz.fuzz_wire [options]``."""

import asyncio
import logging
import sys

import atheris

with atheris.instrument_imports(include=["warren", "pika.data"]):
    from tests.support.fake_channel import Bench
    from warren.amqp.frames import Delivery, FrameError, decode_properties
    from warren.errors import CallError
    from warren.protocol.bounce import read_bounce
    from warren.protocol.reply import read_reply

logging.disable(logging.CRITICAL)
loop = asyncio.new_event_loop()


async def handle(delivery: Delivery, draining: bool) -> None:
    """A worker takes the delivery; the bench checks what it owes."""
    await Bench(draining=draining).take(delivery)


def check(data: bytes) -> None:
    """The first byte chooses, the second divides the rest into properties and body."""
    if len(data) < 2:
        return
    flags, size = data[0], data[1]
    properties, body = data[2 : 2 + size], data[2 + size :]
    delivery = Delivery(7, bool(flags & 1), b"\x06warren\x03any")
    delivery.properties, delivery.body, delivery.body_size = properties, body, len(body)
    loop.run_until_complete(handle(delivery, bool(flags & 2)))
    read_as_reply(properties, body)


def read_as_reply(properties: bytes, body: bytes) -> None:
    """Reading a reply or a bounce ends in a value or a `CallError`."""
    try:
        p = decode_properties(properties)
    except FrameError:
        return
    try:
        read_bounce(p)
        read_reply(p, body, lambda _problem, _status: None)
    except CallError:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
    loop.close()
