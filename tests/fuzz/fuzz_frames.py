"""Fuzz the frame splitter and the property and table codecs: ``python -m tests.fuzz.fuzz_frames [options]``."""

import contextlib
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["warren", "pika.data"]):
    from warren.amqp.frames import (
        PROPERTY_NAMES,
        Delivery,
        FrameError,
        decode_properties,
        encode_properties,
    )
    from warren.amqp.splitter import Splitter
    from warren.amqp.tables import decode_table

FRAME_MAX = 4096


class Log:
    """A tap that writes down what it gets."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def delivered(self, d: Delivery) -> None:
        self.events.append((d.tag, d.redelivered, d.route(), d.properties, d.body, d.body_size))

    def returned(self, d: Delivery) -> None:
        self.events.append((d.envelope, d.properties, d.body))

    def confirmed(self, tag: int, multiple: bool) -> None:
        self.events.append((tag, multiple))

    def refused(self, tag: int, multiple: bool) -> None:
        self.events.append((multiple, tag))


def read(splitter: Splitter, chunk: bytes) -> None:
    """Put bytes to the places of what is not whole, and feed those that have none."""
    while chunk and (places := splitter.places()):
        count = 0
        for place in places:
            part, chunk = chunk[: len(place)], chunk[len(place) :]
            place[: len(part)] = part
            count += len(part)
        splitter.placed(places, count)
    if chunk:
        splitter.feed(chunk)


def outcome(
    chunks: list[bytes], take: Callable[[Splitter, bytes], None] = Splitter.feed
) -> tuple[list[object], list[bytes], bool]:
    """What the splitter makes of a stream that arrives in these pieces."""
    log, others = Log(), list[bytes]()
    splitter = Splitter(others.append, FRAME_MAX, large=1)
    splitter.tap(1, log, body_limit=100)
    try:
        for chunk in chunks:
            take(splitter, chunk)
    except FrameError:
        return log.events, others, True
    return log.events, others, False


def check(data: bytes) -> None:
    """Nothing but `FrameError`, and the same whichever way the stream is cut; what was read reads again."""
    cut = data[0] if data else 0
    stream = data[1:]
    pieces = [stream[:cut], stream[cut:]]
    assert outcome([stream]) == outcome(pieces) == outcome(pieces, read)
    try:
        p = decode_properties(stream)
        again = decode_properties(encode_properties(p))
        assert all(getattr(again, name) == getattr(p, name) for name in (*PROPERTY_NAMES, "table"))
        decode_table(p.table or b"")
    except FrameError:
        pass
    with contextlib.suppress(FrameError):
        decode_table(stream)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
