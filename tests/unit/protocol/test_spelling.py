"""Signatures are written as people write them: as the arguments travel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from warren import CurrentCall, Service, provided
from warren.protocol.signature import hints_of, method_of
from warren.protocol.spelling import signature_of


@dataclass
class Item:
    price: float


def place(item: str, qty: int = 1) -> int:
    return len(item) * qty


def bounded(n: Annotated[int, Meta(ge=0)], /, *, many: list[Annotated[int, Meta(le=9)]] | None = None) -> None: ...
def typed(items: dict[str, Item], mode: Literal["a.b", "c"] = "a.b", other: Any = None) -> None: ...
def long(text: str = "x" * 100, what: tuple[int, ...] = (1, 2)) -> None: ...
def bare(a, b=2): ...  # type: ignore[no-untyped-def]
def nothing() -> None: ...


@pytest.mark.parametrize(
    ("function", "written"),
    [
        (place, "place(item: str, qty: int = 1)"),
        (bounded, "bounded(n: int, /, *, many: list[int] | None = None)"),
        (typed, "typed(items: dict[str, Item], mode: Literal['a.b', 'c'] = 'a.b', other: Any = None)"),
        (long, "long(text: str = …, what: tuple[int, ...] = …)"),
        (bare, "bare(a, b=2)"),
        (nothing, "nothing()"),
    ],
)
def test_a_signature_is_written_without_modules_bounds_and_long_defaults(
    function: Callable[..., Any], written: str
) -> None:
    parameters = inspect.signature(function).parameters.values()

    shown = signature_of(function.__name__, parameters, hints_of("here", function))

    assert shown.replace("Optional[list[int]]", "list[int] | None") == written


def test_a_long_signature_is_cut() -> None:
    parameters = [inspect.Parameter(f"argument_{n}", inspect.Parameter.KEYWORD_ONLY) for n in range(200)]

    assert 300 <= len(signature_of("many", parameters, {})) <= 301


def test_what_is_provided_is_no_part_of_it() -> None:
    service = Service("shop")

    def pool() -> int:
        return 1

    @service.method(name="buy")
    def take(item: str, call: CurrentCall, db: int = provided(pool), qty: int = 1) -> int:
        return qty + db

    method = method_of(take)

    assert method.signature == "buy(item: str, qty: int = 1)"
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'item'; the signature is buy\(item"):
        method.encode_arguments("application/json", (), {})
