"""The service of RabbitMQ's tutorial six, as a Warren service.

Run it with ``warren serve fib:service --workers 2``, call it with ``warren call calc.fib 30``.
"""

from typing import Annotated

from msgspec import Meta

from warren import Service

service = Service("calc")


@service.method(default=True)  # also answers the tutorial's own clients
def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
    """The n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@service.method
def slow_fib(n: Annotated[int, Meta(ge=0, le=40)]) -> int:
    """The same by the tutorial's own recursion, which takes seconds from about 30 on."""
    return n if n < 2 else slow_fib(n - 1) + slow_fib(n - 2)
