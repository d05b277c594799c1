"""Mail to customers: ``warren serve mail``. Nobody waits for it: orders sends its requests by `cast`."""

from contract import mail as mail  # those who serve it find it here
from contract import send, sent
from store import Store, open_store

from warren import provided

mail.lifespan(open_store)


@mail.implement(send)
def send_mail(order: str, email: str, text: str, *, store: Store = provided()) -> None:
    # A request may be run again after a worker was lost, and `orders` may ask twice: the order's number is the key.
    with store.transaction() as db:
        db.execute("INSERT OR IGNORE INTO mails VALUES (?, ?, ?)", [order, email, text])


@mail.implement(sent)
def sent_about(order: str, *, store: Store = provided()) -> list[str]:
    with store.transaction() as db:
        return [text for (text,) in db.execute("SELECT text FROM mails WHERE number = ?", [order])]
