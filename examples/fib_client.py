"""Call the service of fib.py, blocking. Start that first: ``warren serve fib:service``."""

import os

from fib import fib
from warren import Client

URL = os.environ.get("WARREN_URL", "amqp://localhost")


def main() -> None:
    print("here:   ", fib(30))  # a plain function, as it was
    with Client(URL) as client:
        print("remote: ", client.call(fib, 30))  # checked by mypy: takes an int, returns an int
        print("by name:", client.call("calc.fib", 30))  # where the code is not shared
        print("in time:", client.options(timeout=2).call(fib, n=30))  # options are not arguments


if __name__ == "__main__":
    main()
