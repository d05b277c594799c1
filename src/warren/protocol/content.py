"""What the properties of a message say of its body: the content type, and an encoding where somebody has added one."""

from __future__ import annotations

from warren.amqp.frames import Properties
from warren.protocol import codecs

#: RabbitMQ 4's largest message, and the default limit both ways (bytes).
MAX_MESSAGE_SIZE = 16 * 1024 * 1024

#: The usual spellings, found without decoding them.
CONTENT_TYPES: dict[bytes | None, str] = {
    name.encode(): name for name in (codecs.JSON, codecs.MSGPACK, codecs.TEXT, codecs.OCTETS)
}
#: A function, as Python 3.11 is slow to find a method of an imported name.
usual_content_type = CONTENT_TYPES.get
#: Content encodings that leave a body as it is: some clients write the character set there.
_UNCHANGED = frozenset({b"", b"identity", b"utf-8", b"us-ascii", b"ascii", b"binary", b"8bit", b"7bit"})


def with_encoding(content_type: str, p: Properties) -> str:
    """The content type of a body, with its content encoding where that has to be undone: nobody here can."""
    encoding = (p.content_encoding or b"").strip().lower()
    return content_type if encoding in _UNCHANGED else f"{content_type} in {as_text(encoding)}"


def as_text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
