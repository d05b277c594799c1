"""Celery: ``celery -A celery_before worker``, then ``python celery_before.py``."""

import os

from celery import Celery, group

app = Celery("celery_before", broker=os.environ.get("AMQP_URL", "amqp://localhost"), backend="rpc://")


@app.task
def fib(n):
    if n < 0:
        raise ValueError("n must not be negative")
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def main():
    print("one: ", fib.delay(30).get(timeout=10))
    print("many:", group(fib.s(n) for n in range(10))().get(timeout=10))
    try:
        fib.delay(-1).get(timeout=10)
    except ValueError as error:
        print("none:", error)


if __name__ == "__main__":
    main()
