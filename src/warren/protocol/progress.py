"""Progress: how far a call has come, told to a caller that has asked. Pure; docs/wire.md is its prose.

It is news and no result: what is lost, late or damaged is dropped, and no call ends otherwise for it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from warren.amqp.frames import FrameError, Properties, encode_properties
from warren.amqp.tables import encode_table, pick
from warren.protocol import codecs
from warren.protocol.topology import DIRECT_REPLY_TO

#: The ``type`` of a message that tells of progress.
PROGRESS: Final = b"progress"
#: Characters of the longest message; a longer one is cut.
LONGEST_MESSAGE: Final = 1000
#: Bytes of the largest body that is read: a message of that length, however it is escaped.
_LARGEST: Final = 12 * LONGEST_MESSAGE + 1000
_LARGEST_NUMBER: Final = 2**63
#: Milliseconds after which the broker drops one that nobody has fetched, as it is no news any more.
_EXPIRATION: Final = b"5000"

_NAME: Final = "rpc-progress"
_NAME_BYTES: Final = _NAME.encode()
#: The header of a request that asks for progress, and of each message that tells of it; no table.
PROGRESS_FIELD: Final = encode_table({_NAME: True})


class Progress(NamedTuple):
    """How far a call has come.

    Attributes:
        done: how much is done, in the handler's own unit.
        total: how much there is, as far as that is known.
        message: what is being done.
    """

    done: float
    total: float | None = None
    message: str | None = None

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1; None where the total is not known."""
        if self.total is None:
            return None
        return 1.0 if self.done >= self.total else self.done / self.total

    @property
    def is_complete(self) -> bool:
        """Whether all of a known total is done."""
        return self.total is not None and self.done >= self.total


def checked(done: float, total: float | None, message: str | None) -> Progress:
    """What a handler says, in plain numbers: those of NumPy and enumerations are some, too, and cannot be written.

    Raises:
        TypeError, ValueError: it cannot be told.
    """
    numbers = [done] if total is None else [done, total]
    if not all(_is_number(number) and 0 <= number < _LARGEST_NUMBER for number in numbers):  # nan is not
        kind = ValueError if all(map(_is_number, numbers)) else TypeError
        raise kind(f"progress({done!r}, {total!r}): say numbers from 0 on, for example progress(30, total=100)")
    if message is not None and not isinstance(message, str):
        raise TypeError(f"progress(message={message!r}) is no text: say what is being done")
    return Progress(_plain(done), None if total is None else _plain(total), message)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain(number: float) -> float:
    return int(number) if isinstance(number, int) else float(number)


def asked_for(p: Properties) -> bool:
    """Whether a request asks for progress, and says in which queue it shall be put.

    Not at an address of direct reply-to: RabbitMQ 3.10 closes the connection (541) over one that is forged, or of a
    node that is gone. The request would come again then, and do the same to the next worker.
    """
    if not p.reply_to or p.table is None or _NAME_BYTES not in p.table or p.reply_to.startswith(DIRECT_REPLY_TO):
        return False
    try:
        return pick(p.table, _NAME_BYTES).get(_NAME) is True
    except FrameError:
        return False


def progress_message(correlation_id: bytes, said: Progress) -> tuple[bytes, bytes]:
    """Property bytes and body."""
    p = Properties(content_type=codecs.JSON.encode(), correlation_id=correlation_id, expiration=_EXPIRATION)
    p.type, p.table = PROGRESS, PROGRESS_FIELD
    message = None if said.message is None else _cut(said.message)
    return encode_properties(p), msgspec.json.encode({"done": said.done, "total": said.total, "message": message})


def _cut(message: str) -> str:
    # Halves of characters, as names of files may have, cannot be written in UTF-8.
    return message[:LONGEST_MESSAGE].encode("utf-8", "replace").decode()


class _Body(msgspec.Struct, frozen=True):
    done: int | float
    total: int | float | None = None
    message: str | None = None


_decode: Final = msgspec.json.Decoder(_Body).decode


def read_progress(body: bytes | None) -> Progress | None:
    """What a message says; None where it is not there, or makes no sense."""
    if body is None or len(body) > _LARGEST:
        return None
    try:
        said: Any = _decode(body)
        progress = checked(said.done, said.total, said.message)
    except (ValueError, TypeError, RecursionError):  # the last: a bomb of nesting
        return None
    return progress if len(said.message or "") <= LONGEST_MESSAGE else None
