"""Cuts what a broker sends into frames, and puts the deliveries of the hot path together. Pure.

Frames are cut out of the receive buffer by offset: this runs for every message. Numbers in brackets are sections of the
AMQP 0-9-1 specification.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from warren.amqp.frames import BODY, END, HEADER, METHOD, OVERHEAD, RETURNED, Delivery, FrameError
from warren.amqp.numbers import read_frame_head, read_tag_and_flag, read_u32, read_u64

# Method ids: class 60 (basic) << 16 | method [1.8.3]
_RETURN: Final = 60 << 16 | 50
_DELIVER: Final = 60 << 16 | 60
_GET_OK: Final = 60 << 16 | 71
_ACK: Final = 60 << 16 | 80
_NACK: Final = 60 << 16 | 120

_SHORT: Final = "a frame is shorter than what it should hold"
_NO_END: Final = "a frame does not end with its end mark"


class Tap(Protocol):
    """Who takes the hot frames of one channel.

    What comes back (`returned`) is a delivery that is tagged so, and whole, whatever its size: we have published it.
    """

    def delivered(self, delivery: Delivery) -> None: ...
    def returned(self, delivery: Delivery) -> None: ...
    def confirmed(self, tag: int, multiple: bool) -> None: ...
    def refused(self, tag: int, multiple: bool) -> None: ...


class _Content:
    """The deliveries of one tapped channel, put together from their frames [4.2.6]."""

    __slots__ = ("_chunks", "_delivery", "_limit", "_missing", "_splitter", "tap")

    def __init__(self, splitter: Splitter, tap: Tap, limit: int) -> None:
        self._splitter = splitter
        self.tap = tap
        self._limit = limit
        self._delivery: Delivery | None = None
        self._missing = 0
        self._chunks: list[bytes | memoryview] = []

    def take(self, kind: int, data: bytes, start: int, stop: int) -> bool:
        """Use one frame's payload, `data[start:stop]`; False when it is none of ours but Pika's."""
        delivery = self._delivery
        if kind == METHOD:
            if delivery is not None:
                raise FrameError("a method frame stands inside a message's content")
            return self._take_method(data, start, stop)
        if delivery is None:
            return False
        if kind == BODY and self._missing:
            self._take_body(delivery, data, start, stop)
        elif kind == HEADER and not self._missing:
            self._take_header(delivery, data, start, stop)
        else:
            raise FrameError(f"frame type {kind} stands inside a message's content")
        return True

    def _take_method(self, data: bytes, start: int, stop: int) -> bool:
        if stop - start < 4:
            raise FrameError(_SHORT)
        method = read_u32(data, start)[0]
        if method == _DELIVER:
            i = start + 5 + data[start + 4]  # past the consumer tag
            if i + 11 > stop:
                raise FrameError(_SHORT)
            tag, redelivered = read_tag_and_flag(data, i)
            self._delivery = Delivery(tag, bool(redelivered), data[i + 9 : stop])
        elif method == _GET_OK:
            if start + 15 > stop - 4:
                raise FrameError(_SHORT)
            tag, redelivered = read_tag_and_flag(data, start + 4)
            self._delivery = Delivery(tag, bool(redelivered), data[start + 13 : stop - 4])  # a count comes last
        elif method == _RETURN:
            self._delivery = Delivery(RETURNED, False, data[start + 4 : stop])
        elif method not in (_ACK, _NACK):
            return False
        elif stop - start < 13:
            raise FrameError(_SHORT)
        elif method == _ACK:
            tag, multiple = read_tag_and_flag(data, start + 4)
            self.tap.confirmed(tag, bool(multiple))
        else:
            tag, flags = read_tag_and_flag(data, start + 4)
            self.tap.refused(tag, bool(flags & 1))
        return True

    def _take_header(self, delivery: Delivery, data: bytes, start: int, stop: int) -> None:
        if stop - start < 14:
            raise FrameError(_SHORT)
        size = read_u64(data, start + 4)[0]
        delivery.properties = data[start + 12 : stop]
        delivery.body_size = self._missing = size
        if size > self._limit and delivery.tag != RETURNED:
            delivery.body = None
        elif not size:
            self._finish(delivery)

    def expects(self, kind: int, size: int) -> bool:
        """Whether a frame of this kind and size is the next part of a body: it may then come in pieces."""
        return kind == BODY and 0 < size <= self._missing

    def take_piece(self, data: bytes, start: int, stop: int) -> None:
        """Use a piece of a body frame that it `expects`."""
        delivery = self._delivery
        assert delivery is not None
        self._take_body(delivery, data, start, stop)

    def _take_body(self, delivery: Delivery, data: bytes, start: int, stop: int) -> None:
        missing = self._missing = self._missing - (stop - start)
        if missing < 0:
            raise FrameError("a message's body is longer than its header says")
        if delivery.body is not None:
            if not missing and not self._chunks:
                delivery.body = data[start:stop]  # the usual case: one frame
            else:
                self._chunks.append(memoryview(data)[start:stop])  # the one copy is made by `join`
        if not missing:
            if self._chunks:
                delivery.body = b"".join(self._chunks)
                self._chunks = []
            self._finish(delivery)

    def _finish(self, delivery: Delivery) -> None:
        self._delivery = None
        self._splitter.delivered = True
        if delivery.tag == RETURNED:
            self.tap.returned(delivery)
        else:
            self.tap.delivered(delivery)


class Splitter:
    """Cuts the byte stream into frames: those of tapped channels go to their tap, all others to `other`.

    The result does not depend on how the bytes were cut up on their way. `hot` tells whether a tapped frame came
    since it was last set to False, `delivered` the same of a whole message.
    """

    def __init__(self, other: Callable[[bytes], None], frame_max: int) -> None:
        self._other = other
        self._size_max = frame_max - OVERHEAD  # frame_max counts the whole frame [4.2.3]
        # RabbitMQ sends a message on whose headers it has added to (x-death), whatever their size has become.
        self._header_max = 4 * frame_max
        self._contents: dict[int, _Content] = {}
        self._rest = bytearray()
        self._wanted = OVERHEAD
        self._open: _Content | None = None  # whose body frame has come in part, and
        self._open_size = 0  # the bytes of it, without its end mark, that have not
        self.hot = False
        self.delivered = False

    def tap(self, channel: int, tap: Tap, *, body_limit: int) -> None:
        """From now on `tap` gets the deliveries, returns and confirms of `channel`."""
        self._contents[channel] = _Content(self, tap, body_limit)

    def untap(self, channel: int) -> None:
        """Leave a channel to Pika; one that is not tapped is ignored."""
        self._contents.pop(channel, None)

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            FrameError: they are not AMQP.
        """
        if self._rest:
            # Appended to in place and only looked at once a whole frame is there: a slow drip stays linear.
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        used = 0 if self._open is None else self._continue(self._open, data, 0)
        if self._open is None:
            used = self._split(data, used)
        if used < len(data):
            self._rest += data[used:]

    def _split(self, data: bytes, pos: int) -> int:
        end = len(data)
        contents = self._contents
        self._wanted = OVERHEAD
        while end - pos >= OVERHEAD:
            kind, channel, size = read_frame_head(data, pos)
            if size > self._size_max and (kind != HEADER or size > self._header_max):
                raise FrameError(f"a frame of {size} bytes exceeds the limit of {self._size_max}")
            stop = pos + size + OVERHEAD
            content = contents.get(channel)
            if stop > end:
                if content is not None and content.expects(kind, size):
                    self._open, self._open_size = content, size
                    return self._continue(content, data, pos + 7)
                self._wanted = stop - pos
                return pos
            if data[stop - 1] != END:
                raise FrameError(_NO_END)
            if content is not None and content.take(kind, data, pos + 7, stop - 1):
                self.hot = True
            else:
                self._other(data[pos:stop])
            pos = stop
        return pos

    def _continue(self, content: _Content, data: bytes, pos: int) -> int:
        """Use what has come of the open body frame; its last byte only together with its end mark."""
        size, have = self._open_size, len(data) - pos
        if have > size:
            if data[pos + size] != END:
                raise FrameError(_NO_END)
            self._open = None
            self.hot = True
            content.take_piece(data, pos, pos + size)
            return pos + size + 1
        used = min(have, size - 1)
        if used:
            content.take_piece(data, pos, pos + used)
        self._open_size -= used
        self._wanted = self._open_size + 1
        return pos + used
