"""Numbers at the ends of what a float can hold: JSON's decoder takes up to 20 µs for each of them, 0.05 for others.

A megabyte of ``1e308`` would hold its reader for three seconds. So where many numbers of a body may be of this kind,
they are counted first, and too many are refused. MessagePack has floats as they are, at no cost. Pure.
"""

from __future__ import annotations

import re

#: So many may be in one body: they take 100 ms.
MOST = 5_000
#: What msgspec reads fast: its 19 digits times a power of ten from -307 to 288.
_LEAST, _GREATEST = 1e-288, 1e288

#: Bytes counted at a time.
_WINDOW = 4096

_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_EXPONENT = re.compile(rb"[eE][+-]?0*+[1-9]\d\d")
_TEXT = re.compile(rb'(?s:"(?:[^"\\]++|\\.)*+")')
_NUMBER = re.compile(rb"(?<![\d.])\d[\d.]*+[eE][+-]?0*+[1-9]\d\d++(?=[\s,\]}]|\Z)")


class TooManyExtremes(ValueError):
    """A body has too many numbers that take long to read."""


def check(body: bytes) -> None:
    """Refuse a body of JSON whose numbers would hold its reader.

    Raises:
        TooManyExtremes: they would.
    """
    if _has_few(body) or len(_EXPONENT.findall(body)) <= MOST:
        return
    if sum(map(_is_extreme, _NUMBER.findall(_TEXT.sub(b"", body)))) > MOST:
        raise TooManyExtremes(
            f"more than {MOST} numbers are beyond 1e288 or closer to 0 than 1e-288, which take long to read as JSON:"
            " send them as msgpack"
        )


def _has_few(body: bytes) -> bool:
    """Whether that shows at a glance: few commas, and so few values; few exponents; or few numbers of three digits."""
    return (
        _has_at_most(MOST - 1, b",", body)
        or (_has_at_most(MOST // 2, b"e", body) and _has_at_most(MOST // 2, b"E", body))
        or body.translate(_DIGITS_AS_0).count(b"000") <= MOST
    )


def _has_at_most(most: int, byte: bytes, body: bytes) -> bool:
    """As `count` would tell, which looks at each byte for itself: `find` leaps over those before, and many end it."""
    at, seen = body.find(byte), 0
    while at >= 0 and seen <= most:
        seen += body.count(byte, at, at + _WINDOW)
        at = body.find(byte, at + _WINDOW)
    return seen <= most


def _is_extreme(number: bytes) -> bool:
    try:
        value = float(number)
    except ValueError:  # dots as in no number: it will be refused
        return False
    return value > _GREATEST or value < _LEAST
