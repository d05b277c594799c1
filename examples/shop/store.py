"""A database behind a small class: a file that the workers of this machine share. A real shop opens a pool."""

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from threading import Lock

_TABLES = """
CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, count INTEGER, price INTEGER);
CREATE TABLE IF NOT EXISTS reservations (number TEXT PRIMARY KEY, item TEXT, count INTEGER);
CREATE TABLE IF NOT EXISTS payments (number TEXT PRIMARY KEY, amount INTEGER);
CREATE TABLE IF NOT EXISTS mails (number TEXT PRIMARY KEY, email TEXT, text TEXT);
CREATE TABLE IF NOT EXISTS orders (number TEXT PRIMARY KEY, basket TEXT, status TEXT, total INTEGER, placed REAL);
INSERT OR IGNORE INTO stock VALUES ('tea', 10000, 300), ('cake', 500, 450), ('unicorn', 0, 99);
"""


class Store:
    """One connection for all threads of a process; they take turns."""

    def __init__(self, path: str) -> None:
        self._lock = Lock()
        self._db = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(_TABLES)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block is done, or nothing; nobody else writes meanwhile."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()


@asynccontextmanager
async def open_store() -> AsyncIterator[Store]:
    """Open from before the first request until after the last: the lifespan of services that need nothing else."""
    store = Store(os.environ.get("SHOP_DB", "shop.sqlite3"))
    try:
        yield store
    finally:
        store.close()
