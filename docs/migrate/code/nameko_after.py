"""The same with Warren: ``warren serve nameko_after``, then ``python nameko_after.py``."""

import os

from warren import Client, Service, remote

service = Service("calc", errors=[ValueError])


@service.methods
class Calc:
    def fib(self, n: int) -> int:
        if n < 0:
            raise ValueError("n must not be negative")
        a, b = 0, 1
        for _ in range(n):
            a, b = b, a + b
        return a


def main() -> None:
    fib = remote(Calc).fib  # or by name: client.call("calc.fib", 30)
    with Client(os.environ.get("AMQP_URL", "amqp://localhost"), timeout=10) as client:
        print("one: ", client.call(fib, 30))
        futures = [client.submit(fib, n) for n in range(10)]
        print("many:", [future.result() for future in futures])
        try:
            client.call(fib, -1)
        except ValueError as error:
            print("none:", error)


if __name__ == "__main__":
    main()
