"""What callers of the shop's services may ask: three of them as stubs, which import no database."""

from model import CardDeclined, Cents, Count, SoldOut

from warren import Service

inventory = Service("inventory", errors=[SoldOut], max_length=1000)
payments = Service("payments", errors=[CardDeclined], max_length=1000)
mail = Service("mail")


@inventory.stub
def left(item: str) -> int:
    """How many there are."""
    raise NotImplementedError


@inventory.stub(delivery="at-least-once")
def reserve(order: str, item: str, count: Count) -> Cents:
    """Put goods aside for an order, once however often it is asked; returns what they cost."""
    raise NotImplementedError


@inventory.stub(delivery="at-least-once")
def release(order: str) -> None:
    """Put back what is set aside for an order, for good."""
    raise NotImplementedError


@payments.stub(time_limit=2)
async def charge(order: str, card: str, amount: Cents) -> None:
    """Let the bank pay for an order, once. If the time is over, the bank may have paid: ask with `settle`."""
    raise NotImplementedError


@payments.stub
async def paid(order: str) -> Cents:
    """What was paid for an order so far."""
    raise NotImplementedError


@payments.stub(delivery="at-least-once")
async def settle(order: str) -> Cents:
    """What was paid for an order. If nothing, nothing ever will be: a charge that arrives later is declined."""
    raise NotImplementedError


@mail.stub(delivery="at-least-once", time_limit=10)
def send(order: str, email: str, text: str) -> None:
    """Send a mail about an order, once."""
    raise NotImplementedError


@mail.stub
def sent(order: str) -> list[str]:
    """What was sent about it."""
    raise NotImplementedError
