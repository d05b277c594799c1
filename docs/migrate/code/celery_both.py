"""While both run: ``celery -A celery_both worker`` and ``warren serve celery_both``, with one function behind them."""

import os

from celery import Celery

from warren import Service

app = Celery("celery_before", broker=os.environ.get("AMQP_URL", "amqp://localhost"), backend="rpc://")
service = Service("calc", errors=[ValueError])


def fib(n: int) -> int:
    if n < 0:
        raise ValueError("n must not be negative")
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


app.task(fib, name="celery_before.fib")  # the name that its callers know
service.method(fib)
