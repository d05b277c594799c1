"""Message bodies: JSON, msgpack, text and bytes. Never pickle: nothing in a message is evaluated.

Everything is encoded and decoded by msgspec, which validates against type hints while it decodes. Pydantic's
models it does not know: they are known here by their methods, validate themselves, and travel as their JSON form.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, ClassVar, Final

import msgspec
from msgspec import inspect

from warren.protocol import complaints, extremes, foreign
from warren.protocol.bases import as_base, deep_base
from warren.protocol.collisions import SMALL, Screen
from warren.protocol.complaints import Root

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
TEXT: Final = "text/plain"
OCTETS: Final = "application/octet-stream"
PROBLEM: Final = "application/problem+json"  # RFC 9457: the body of an error reply

Decode = Callable[[bytes], Any]


class CodecError(ValueError):
    """A body that cannot be encoded or decoded; the message says where and why."""

    reason: ClassVar[str] = "DECODE"


class ValidationError(CodecError):
    """A well-formed body that does not fit the type hints."""

    reason: ClassVar[str] = "VALIDATION"


class UnknownEncoding(CodecError):
    """A content type that Warren does not speak."""

    reason: ClassVar[str] = "ENCODING"

    def __init__(self, content_type: str) -> None:
        known = f"{JSON}, {MSGPACK}, {TEXT}, {OCTETS}"
        super().__init__(f"content type {complaints.shown(content_type)} is not known: send {known}, uncompressed")


def normalise(content_type: str | None) -> str:
    """The bare media type; a message without one is text, as tutorial six writes it."""
    if not content_type:
        return TEXT
    return content_type.partition(";")[0].strip().lower()


def encode(content_type: str, value: Any) -> bytes:
    """Encode a value; `content_type` is one of the four above.

    Raises:
        CodecError: the value does not fit the encoding.
    """
    try:
        body = _ENCODERS[content_type](value)
        # An `n` first, as most small bodies have none: to look for more than a byte is ten times as much work.
        if content_type in _HAVE_NO_NAN and _N in body and body.find(b"null") >= 0 and value is not None:
            _refuse_nan(value)
    except KeyError:
        raise UnknownEncoding(content_type) from None
    except Exception as error:  # a model's own code may raise whatever
        raise CodecError(_reason(error, "value")) from error
    return body


def decoder(content_type: str, hint: Any = Any, *, strict: bool = True, root: Root = "result") -> Decode:
    """A function that decodes bodies of one content type into `hint`, raising `CodecError` where they do not fit.

    With ``strict=False`` numbers and the like may be written as strings (a command line, a bare text). `root` is what
    complaints call the value.
    """
    try:
        decode = _DECODERS[content_type](hint, strict)
    except KeyError:
        raise UnknownEncoding(content_type) from None

    checks = _checks(content_type, hint)

    def guarded(body: bytes) -> Any:
        try:
            return decode(body) if len(body) <= SMALL else _decode_large(decode, checks, body)
        except msgspec.ValidationError as error:
            raise ValidationError(complaints.explain(error, root)) from error
        # RecursionError: a bomb of nesting. TypeError: a map as the key of a map, before msgspec 0.22.
        # UnicodeDecodeError is a ValueError. A type's own code (`__post_init__`) may raise whatever.
        except Exception as error:
            raise CodecError(_reason(error, root)) from error

    return guarded


def _checks(content_type: str, hint: Any) -> list[Callable[[bytes], None]]:
    """What a large body has to pass first: whatever its decoder would take too long for."""
    if content_type == OCTETS:
        return []
    checks: list[Callable[[bytes], None]] = [] if content_type == MSGPACK else [extremes.check]
    screen = Screen.of(hint, json=content_type != MSGPACK)
    return checks if screen is None else [*checks, screen.check]


def _decode_large(decode: Decode, checks: list[Callable[[bytes], None]], body: bytes) -> Any:
    """Look, then decode, without the garbage collector, which would go through all that is new a hundred times over."""
    collects = gc.isenabled()
    gc.disable()
    try:
        for check in checks:
            check(body)
        return decode(body)
    finally:
        if collects:
            gc.enable()


def convert(value: Any, hint: Any) -> Any:
    """Check (and where lossless, convert) a result against its type hint.

    Raises:
        CodecError: the value does not fit the hint.
    """
    try:
        return msgspec.convert(value, hint, dec_hook=_read_custom)
    except Exception as error:
        return _convert_bases(value, hint, error)


def _convert_bases(value: Any, hint: Any, refused: Exception) -> Any:
    """Once more, with subclasses taken as their bases; what it is still not, it was refused for."""
    try:
        return msgspec.convert(deep_base(value), hint, dec_hook=_read_custom, from_attributes=True)
    except Exception:
        raise CodecError(_reason(refused, "result")) from refused


#: What a decoder makes by itself.
_NATIVE: Final = (dict, list, str, int, float, bytes)


def check_hint(hint: Any, *, result: bool = False) -> None:
    """Make sure that values of this type can travel; of a `result`, that it can be sent to whoever calls by name.

    Raises:
        TypeError: they cannot, or it promises rules that nobody would check; the message names the type.
    """
    foreign.check(hint)
    for kind in _custom_types(inspect.type_info(hint)):
        met = any(issubclass(native, kind) or (result and issubclass(kind, native)) for native in _NATIVE)
        if not met and not hasattr(kind, "model_validate"):
            raise TypeError(
                f"values of type {kind.__qualname__} cannot be sent:"
                " take a dataclass, a msgspec.Struct, a Pydantic model or what JSON has"
            )


def _custom_types(info: inspect.Type) -> Iterator[type]:
    """The types within a hint that msgspec does not know."""
    seen: set[int] = set()
    found: list[Any] = [info]
    while found:
        one = found.pop()
        if isinstance(one, inspect.CustomType):
            yield one.cls
        elif isinstance(one, tuple):
            found += one
        elif isinstance(one, inspect.Type | inspect.Field) and id(one) not in seen:
            seen.add(id(one))
            found += msgspec.structs.astuple(one)


def _reason(error: Exception, root: Root) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeError):
        return f"a text is not UTF-8: {error}"
    return complaints.explain(error, root) or type(error).__name__


def _encode_text(value: Any) -> bytes:
    """A bare peer reads text: strings as they are, everything else as JSON writes it (``832040``, ``true``)."""
    if isinstance(value, str):
        return str.encode(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return _json_encode(value)


def _encode_octets(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{OCTETS} carries bytes, not {type(value).__name__}: encode it first")


def _text_decoder(hint: Any, strict: bool) -> Decode:
    """Text for `str`, the raw bytes for `bytes`; anything else is read as JSON, leniently (``30``, ``"30"``)."""
    if hint is bytes:
        return bytes
    if hint in (str, Any):
        return lambda body: str(body, "utf-8")
    if _takes_bytes(inspect.type_info(hint)):
        return lambda body: msgspec.convert(bytes(body), hint)
    read_json = msgspec.json.Decoder(hint, strict=False, dec_hook=_read_custom).decode

    def decode(body: bytes) -> Any:
        text = str(body, "utf-8")
        with contextlib.suppress(msgspec.ValidationError):
            # What is text by its nature: bounded strings, dates, enums.
            return msgspec.convert(text, hint, dec_hook=_read_custom)
        try:
            return read_json(text)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return msgspec.convert(text.strip(), hint, strict=False, dec_hook=_read_custom)

    return decode


def _takes_bytes(info: inspect.Type) -> bool:
    """Whether a value of this type may be bytes: text is then not looked into, for it is not base64 of them."""
    if isinstance(info, inspect.UnionType):
        return any(_takes_bytes(one) for one in info.types)
    return isinstance(info, inspect.BytesType | inspect.ByteArrayType | inspect.MemoryViewType)


def _octets_decoder(hint: Any, strict: bool) -> Decode:
    if hint in (bytes, Any):
        return bytes
    return lambda body: msgspec.convert(bytes(body), hint, strict=strict)


def _read_custom(kind: type, value: Any) -> Any:
    """Make a value of a type that msgspec does not know; it checks that the value is one."""
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        return value
    try:
        return validate(value)
    except Exception as error:  # its own, or what a validator of the user's lets through
        raise complaints.of_model(error) from error


def _write_custom(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        return as_base(value)
    return dump(mode="json", by_alias=True)  # by alias, as that is what it is validated by


_N: Final = ord("n")
_HAVE_NO_NAN: Final = frozenset({JSON, PROBLEM, TEXT})


def _refuse_nan(value: Any) -> None:
    """Refuse what JSON would write as ``null`` though it is a number: the reader could not tell.

    Raises:
        ValueError: nan or inf is in the value.
    """
    try:
        level = [msgspec.to_builtins(value, enc_hook=_write_custom)]
    except TypeError:  # a `msgspec.Raw` is in it: what that holds was written by somebody else
        return
    while level:
        for one in level:
            if type(one) is float and not math.isfinite(one):
                raise ValueError(f"JSON has no {one}: send None, or take msgpack, which has it")
        maps = chain.from_iterable(one.values() for one in level if type(one) is dict)
        level = [*maps, *chain.from_iterable(one for one in level if type(one) in (list, tuple, set, frozenset))]


_json_encode: Final = msgspec.json.Encoder(enc_hook=_write_custom).encode

_ENCODERS: Final[dict[str, Callable[[Any], bytes]]] = {
    JSON: _json_encode,
    PROBLEM: _json_encode,
    MSGPACK: msgspec.msgpack.Encoder(enc_hook=_write_custom).encode,
    TEXT: _encode_text,
    OCTETS: _encode_octets,
}
_DECODERS: Final[dict[str, Callable[[Any, bool], Decode]]] = {
    JSON: lambda hint, strict: msgspec.json.Decoder(hint, strict=strict, dec_hook=_read_custom).decode,
    PROBLEM: lambda hint, strict: msgspec.json.Decoder(hint, strict=strict, dec_hook=_read_custom).decode,
    MSGPACK: lambda hint, strict: msgspec.msgpack.Decoder(hint, strict=strict, dec_hook=_read_custom).decode,
    TEXT: _text_decoder,
    OCTETS: _octets_decoder,
}


def is_map(content_type: str, body: bytes) -> bool:
    """Whether a body is a map, as far as its first bytes tell."""
    if content_type == JSON:
        return body.lstrip(b" \t\r\n")[:1] == b"{"
    first = body[0] if body else 0
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)


def is_scalar(content_type: str, body: bytes) -> bool:
    """Whether a body that is not a map is not an array, either."""
    if content_type == JSON:
        return body.lstrip(b" \t\r\n")[:1] not in (b"[", b"")
    first = body[0] if body else 0x90
    return not (0x90 <= first <= 0x9F or first in (0xDC, 0xDD))
