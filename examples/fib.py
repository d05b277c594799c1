"""The service of RabbitMQ's tutorial six, as a Warren service: run it with ``warren serve fib:service``."""

from typing import Annotated

from msgspec import Meta

from warren import Service

service = Service("calc")


@service.method(default=True)
def fib(n: Annotated[int, Meta(ge=0, le=90)]) -> int:
    """The n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
