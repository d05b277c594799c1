"""Fuzz the decoders of arguments and results: ``python -m tests.fuzz.fuzz_methods [options]``."""

import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Annotated, Any

import atheris
from msgspec import Meta, Struct

with atheris.instrument_imports(include=["warren"]):
    from warren import Service
    from warren.protocol import codecs
    from warren.protocol.codecs import CodecError
    from warren.protocol.signature import method_of, untyped_decoder

CONTENT_TYPES = [codecs.JSON, codecs.MSGPACK, codecs.TEXT, codecs.OCTETS, codecs.PROBLEM, "application/x-else"]


class Colour(Enum):
    """An enumeration."""

    RED = "red"


class Point(Struct):
    """A structure."""

    x: int
    label: str = ""


service = Service("fuzzed")


@service.method
def many(a: int, b: str = "", *, c: float | None = None) -> dict[str, int]:
    """Arguments of each kind."""
    raise NotImplementedError


@service.method
def rich(point: Point, when: datetime, price: Decimal, colour: Colour, tags: set[str]) -> list[Point]:
    """Types of the standard library and of msgspec."""
    raise NotImplementedError


@service.method
def bounded(n: Annotated[int, Meta(ge=0, le=90)]) -> bytes:
    """One argument, as bare peers send it."""
    raise NotImplementedError


@service.method
def anything(value: Any) -> Any:
    """No hint."""
    raise NotImplementedError


METHODS = [method_of(function) for function in (many, rich, bounded, anything)]


def check(data: bytes) -> None:
    """Values or `CodecError`, with a reason."""
    if not data:
        return
    content_type = CONTENT_TYPES[data[0] % len(CONTENT_TYPES)]
    for method in METHODS:
        read(partial(method.decode_arguments, content_type, data[1:]))
        read(partial(method.decode_result, content_type, data[1:]))
    read(lambda: untyped_decoder(content_type)(data[1:]))


def read(decode: Callable[[], object]) -> None:
    """A refusal says why."""
    try:
        decode()
    except CodecError as error:
        if not str(error):
            raise AssertionError("a refusal without a reason") from error


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
