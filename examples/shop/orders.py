"""The orders: ``warren serve orders``. A class, as its methods share a database and a client of the others."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from contract import charge, release, reserve, send, settle
from model import Basket, Cancelled, CardDeclined, Order, SoldOut
from order_table import OrderTable
from store import open_store

from warren import AsyncClient, Service


class NoSuchOrder(Exception):
    """Nobody has placed an order of this number."""


orders = Service("orders", errors=[SoldOut, CardDeclined, Cancelled, NoSuchOrder])


@dataclass
class State:
    client: AsyncClient
    table: OrderTable


@orders.lifespan
async def lifespan() -> AsyncIterator[State]:
    url = os.environ.get("WARREN_URL", "amqp://localhost")  # set by `warren serve --url`, too
    async with open_store() as store, AsyncClient(url, name="orders", timeout=5) as client:
        yield State(client, OrderTable(store))


@orders.methods
class Orders:
    def __init__(self, client: AsyncClient, table: OrderTable) -> None:
        self._client, self._table = client, table

    @orders.method(delivery="at-least-once", time_limit=15)
    async def place(self, number: str, basket: Basket) -> Order:
        """Place an order. Placed again under the same number it goes on where it was, so a caller may always repeat it.

        If it ends in any `CallError`, the order is open: place it again, or `finish` it.
        """
        order = self._table.add(number, basket)
        if order.status == "cancelled":  # and the answer that said why did not arrive
            raise Cancelled(number)
        if order.status == "paid":
            return order
        try:
            order.total = await self._client.call(reserve, number, basket.item, basket.count)
            await self._client.call(charge, number, basket.card, order.total)
        except (SoldOut, CardDeclined):
            await self.finish(number)
            raise
        return await self._paid(order)

    @orders.method(delivery="at-least-once")
    async def finish(self, number: str) -> Order:
        """Give an open order its end: paid if the bank says so, else cancelled and never charged."""
        order = self.find(number)
        if order.status != "open":
            return order
        order.total = await self._client.call(settle, number)
        if order.total:
            return await self._paid(order)
        await self._client.call(release, number)
        return self._table.end(order, "cancelled")

    async def _paid(self, order: Order) -> Order:
        await self._client.cast(send, order.number, order.basket.email, "Thank you!")
        return self._table.end(order, "paid")

    def find(self, number: str) -> Order:
        order = self._table.find(number)
        if order is None:
            raise NoSuchOrder(number)
        return order

    def unfinished(self, older_than: float) -> list[str]:
        """The numbers of open orders that were placed so many seconds ago, or more."""
        return self._table.unfinished(older_than)
