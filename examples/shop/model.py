"""What the shop talks about: types and errors, for callers and workers."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=1000)]
Cents = Annotated[int, Meta(ge=0)]
Status = Literal["open", "paid", "cancelled"]


@dataclass
class Basket:
    item: str
    count: Count
    card: str
    email: str


@dataclass
class Order:
    number: str
    basket: Basket
    status: Status
    total: Cents = 0


class SoldOut(Exception):
    """There is not enough in stock."""


class CardDeclined(Exception):
    """The bank does not pay, now or later."""


class Cancelled(Exception):
    """This order was cancelled before, and its number is used up."""
