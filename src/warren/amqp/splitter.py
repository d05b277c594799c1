"""Cuts what a broker sends into frames, and puts the deliveries of the hot path together. Pure.

Frames are cut out of the receive buffer by offset: this runs for every message. Numbers in brackets are sections of the
AMQP 0-9-1 specification.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Final, Protocol

from warren.amqp.frames import BODY, END, HEADER, METHOD, OVERHEAD, RETURNED, Delivery, FrameError, body_head
from warren.amqp.numbers import read_frame_head, read_tag_and_flag, read_u32, read_u64

# Method ids: class 60 (basic) << 16 | method [1.8.3]
_RETURN: Final = 60 << 16 | 50
_DELIVER: Final = 60 << 16 | 60
_GET_OK: Final = 60 << 16 | 71
_ACK: Final = 60 << 16 | 80
_NACK: Final = 60 << 16 | 120

_SHORT: Final = "a frame is shorter than what it should hold"
#: Bytes of what is left of a body that are worth to be read to their places.
LARGE: Final = 32 * 1024
#: Bytes of the largest body that can have been published: RabbitMQ's `max_message_size` is 512 MiB at most (its docs).
_MOST_OF_ALL: Final = 512 * 1024 * 1024
#: So many places are given at a time, or one more.
_MOST_PLACES: Final = 32
_NO_END: Final = "a frame does not end with its end mark"


class Tap(Protocol):
    """Who takes the hot frames of one channel.

    What comes back (`returned`) is a delivery that is tagged so, and whole, whatever its size: we have published it.
    """

    def delivered(self, delivery: Delivery) -> None: ...
    def returned(self, delivery: Delivery) -> None: ...
    def confirmed(self, tag: int, multiple: bool) -> None: ...
    def refused(self, tag: int, multiple: bool) -> None: ...


class _Body:
    """A body that comes in parts: each is put where it belongs, and the whole is not copied."""

    __slots__ = ("_file", "_view")

    def __init__(self, size: int) -> None:
        self._file = BytesIO()
        self._file.seek(size - 1)
        self._file.write(b"\0")
        self._view = self._file.getbuffer()

    def place(self, start: int, size: int) -> memoryview:
        """Where so many bytes belong."""
        return self._view[start : start + size]

    def whole(self) -> bytes:
        """All of it. CPython gives out the very bytes that a file in memory holds, if it has no views."""
        self._view.release()
        return self._file.getvalue()


class _Content:
    """The deliveries of one tapped channel, put together from their frames [4.2.6]."""

    __slots__ = ("_body", "_delivery", "_limit", "_missing", "_splitter", "channel", "tap")

    def __init__(self, splitter: Splitter, channel: int, tap: Tap, limit: int) -> None:
        self._splitter = splitter
        self.channel = channel
        self.tap = tap
        self._limit = limit
        self._delivery: Delivery | None = None
        self._missing = 0
        self._body: _Body | None = None

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
        if size > _MOST_OF_ALL:
            raise FrameError(f"a body of {size} bytes is larger than what brokers take")
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
        size = stop - start
        if size > self._missing:
            raise FrameError("a message's body is longer than its header says")
        if delivery.body is not None:
            if size == delivery.body_size:
                delivery.body = data[start:stop]  # the usual case: one frame
            elif size:  # servers may send frames without a body
                self._place(delivery, size)[:] = memoryview(data)[start:stop]
        self.placed(size)

    def _place(self, delivery: Delivery, size: int) -> memoryview:
        """Where the next bytes of the body belong."""
        if self._body is None:
            self._body = _Body(delivery.body_size)
        return self._body.place(delivery.body_size - self._missing, size)

    def placed(self, size: int) -> None:
        """So many bytes of the body are where they belong, or shall not be kept."""
        self._missing -= size
        delivery = self._delivery
        if not self._missing and delivery is not None:
            body, self._body = self._body, None
            if body is not None:
                delivery.body = body.whole()
            self._finish(delivery)

    def places(self, size: int, frame: int) -> list[memoryview]:
        """Where the next bytes belong: `size` of the open frame, then frames of `frame` bytes, if they come like that.

        Behind each but the last is a place for its end mark and the head of the next one.
        """
        delivery = self._delivery
        if delivery is None or delivery.body is None or self._missing < self._splitter.large:
            return []
        places = [self._place(delivery, size)]
        start, left = delivery.body_size - self._missing + size, self._missing - size
        while left and len(places) < _MOST_PLACES and self._body is not None:
            size = min(left, frame)
            places += (memoryview(bytearray(OVERHEAD)), self._body.place(start, size))
            start, left = start + size, left - size
        return places

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

    def __init__(self, other: Callable[[bytes], None], frame_max: int, large: int = LARGE) -> None:
        """`large`: bytes of what is left of a body from which on there are `places` for it."""
        self._other = other
        self.large = large
        self._size_max = frame_max - OVERHEAD  # frame_max counts the whole frame [4.2.3]
        # RabbitMQ sends a message on whose headers it has added to (x-death), whatever their size has become.
        self._header_max = 4 * frame_max
        self._contents: dict[int, _Content] = {}
        self._rest = bytearray()
        self._wanted = OVERHEAD
        self._open: _Content | None = None  # whose body frame has come in part, and
        self._open_size = 0  # the bytes of it, without its end mark, that have not, of
        self._frame_size = 0  # so many
        self.hot = False
        self.delivered = False

    def tap(self, channel: int, tap: Tap, *, body_limit: int) -> None:
        """From now on `tap` gets the deliveries, returns and confirms of `channel`."""
        self._contents[channel] = _Content(self, channel, tap, body_limit)

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
                    self._open, self._open_size, self._frame_size = content, size, size
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

    # --- large bodies: read to where they belong, past `feed` -----------------------------------------------------

    def places(self) -> list[memoryview]:
        """Where the next bytes of the stream are wanted, one place after the other; nothing if they are to be fed."""
        if self._open is None or self._rest:
            return []
        return self._open.places(self._open_size, self._frame_size)

    def placed(self, places: list[memoryview], count: int) -> None:
        """So many bytes came into these places, which were given last.

        Raises:
            FrameError: they are not AMQP.
        """
        content = self._open
        assert content is not None
        self.hot = True
        while len(places) > 1 and count >= len(places[0]) + OVERHEAD:
            size, between = len(places[0]), bytes(places[1])
            if between[0] != END:
                raise FrameError(_NO_END)
            content.placed(size)
            count -= size + OVERHEAD
            places = places[2:]
            if between[1:] != body_head(content.channel, len(places[0])):
                self._open = None  # something else came
                self.feed(between[1:] + b"".join(places)[:count])
                return
            self._open_size = self._frame_size = len(places[0])
        self._placed_in_part(content, places, count)

    def _placed_in_part(self, content: _Content, places: list[memoryview], count: int) -> None:
        """So many bytes of the open frame, and perhaps of what is behind it; its last one waits for its end mark."""
        used = min(count, self._open_size - 1)
        content.placed(used)
        self._open_size -= used
        if count > used:
            self._rest += b"".join([places[0][-1:], *places[1:2]])[: count - used]
            self._wanted = 2
