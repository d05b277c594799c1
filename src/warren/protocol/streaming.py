"""Streams: what a method yields comes in several messages, before the one reply. Pure; docs/wire.md is its prose.

The worker may be ahead of its caller by a window of items and bytes, and waits when that is used up. Items have
numbers, which have no gap, and the reply says how many there were: what is lost, or comes twice, shows.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, cast

import msgspec

from warren.amqp.frames import FrameError, Properties, encode_properties
from warren.amqp.tables import encode_table, pick
from warren.protocol import codecs
from warren.protocol.codecs import JSON, MSGPACK, OCTETS, Decode
from warren.protocol.complaints import Root
from warren.protocol.control import LONGEST, MOST_CANCELLED, read_body
from warren.protocol.request import PERSISTENT

#: Behind the name of a method in ``type``: its items are asked for. No method has such a name, so that a server which
#: does not know of streams refuses it.
MARK = "[]"
#: The ``type`` of a message with items.
ITEM = b"item"
#: The ``message_id`` of items that every run of their method yields alike, so that another run goes on with them.
SAME_ITEMS = b"resumable"
#: The verb of the control message that tells how far a caller has come.
CREDIT = "credit"
#: Bytes of items that travel together, if there are several.
MOST_TOGETHER = 64 * 1024

_WINDOW = (b"rpc-window-items", b"rpc-window-bytes")
_ITEM = (b"rpc-seq", b"rpc-items", b"rpc-instance")
#: Bytes of an array around its items, at most, for each of them: peers may write spaces.
_AROUND = 8
#: The largest window that a worker grants.
_MOST_ITEMS, _MOST_BYTES = 100_000, 256 * 1024 * 1024


class Window(NamedTuple):
    """How far a worker may be ahead of its caller; by one item more, where that has more bytes than are left."""

    items: int = 256
    bytes: int = 8 * 1024 * 1024


DEFAULT_WINDOW = Window()


def window_fields(window: Window) -> bytes:
    """The header fields that ask for a window; no table."""
    return encode_table({"rpc-window-items": window.items, "rpc-window-bytes": window.bytes})


def read_window(table: bytes | None) -> Window:
    """The window that a request asks for; where it says nothing that can be had, the usual one."""
    try:
        given = pick(table or b"", *_WINDOW)
    except FrameError:
        return DEFAULT_WINDOW
    return within_window(given.get("rpc-window-items"), given.get("rpc-window-bytes"))


def within_window(items: object, size: object) -> Window:
    """The window that a peer names; where what it says cannot be had, the usual one."""
    return Window(_within(items, DEFAULT_WINDOW.items, _MOST_ITEMS), _within(size, DEFAULT_WINDOW.bytes, _MOST_BYTES))


def _within(value: object, default: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return default
    return min(value, most)


class Ahead:
    """How far a worker is ahead of its caller.

    Attributes:
        sent: how many items it has sent, or undertaken to send.
        bytes: of those that its caller has not consumed.
    """

    def __init__(self, window: Window, *, resumes: bool = False) -> None:
        """It `resumes` where an earlier run may have sent the first items."""
        self._window = window
        self._sizes: deque[int] = deque()
        self._resumes = resumes
        self._had = 0  # how many items the caller has of an earlier run
        self.sent = 0
        self.bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether one more item may be sent, whatever its size."""
        return len(self._sizes) < self._window.items and self.bytes < self._window.bytes

    def send(self, size: int) -> None:
        """One more item, of so many bytes; there was room for it."""
        self._sizes.append(size)
        self.bytes += size
        self.sent += 1

    def pass_over(self) -> bool:
        """Whether the caller has the next item, of an earlier run: it counts as sent."""
        if self.sent >= self._had:
            return False
        self.sent += 1
        return True

    def consumed(self, count: int) -> None:
        """The caller has consumed so many items in all; what is older than known changes nothing.

        Nor does what was never sent, but where an earlier run may have.
        """
        if count > self.sent:
            if not self._resumes:
                return
            self._had = max(self._had, count)
        while self._sizes and self.sent - len(self._sizes) < count:
            self.bytes -= self._sizes.popleft()


class Behind:
    """How far a caller is behind.

    Attributes:
        came: how many items have come.
        consumed: how many of them nobody needs any more.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._kept = 0  # bytes of the items that came and were not consumed
        self._bytes = 0  # of what was consumed since the worker was told
        self._told = 0
        self.came = 0
        self.consumed = 0

    def take(self, seq: int, count: int, size: int) -> str:
        """A message of so many bytes with so many items, the first of this number, came; returns what is wrong with it.

        What came before has to leave room for one byte more: so the window is overrun by one message at most.
        """
        if seq != self.came:
            return f"item {seq} came where item {self.came} was due"
        if seq + count - self.consumed > self._window.items:
            return f"item {seq} came, more than the {self._window.items} ahead that were asked for"
        if count and self._kept >= self._window.bytes:
            return f"item {seq} came, with the {self._window.bytes} bytes ahead that were asked for used up"
        self.came += count
        self._kept += _least(count, size)
        return ""

    def has(self, seq: int, count: int) -> int:
        """How many of so many items, the first of this number, have come before."""
        return max(0, min(count, self.came - seq))

    def consume(self, count: int, size: int) -> bool:
        """So many items in a message of so many bytes were consumed; returns whether the worker has to hear of it.

        A worker that waits has sent all of a window; once that is consumed, half of it was, so that it hears of it.
        """
        self.consumed += count
        self._kept -= _least(count, size)
        self._bytes += size
        half = self._window.items // 2, self._window.bytes // 2
        return self.consumed - self._told >= max(1, half[0]) or self._bytes >= half[1]

    def tell(self) -> int:
        """How many items were consumed: the worker is told now."""
        self._told, self._bytes = self.consumed, 0
        return self.consumed


def size_of_new(size: int, before: int) -> int:
    """Bytes of a message that count for its new items, where `before` of them had come and count already.

    Those travel together with others only as long as all are small.
    """
    return max(0, size - MOST_TOGETHER) if before else size


def _least(count: int, size: int) -> int:
    """Bytes that so many items have at least, in a message of so many bytes; a sign of life has none."""
    return max(0, size - _AROUND * count) if count else 0


# --- messages with items ------------------------------------------------------------------------------------------


class Items(NamedTuple):
    """What a message with items says of itself.

    Attributes:
        seq: the number of the first one; the stream's first has 0.
        number: how many there are.
        source: the routing key, in the control exchange, of the process that sends them.
    """

    seq: int
    number: int
    source: str


def content_type_of(content_type: str) -> str:
    """The encoding of the items that a request in this one asks for."""
    return MSGPACK if content_type == MSGPACK else JSON


def item_properties(content_type: str, of: Properties, run: bytes, items: Items) -> bytes:
    """The property bytes of a message with items, as persistent as the request that they are `of`.

    `run` tells those of one run of the method from another's, unless they are the same.
    """
    table = encode_table({"rpc-seq": items.seq, "rpc-items": items.number, "rpc-instance": items.source})
    p = Properties(content_type=content_type.encode(), correlation_id=of.correlation_id, type=ITEM, table=table)
    p.message_id = run
    if of.delivery_mode == PERSISTENT:
        p.delivery_mode = PERSISTENT
    return encode_properties(p)


def read_items(p: Properties) -> Items | None:
    """What a message with items says of itself; None where it makes no sense."""
    try:
        table = pick(p.table or b"", *_ITEM)
    except FrameError:
        return None
    seq, count, source = (table.get(name.decode()) for name in _ITEM)
    if not (is_number(seq) and is_number(count) and isinstance(source, str) and len(source.encode()) <= LONGEST):
        return None
    return Items(seq, count, source)  # type: ignore[arg-type]  # they are numbers


def is_number(value: object) -> bool:
    """Whether it can count something."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class Octets:
    """One item of many bytes, which is the body of a message of its own: nobody has to copy it."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __len__(self) -> int:
        return len(self.body)


#: An item as it is sent: an array of this one only, so that one that travels alone is not copied.
Written = bytes | Octets


def write_item(content_type: str, item: Any) -> Written:
    """An item, for a message in this encoding.

    Raises:
        CodecError: it does not fit the encoding.
    """
    if type(item) is bytes and content_type == MSGPACK and len(item) > MOST_TOGETHER:
        return Octets(item)
    return codecs.encode(content_type, [item])


def item_size(content_type: str, item: Written) -> int:
    """Bytes of the item itself."""
    if isinstance(item, Octets):
        return len(item)
    return len(item) - (2 if content_type == JSON else 1)


def joined(content_type: str, items: Sequence[Written]) -> tuple[str, bytes]:
    """The content type and the body of a message with these items; the only one, which may be large, is not copied."""
    count = len(items)
    if count == 1:
        [one] = items
        return (OCTETS, one.body) if isinstance(one, Octets) else (content_type, one)
    bodies = cast("Sequence[bytes]", items)  # octets travel alone
    if content_type == JSON:
        return JSON, b"[%b]" % b",".join([body[1:-1] for body in bodies])
    head = bytes((0x90 | count,)) if count < 16 else b"\xdd" + count.to_bytes(4, "big")
    return content_type, head + b"".join([body[1:] for body in bodies])


def together(items: Iterable[Written], most: int = MOST_TOGETHER) -> Iterator[list[Written]]:
    """Items in the groups that travel together: several, of at most so many bytes, or one."""
    group: list[Written] = []
    size = 0
    for item in items:
        if group and size + len(item) > most:
            yield group
            group, size = [], 0
        group.append(item)
        size += len(item)
    if group:
        yield group


def items_decoder(content_type: str, hint: Any, root: Root = "items") -> Decode:
    """What reads the items in a message's body, as a list; see `codecs.decoder`."""
    listed = types.GenericAlias(list, (hint,))
    if content_type != OCTETS:
        return codecs.decoder(content_type, listed, root=root)
    if hint in (bytes, Any):
        return lambda body: [body]
    decode = codecs.decoder(MSGPACK, listed, root=root)  # whatever else takes bytes
    return lambda body: decode(codecs.encode(MSGPACK, [body]))


# --- credit -------------------------------------------------------------------------------------------------------


class Credit(msgspec.Struct, frozen=True):
    """How many items of each of these streams were consumed, by correlation id.

    Attributes:
        reply_to: their reply address: with an id it proves who says so, as for `Cancel`.
    """

    streams: dict[Annotated[str, msgspec.Meta(max_length=LONGEST)], Annotated[int, msgspec.Meta(ge=0, le=2**53)]]
    reply_to: Annotated[str, msgspec.Meta(max_length=LONGEST)]


def read_credit(body: Mapping[str, Any]) -> Credit:
    """What a question's body says.

    Raises:
        ValueError: it is none.
    """
    credit = read_body(body, Credit)
    if len(credit.streams) > MOST_CANCELLED:
        raise ValueError(f"it names {len(credit.streams)} streams; {MOST_CANCELLED} are allowed")
    return credit
