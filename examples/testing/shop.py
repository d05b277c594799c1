"""A service that is tested: ``warren serve shop:service`` serves it, ``pytest`` in this folder runs its tests."""

import time
from typing import Annotated

from msgspec import Meta

from warren import Service, current_call


class SoldOut(Exception):
    """There is not enough on the shelf."""

    def __init__(self, article: str) -> None:
        super().__init__(article)


service = Service("shop", errors=[SoldOut])
shelf: dict[str, int] = {}


@service.method
def buy(article: str, count: Annotated[int, Meta(ge=1)] = 1) -> int:
    """Take so many off the shelf; returns how many are left."""
    left = shelf.get(article, 0) - count
    if left < 0:
        raise SoldOut(article)
    shelf[article] = left
    return left


@service.method
def wrap(article: str) -> str:
    """Wrap a present, with care."""
    time.sleep(5)
    return f"a parcel with {article}"


@service.method(delivery="at-least-once")
def count_shelves() -> int:
    """Slow at the first attempt only. It may run twice: looking changes nothing."""
    if current_call().attempt == 1:
        time.sleep(5)
    return len(shelf)
