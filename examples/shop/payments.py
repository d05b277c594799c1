"""The money: ``warren serve payments``. The bank is made up; a real one is a client of its HTTP API."""

import asyncio
import random
from collections.abc import AsyncIterator

from contract import charge, paid, settle
from contract import payments as payments  # those who serve it find it here
from model import CardDeclined, Cents
from store import Store, open_store

from warren import provided


class Bank:
    """Declines the card "broke", takes ages over the card "slow", and knows each order once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def pay(self, order: str, card: str, amount: int) -> bool:
        await asyncio.sleep(random.uniform(0.001, 0.02))
        if card == "broke":
            return False
        booked = self.book(order, amount) == amount
        if card == "slow":
            await asyncio.sleep(60)  # paid, and we do not hear of it
        return booked

    def book(self, order: str, amount: int) -> int:
        """Book a payment unless there is one; returns what is booked then."""
        with self._store.transaction() as db:
            db.execute("INSERT OR IGNORE INTO payments VALUES (?, ?)", [order, amount])
        return self.booked(order)

    def booked(self, order: str) -> int:
        with self._store.transaction() as db:
            row = db.execute("SELECT amount FROM payments WHERE number = ?", [order]).fetchone()
        return int(row[0]) if row else 0


@payments.lifespan
async def lifespan() -> AsyncIterator[Bank]:
    async with open_store() as store:
        yield Bank(store)


@payments.implement(charge)
async def charge_card(order: str, card: str, amount: Cents, *, bank: Bank = provided()) -> None:
    if not await bank.pay(order, card, amount):
        raise CardDeclined(f"order {order}")


@payments.implement(paid)
async def paid_for(order: str, *, bank: Bank = provided()) -> Cents:
    return bank.booked(order)


@payments.implement(settle)
async def settle_payment(order: str, *, bank: Bank = provided()) -> Cents:
    return bank.book(order, 0)
