"""What the fuzzers begin with: good messages, which they then spoil."""

from warren.amqp import frames
from warren.amqp.frames import Properties, encode_properties, shortstr
from warren.amqp.tables import encode_table
from warren.protocol import codecs
from warren.protocol.request import RequestTemplate

_TAG = b"\x00\x00\x00\x00\x00\x00\x00\x01"


def _request(reply_to: bytes | None = b"replies", **headers: object) -> bytes:
    template = RequestTemplate("text", content_type=codecs.JSON, reply_to=reply_to, bounce=False, durable=False)
    return template.encode_own(b"p.1", b"m.1", 30_000, 4_000_000_000_000, b"30000", encode_table(headers))


def _frame(kind: int, payload: bytes) -> bytes:
    return bytes((kind, 0, 1)) + len(payload).to_bytes(4, "big") + payload + b"\xce"


def _stream() -> bytes:
    deliver = b"\x00\x3c\x00\x3c" + shortstr(b"ctag") + _TAG + b"\x00" + shortstr(b"warren") + shortstr(b"any")
    content = b"".join(frames.content_frames(1, _request(), b"[1]", 4096))
    confirms = _frame(1, b"\x00\x3c\x00\x50" + _TAG + b"\x01") + _frame(1, b"\x00\x3c\x00\x78" + _TAG + b"\x00")
    return _frame(1, deliver) + content + confirms + frames.HEARTBEAT_FRAME


def _handled(flags: int, properties: bytes, body: bytes) -> bytes:
    return bytes((flags, min(len(properties), 255))) + properties[:255] + body


_BOUNCE = Properties(table=encode_table({"x-first-death-reason": "expired", "x-death": [{"count": 1}]}))
_ERROR = Properties(type=b"error", table=encode_table({"rpc-status": "INTERNAL", "rpc-reason": "X"}))
_BODIES = (b'["a"]', b'{"n":1,"names":["a"]}', b"\x91\xa1a", b"text", b"")

SEEDS: dict[str, list[bytes]] = {
    "frames": [b"\x05" + _stream(), b"\x00" + _request(a=1), b"\x00" + encode_table({"a": {"b": [1, None, "x"]}})],
    "wire": [
        *(_handled(flags, _request(), body) for flags in range(4) for body in _BODIES),
        *(_handled(flags, _request(None, tenant="a"), body) for flags in range(4) for body in _BODIES),
        _handled(0, encode_properties(_BOUNCE), b"[1]"),
        _handled(0, encode_properties(_ERROR), b'{"detail":"x"}'),
    ],
    "methods": [
        bytes((kind,)) + body
        for kind in range(6)
        for body in (*_BODIES, b'[{"x":1},"2026-01-01T00:00:00Z","1.5","red",["a"]]', b"30", b"\x92\x01\xa1a")
    ],
}
