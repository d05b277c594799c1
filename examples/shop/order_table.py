"""The table of orders."""

import time
from typing import Literal

from model import Basket, Order
from msgspec import json
from store import Store


class OrderTable:
    """Orders in the database. Those that have an end keep it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, number: str, basket: Basket) -> Order:
        """Add an open order, or return the one of this number."""
        row = [number, json.encode(basket).decode(), "open", 0, time.time()]
        with self._store.transaction() as db:
            db.execute("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, ?)", row)
        order = self.find(number)
        assert order is not None
        return order

    def find(self, number: str) -> Order | None:
        with self._store.transaction() as db:
            row = db.execute("SELECT basket, status, total FROM orders WHERE number = ?", [number]).fetchone()
        if row is None:
            return None
        basket, status, total = row
        return Order(number, json.decode(basket, type=Basket), status, total)

    def end(self, order: Order, status: Literal["paid", "cancelled"]) -> Order:
        """Give an open order its end; returns it as it is then."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE orders SET status = ?, total = ? WHERE number = ? AND status = 'open'",
                [status, order.total, order.number],
            )
        ended = self.find(order.number)
        assert ended is not None
        return ended

    def unfinished(self, older_than: float) -> list[str]:
        before = time.time() - older_than
        with self._store.transaction() as db:
            rows = db.execute("SELECT number FROM orders WHERE status = 'open' AND placed <= ?", [before])
            return [number for (number,) in rows]
