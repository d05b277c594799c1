"""Keys that collide are found before they are decoded. What is bounded is counted, not timed."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from warren.protocol import codecs, collisions
from warren.protocol.codecs import JSON, MSGPACK, CodecError

#: CPython's hash of an integer is its remainder by this.
MODULUS = (1 << 61) - 1
MASK = (1 << 64) - 1
P1, P2, P5 = 11400714785074694791, 14029467366897019727, 2870177450012600261  # of tuples [Objects/tupleobject.c]


def rotated(x: int, by: int) -> int:
    return ((x << by) | (x >> (64 - by))) & MASK


def tuples_of_one_hash(count: int) -> list[tuple[int, int]]:
    before = rotated(((12345 - (2 ^ (P5 ^ 3527539))) * pow(P1, -1, 1 << 64)) & MASK, 33)
    found: list[tuple[int, int]] = []
    i = 0
    while len(found) < count:
        i += 1
        lane = ((before - rotated((P5 + i * P2) & MASK, 31) * P1) * pow(P2, -1, 1 << 64)) & MASK
        lane -= (lane >> 63) << 64
        if hash(lane) == lane and lane != -1:
            found.append((i, lane))
    return found


def walkers(bits: int = 13, count: int = 600) -> list[int]:
    """Integers of different hashes that walk along a row of others, in the order in which a dict tries its places."""
    size = 1 << bits
    row: list[int] = []
    place = 1
    for _ in range(size // 3):
        row.append(place)
        place = (5 * place + 1) % size
    taken, found, key = set(row), list[int](), size
    while len(found) < count:
        place, perturbed, steps = key % size, key, 0
        while place in taken and steps <= 200:
            perturbed >>= 5
            place, steps = (place * 5 + perturbed + 1) % size, steps + 1
        if steps > 200:
            found.append(key)
        key += 1
    return row + found


TUPLES = tuples_of_one_hash(2000)
WALKERS = walkers()
INTEGERS = [i * MODULUS for i in range(2000)]
UUIDS = [UUID(int=i * MODULUS) for i in range(1, 2000)]


def pairs(keys: Iterable[Any]) -> bytes:
    return msgspec.msgpack.encode(dict.fromkeys(keys))


def json_map(keys: Iterable[Any]) -> bytes:
    return msgspec.json.encode({str(key): None for key in keys})


class Model(pydantic.BaseModel):
    counts: dict[int, None] = {}
    seen: set[int] = set()


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int


ATTACKS: dict[str, tuple[str, Any, bytes]] = {
    "tuples, untyped": (MSGPACK, Any, b"\x91" + pairs(TUPLES)),
    "tuples, in a list": (MSGPACK, list[Any], b"\x91" + pairs(TUPLES)),
    "tuples, deep inside": (MSGPACK, Any, b"\x81\xa1a\x93\x01\xa1b" + pairs(TUPLES)),
    "tuples, in a large list": (MSGPACK, Any, b"\xdc\x01\x00" + b"\x01" * 255 + pairs(TUPLES)),
    "tuples, as the key of a large map": (MSGPACK, Any, pairs(range(100))[:-1] + pairs(TUPLES)),
    "tuples, typed": (MSGPACK, dict[tuple[int, int], None], pairs(TUPLES)),
    "tuples, in a set": (JSON, set[tuple[int, int]], msgspec.json.encode(TUPLES)),
    "tuples, in a frozenset": (MSGPACK, frozenset[tuple[int, ...]], msgspec.msgpack.encode(TUPLES)),
    "walkers": (MSGPACK, dict[int, str], msgspec.msgpack.encode(dict.fromkeys(WALKERS, "padding"))),
    "walkers, untyped": (MSGPACK, Any, b"\x92\xda\x80\x00" + b"a" * 0x8000 + pairs(WALKERS)),
    "walkers among names": (
        MSGPACK,
        dict[int | str, None],
        pairs([*WALKERS[:3000], *(f"name {i:5}" for i in range(2400))]),
    ),
    "integers": (JSON, dict[int, None], json_map(INTEGERS)),
    "integers, or nothing": (JSON, dict[int | None, Any] | None, json_map(INTEGERS)),
    "integers, in a set": (JSON, set[int], msgspec.json.encode(INTEGERS)),
    "integers, in a nested set": (JSON, list[frozenset[int | str]], b"[" + msgspec.json.encode(INTEGERS) + b"]"),
    "decimals": (JSON, dict[Decimal, None], json_map(INTEGERS)),
    "UUIDs": (JSON, dict[UUID, None], json_map(UUIDS)),
    "UUIDs, in a set": (MSGPACK, set[UUID], msgspec.msgpack.encode(UUIDS)),
    "a model's dict": (JSON, Model, b'{"counts":' + json_map(INTEGERS) + b"}"),
    "a model's set": (JSON, list[Model], b'[{"seen":' + msgspec.json.encode(INTEGERS) + b"}]"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_keys_that_collide_are_refused(attack: str) -> None:
    content_type, hint, body = ATTACKS[attack]
    assert len(body) > collisions.SMALL
    with pytest.raises(CodecError, match="collide"):
        codecs.decoder(content_type, hint)(body)


@pytest.mark.parametrize("attack", ["tuples, untyped", "integers", "integers, in a set"])
def test_keys_that_collide_are_refused_also_in_a_body_that_is_cut_off(attack: str) -> None:
    content_type, hint, body = ATTACKS[attack]
    with pytest.raises(CodecError, match=r"collide|is not JSON|is not msgpack|ends too early"):
        codecs.decoder(content_type, hint)(body[:-1])


def test_a_key_that_walks_far_is_counted_as_often_as_it_comes() -> None:
    row, walker = WALKERS[:-600], WALKERS[-1]
    assert codecs.decoder(MSGPACK)(pairs([*row, walker]))
    keys = [*row, *[walker] * 3000]
    body = b"\xdf" + len(keys).to_bytes(4) + b"".join(msgspec.msgpack.encode(key) + b"\xc0" for key in keys)
    with pytest.raises(CodecError, match="collide"):
        codecs.decoder(MSGPACK)(body)


def test_keys_that_collide_only_while_the_table_is_small_are_refused() -> None:
    others = range(1 << 40, (1 << 40) + 20_000)
    with pytest.raises(CodecError, match="collide"):
        codecs.decoder(MSGPACK, dict[int, None])(pairs([*WALKERS, *others]))


RNG = random.Random(7)
ORDINARY: dict[str, tuple[Any, Any]] = {
    "row numbers": (dict[int, int], {i: i for i in range(20_000)}),
    "random numbers": (dict[int, float], {RNG.getrandbits(60): 0.5 for _ in range(20_000)}),
    "Snowflake ids": (dict[int, int], {(i * 7919) << 22: i for i in range(20_000)}),
    "nanoseconds": (set[int], {1_700_000_000_000_000_000 + i * 10**9 for i in range(20_000)}),
    "prices": (dict[float, int], {i / 100: i for i in range(20_000)}),
    "halves": (dict[float, int], {i / 2: i for i in range(20_000)}),
    "UUIDs": (dict[UUID, int], {UUID(int=RNG.getrandbits(128)): 1 for _ in range(5_000)}),
    "a grid": (dict[tuple[int, int], int], {(i, j): 0 for i in range(100) for j in range(100)}),
    "names": (dict[str, Any], {f"key {i}": {"n": i} for i in range(20_000)}),
    "names, untyped": (Any, {f"key {i}": [i, {"a": b"\x91"}, 1.5, None, "text" * 20] for i in range(5_000)}),
    "numbers, untyped": (Any, {i: {-i: str(i)} for i in range(5_000)}),
    "many small maps": (list[dict[int, int]], [{j: j for j in range(40)} for _ in range(1_000)]),
    "points": (set[Point], {Point(i, -i) for i in range(2_000)}),
}


@pytest.mark.parametrize("case", ORDINARY)
def test_ordinary_keys_are_taken(case: str) -> None:
    hint, value = ORDINARY[case]
    body = msgspec.msgpack.encode(value)
    assert len(body) > collisions.SMALL
    assert codecs.decoder(MSGPACK, hint)(body) == value
    if hint is not Any and "grid" not in case:
        assert codecs.decoder(JSON, hint)(msgspec.json.encode(value)) == value


def test_the_same_value_many_times_is_no_collision() -> None:
    assert codecs.decoder(JSON, set[int])(b"[" + b"7," * 20_000 + b"7]") == {7}


@pytest.mark.parametrize("hint", [str, dict[str, int], list[int], dict[str, Any], set[str], Any])
def test_where_all_keys_are_salted_nothing_is_looked_at(hint: Any) -> None:
    assert collisions.Screen.of(hint, json=True) is None


def test_a_large_body_is_decoded_without_the_collector_and_leaves_it_as_it_was() -> None:
    body = b"\xdd\x00\x01\x00\x00" + b"\x90" * 0x10000
    gc.disable()
    try:
        codecs.decoder(MSGPACK)(body)
        assert not gc.isenabled()
    finally:
        gc.enable()
    codecs.decoder(MSGPACK)(body)
    assert gc.isenabled()
