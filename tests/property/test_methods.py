"""Every method of AMQP is encoded and decoded as by Pika's own classes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from warren.amqp import methods
from warren.amqp.frames import FrameError
from warren.amqp.methods import BIT, KINDS, LONGSTR, SHORTSTR, TABLE, Kind, Method, Type, decode_method, encode_method
from warren.amqp.tables import encode_table

NAMED = {kind.name: kind for kind in KINDS.values()}
EVERY = pytest.mark.parametrize("kind", KINDS.values(), ids=repr)


def values(kind: Type) -> st.SearchStrategy[Any]:
    if kind is BIT:
        return st.booleans()
    if kind is TABLE:
        return st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(), max_size=3)
    if kind in (SHORTSTR, LONGSTR):
        return st.text(max_size=60)
    return st.integers(0, 2 ** (8 * kind.size) - 1)


def pikas(kind: Kind, arguments: dict[str, Any]) -> bytes:
    theirs = spec.methods[int.from_bytes(kind.index)]
    method = theirs.__new__(theirs)
    vars(method).update(arguments)
    encoded: bytes = frame.Method(7, method).marshal()
    return encoded


def made(kind: Kind, data: st.DataObject) -> tuple[Method, bytes]:
    """A method with made-up arguments, and what Pika writes for it."""
    arguments = {name: data.draw(values(type_), name) for name, type_ in kind.arguments.items()}
    ours = {name: encode_table(value) if isinstance(value, dict) else value for name, value in arguments.items()}
    return kind(**ours), pikas(kind, arguments)


def test_the_table_holds_all_of_pikas_methods_by_their_names() -> None:
    assert {name: int.from_bytes(kind.index) for name, kind in NAMED.items()} == {
        theirs.NAME: index for index, theirs in spec.methods.items()
    }


@EVERY
@given(st.data())
def test_a_method_is_the_bytes_that_pika_writes_and_is_read_back(kind: Kind, data: st.DataObject) -> None:
    method, encoded = made(kind, data)
    assert encode_method(7, method) == encoded
    assert decode_method(encoded[7:-1]) == method


@EVERY
@given(st.data())
def test_a_method_that_is_cut_short_or_goes_on_is_refused(kind: Kind, data: st.DataObject) -> None:
    payload = made(kind, data)[1][7:-1]
    for wrong in [*(payload[:end] for end in range(4, len(payload))), payload + b"\0"]:
        with pytest.raises(FrameError, match="does not add up"):
            decode_method(wrong)


@EVERY
def test_arguments_that_are_not_given_are_empty(kind: Kind) -> None:
    empty = {name: type_.default for name, type_ in kind.arguments.items()}
    assert kind() == kind(**empty)
    assert decode_method(encode_method(1, kind())[7:-1]) == kind()


def test_names_that_are_no_text_survive() -> None:
    payload = encode_method(1, methods.Queue.Purge(queue=b"\xff\x00"))[7:-1]
    again = encode_method(1, methods.Queue.Purge(queue=decode_method(payload).queue))
    assert again[7:-1] == payload


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="AMQP allows 255"):
        encode_method(1, methods.Queue.Purge(queue="q" * 256))
    with pytest.raises(OverflowError):
        encode_method(1, methods.Basic.Ack(2**64))


def test_an_unknown_method_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        decode_method(b"\0\0\0\0")
