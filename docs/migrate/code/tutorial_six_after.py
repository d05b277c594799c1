"""The same with Warren: ``warren serve tutorial_six_after``, then ``python tutorial_six_after.py``."""

import os

from warren import Client, Service

URL = os.environ.get("AMQP_URL", "amqp://localhost")
# A queue of its kind exists while servers of the tutorial run: DECLARE=no takes it as it is, and shares it with them.
service = Service("rpc_queue", errors=[ValueError], declare=os.environ.get("DECLARE") != "no")


@service.method(default=True)  # so that clients of the tutorial are served, too
def fib(n: int) -> int:
    if n < 0:
        raise ValueError("n must not be negative")
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def main() -> None:
    with Client(URL, timeout=10) as client:
        print("one: ", client.call(fib, 30))
        futures = [client.submit(fib, n) for n in range(10)]
        print("many:", [future.result() for future in futures])
        try:
            client.call(fib, -1)
        except ValueError as error:
            print("none:", error)


if __name__ == "__main__":
    main()
