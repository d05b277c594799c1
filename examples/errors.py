"""A call without a result ends in one exception that says why. Start first: ``warren serve errors:service``."""

import asyncio
import os

from warren import CallError, Client, Service

URL = os.environ.get("WARREN_URL", "amqp://localhost")


class Broke(Exception): ...


service = Service("bank", errors=[Broke])  # this class crosses the wire as itself


@service.method
async def withdraw(amount: int, delay: float = 0) -> int:
    await asyncio.sleep(delay)
    if amount > 100:
        raise Broke(f"{amount} is more than there is")
    return 100 // (amount - 13)  # a bug


if __name__ == "__main__":
    with Client(URL, timeout=0.5, errors=[Broke]) as client:
        for method, *arguments in (
            ("bank.withdraw", 500),  # Broke
            ("bank.withdraw", "five"),  # InvalidArgument: it does not fit the type hints
            ("bank.withdraw", 13),  # RemoteError: the handler raised something else
            ("bank.withdraw", 5, 60.0),  # DeadlineExceeded: the handler is cut off, too
            ("bank.rob", 5),  # MethodNotFound
            ("nobody.home", 5),  # Unavailable
        ):
            try:
                client.call(method, *arguments)
            except Broke as error:
                print("Broke:", error)
            except CallError as error:
                print(f"{type(error).__name__}, safe to retry: {error.safe_to_retry}. {error.message}")
