"""The goods: ``warren serve inventory``. Each function bears to be run twice for one order, as contract.py promises."""

from contract import inventory as inventory  # those who serve it find it here
from contract import left, release, reserve
from model import Cents, Count, SoldOut
from store import Store, open_store

from warren import provided

inventory.lifespan(open_store)


@inventory.implement(left)
def left_of(item: str, *, store: Store = provided()) -> int:
    with store.transaction() as db:
        row = db.execute("SELECT count FROM stock WHERE item = ?", [item]).fetchone()
    return int(row[0]) if row else 0


@inventory.implement(reserve)
def put_aside(order: str, item: str, count: Count, *, store: Store = provided()) -> Cents:
    with store.transaction() as db:
        known = db.execute("INSERT OR IGNORE INTO reservations VALUES (?, ?, ?)", [order, item, count]).rowcount == 0
        if not known:
            taken = "UPDATE stock SET count = count - ? WHERE item = ? AND count >= ?"
            if not db.execute(taken, [count, item, count]).rowcount:
                raise SoldOut(item)
        price = db.execute("SELECT price FROM stock WHERE item = ?", [item]).fetchone()[0]
    return int(price) * count


@inventory.implement(release)
def put_back(order: str, *, store: Store = provided()) -> None:
    with store.transaction() as db:
        # Where there is no reservation yet, this one of nothing makes sure that none comes later.
        db.execute("INSERT OR IGNORE INTO reservations VALUES (?, NULL, 0)", [order])
        item, count = db.execute("SELECT item, count FROM reservations WHERE number = ?", [order]).fetchone()
        db.execute("UPDATE stock SET count = count + ? WHERE item = ?", [count, item])
        db.execute("UPDATE reservations SET count = 0 WHERE number = ?", [order])
