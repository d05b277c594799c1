"""At night every order that was left open gets its end: ``python nightly.py [SECONDS]``, those older than that."""

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from orders import Orders

from warren import CallError, Client, remote

T = TypeVar("T")
R = TypeVar("R")


def each(
    client: Client, method: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T], in_flight: int = 20
) -> Iterator[Future[R]]:
    """Call a method with each item, so many at a time; yields their futures, done, in order."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        if len(waiting) == in_flight:
            yield waiting.popleft()
        waiting.append(client.submit(method, item))
    yield from waiting


def finish_all(client: Client, older_than: float) -> Counter[str]:
    """How many ended in what. What failed is tried again the next night."""
    numbers = client.call(remote(Orders).unfinished, older_than)
    ends: Counter[str] = Counter()
    for future in each(client, remote(Orders).finish, numbers):
        try:
            ends[future.result().status] += 1
        except CallError as error:
            print(error, file=sys.stderr)
            ends["failed"] += 1
    return ends


def main() -> int:
    older_than = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with Client(os.environ.get("WARREN_URL", "amqp://localhost"), name="nightly", timeout=10) as client:
        ends = finish_all(client, older_than)
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())) or "no open orders")
    return 1 if ends["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
